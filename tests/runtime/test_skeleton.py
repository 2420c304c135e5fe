from __future__ import annotations

import json
from pathlib import Path

import pytest

from yolopose.runtime.errors import DataError
from yolopose.runtime.skeleton import COCO_17, LSP_14, SKELETONS, Skeleton, skeleton_from_json

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


def test_counts_and_known_sigmas() -> None:
    assert (COCO_17.num_keypoints, LSP_14.num_keypoints) == (17, 14)
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    assert COCO_17.sigmas == pytest.approx(cocoeval.Params("keypoints").kpt_oks_sigmas.tolist())
    by_name = dict(zip(LSP_14.names, LSP_14.sigmas, strict=True))
    assert by_name["right_ankle"] == 0.089
    assert by_name["neck"] == by_name["head_top"] == 0.079


@pytest.mark.parametrize("skeleton", [COCO_17, LSP_14, THREE])
def test_document_round_trip(skeleton: Skeleton, tmp_path: Path) -> None:
    assert Skeleton.from_dict(skeleton.to_dict()) == skeleton
    path = tmp_path / "skeleton.json"
    path.write_text(json.dumps(skeleton.to_dict() | {"comment": "unknown keys are ignored"}))
    assert skeleton_from_json(path) == skeleton


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, "skeleton.names: a skeleton needs"),
        ({"names": ["a", "a", "b"]}, "skeleton.names: keypoint names must differ"),
        ({"names": ["a", 1, "b"]}, r"skeleton.names\[1\]: must be a text"),
        ({"names": "abc"}, "skeleton.names: must be a list"),
        ({"name": None}, "skeleton.name: must be a text"),
        ({"sigmas": [0.1, 0.1]}, "skeleton.sigmas: 2 values for 3"),
        ({"sigmas": [0.1, 0.1, 0]}, "skeleton.sigmas: must be positive"),
        ({"sigmas": [0.1, 0.1, float("nan")]}, "skeleton.sigmas: must be positive"),
        ({"sigmas": [0.1, 0.1, True]}, r"skeleton.sigmas\[2\]: must be a number"),
        ({"sigmas": [0.1, 0.1, 10**400]}, r"skeleton.sigmas\[2\]: must be a number that a float can hold"),
        ({"names": ["a", "\ud800", "b"]}, r"skeleton.names\[1\]: must be a text without lone surrogates"),
        ({"name": "\udcff"}, "skeleton.name: must be a text without lone surrogates"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "skeleton.flip_pairs: an index stands in two"),
        ({"flip_pairs": [[1, 3]]}, "skeleton.flip_pairs: .1, 3. is not two different"),
        ({"flip_pairs": [[1, 1]]}, "skeleton.flip_pairs: .1, 1. is not two different"),
        ({"limbs": [[-1, 1]]}, "skeleton.limbs"),
        ({"limbs": [[0, 1, 2]]}, r"skeleton.limbs\[0\]: must be two whole numbers"),
        ({"limbs": [[0, 1.0]]}, r"skeleton.limbs\[0\]: must be two whole numbers"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Skeleton.from_dict(THREE.to_dict() | changes)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b'{"name": "x"}'])
def test_damaged_files_are_data_errors(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "skeleton.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"skeleton\.json"):
        skeleton_from_json(path)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json"):
        skeleton_from_json(tmp_path / "nowhere.json")
