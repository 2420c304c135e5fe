"""Checkpoints of mmpose other than the published ones, and the skeleton inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import yolopose
from yolopose.checkpoints.mmpose import skeleton_in
from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import LSP_14

from .state_dicts import check_generic, repeat_rows, stored

MMPOSE = "mmpose_yoloxpose_s_narrow.pth"
TRIANGLE: dict[str, Any] = {
    "dataset_name": "triangle",
    "keypoint_id2name": {0: "left", 1: "right", 2: "top"},
    "flip_indices": [1, 0, 2],
    "skeleton_links": [(0, 2), (1, 2)],
    "sigmas": [0.05, 0.05, 0.1],
}


@pytest.mark.parametrize(("keypoints", "classes"), [(1, 1), (5, 3), (133, 2)])
def test_any_number_of_keypoints_and_classes(keypoints: int, classes: int, checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / MMPOSE)
    repeat_rows(document["state_dict"], "head.head_module.out_kpt", 2 * keypoints)
    repeat_rows(document["state_dict"], "head.head_module.out_kpt_vis", keypoints)
    repeat_rows(document["state_dict"], "head.head_module.out_cls", classes)
    torch.save(document, tmp_path / "net.pth")
    check_generic(tmp_path / "net.pth", keypoints, classes)


@pytest.mark.parametrize("spelling", ["{'act_cfg': {'type': 'ReLU'}}", "act_cfg=dict(type='ReLU')"])
def test_activation_and_size_come_from_the_config(spelling: str, checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / MMPOSE)
    document["meta"] = {"cfg": f"{spelling}\ninput_size = (416, 416)"}
    torch.save(document, tmp_path / "net.pth")
    net = yolopose.load(tmp_path / "net.pth")
    assert (net.config.activation, net.input.size) == ("relu", 416)
    document["meta"] = {"cfg": "act_cfg=dict(type='GELU')"}
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="GELU"):
        yolopose.load(tmp_path / "net.pth")


def test_rejects_a_missing_head(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / MMPOSE)
    del document["state_dict"]["head.head_module.out_cls.0.weight"]
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="is missing"):
        yolopose.load(tmp_path / "net.pth")


def test_reads_the_skeleton() -> None:
    skeleton = skeleton_in({"dataset_meta": TRIANGLE})
    assert skeleton is not None
    assert skeleton.names == ("left", "right", "top")
    assert skeleton.flip_pairs == ((0, 1),)
    assert skeleton.limbs == ((0, 2), (1, 2))
    assert skeleton.sigmas == (0.05, 0.05, 0.1)


def test_known_names_give_the_built_in_skeleton() -> None:
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
def test_incomplete_description_gives_no_skeleton(meta: Any) -> None:
    assert skeleton_in(meta) is None
