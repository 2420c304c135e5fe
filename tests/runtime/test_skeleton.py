from __future__ import annotations

import pytest

from yolopose.runtime.skeleton import COCO_17, LSP_14, SKELETONS, Skeleton, generic_skeleton

THREE = Skeleton("three", ("head", "left_hand", "right_hand"), ((1, 2),), ((0, 1), (0, 2)), (0.1, 0.2, 0.2))


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_built_in_skeletons_are_symmetric(skeleton: Skeleton) -> None:
    mirror = skeleton.flip_index
    assert sorted(mirror) == list(range(skeleton.num_keypoints))
    assert all(mirror[mirror[index]] == index for index in mirror)
    for index, name in enumerate(skeleton.names):
        swapped = name.replace("left_", "*").replace("right_", "left_").replace("*", "right_")
        assert skeleton.names[mirror[index]] == swapped
        assert skeleton.sigmas[mirror[index]] == skeleton.sigmas[index]
    limbs = {frozenset(limb) for limb in skeleton.limbs}
    assert {frozenset((mirror[a], mirror[b])) for a, b in skeleton.limbs} == limbs
    assert {index for limb in skeleton.limbs for index in limb} == set(range(skeleton.num_keypoints))


def test_sigmas_equal_the_published_ones() -> None:
    assert (COCO_17.num_keypoints, LSP_14.num_keypoints) == (17, 14)
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    assert COCO_17.sigmas == pytest.approx(cocoeval.Params("keypoints").kpt_oks_sigmas.tolist())
    by_name = dict(zip(LSP_14.names, LSP_14.sigmas, strict=True))
    assert by_name["right_ankle"] == 0.089
    assert by_name["neck"] == by_name["head_top"] == 0.079


def test_to_dict_holds_json_values_in_the_order_of_the_fields() -> None:
    assert THREE.to_dict() == {
        "name": "three",
        "names": ["head", "left_hand", "right_hand"],
        "flip_pairs": [[1, 2]],
        "limbs": [[0, 1], [0, 2]],
        "sigmas": [0.1, 0.2, 0.2],
    }
    assert list(THREE.to_dict()) == ["name", "names", "flip_pairs", "limbs", "sigmas"]


def test_generic_skeleton_names_its_keypoints_and_checks_those_given() -> None:
    assert generic_skeleton(2).names == ("keypoint_0", "keypoint_1")
    assert generic_skeleton(2, ["left", "right"], ((0, 1),)).flip_index == (1, 0)
    with pytest.raises(ValueError, match="sigmas: 2 values for 3 keypoints"):
        generic_skeleton(2, ["a", "b", "c"])
