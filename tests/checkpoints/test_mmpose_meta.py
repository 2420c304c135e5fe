"""The skeleton inside an mmpose checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from yolopose.checkpoints.mmpose import skeleton_in
from yolopose.runtime.skeleton import LSP_14

TRIANGLE: dict[str, Any] = {
    "dataset_name": "triangle",
    "keypoint_id2name": {0: "left", 1: "right", 2: "top"},
    "flip_indices": [1, 0, 2],
    "skeleton_links": [(0, 2), (1, 2)],
    "sigmas": [0.05, 0.05, 0.1],
}


def test_a_skeleton_of_its_own() -> None:
    skeleton = skeleton_in({"dataset_meta": TRIANGLE})
    assert skeleton is not None
    assert skeleton.names == ("left", "right", "top")
    assert skeleton.flip_pairs == ((0, 1),)
    assert skeleton.limbs == ((0, 2), (1, 2))
    assert skeleton.sigmas == (0.05, 0.05, 0.1)


def test_known_names_are_the_built_in_skeleton() -> None:
    names = {index: name.replace(" ", "_") for index, name in enumerate(LSP_14.names)}
    assert skeleton_in({"dataset_meta": {"keypoint_id2name": names}}) is LSP_14


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        {"dataset_meta": {"dataset_name": "coco"}},
        {"dataset_meta": {**TRIANGLE, "sigmas": [0.05]}},
        {"dataset_meta": {**TRIANGLE, "flip_indices": [7, 0, 2]}},
        {"dataset_meta": {**TRIANGLE, "keypoint_id2name": {1: "left"}}},
        {"dataset_meta": {**TRIANGLE, "skeleton_links": 3}},
    ],
)
def test_nothing_where_the_description_is_not_whole(meta: Any) -> None:
    assert skeleton_in(meta) is None
