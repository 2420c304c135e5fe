"""Checkpoints of edgeai-yolox other than the published one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import yolopose
from yolopose.runtime.errors import CheckpointError

from .state_dicts import check_generic, repeat_rows, stored

EDGEAI = "edgeai_yolox_s_pose_ti_lite_narrow.pth"


@pytest.mark.parametrize(("keypoints", "classes"), [(1, 1), (5, 3), (133, 2)])
def test_any_number_of_keypoints_and_classes(keypoints: int, classes: int, checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / EDGEAI)
    repeat_rows(document["model"], "head.kpts_preds", 3 * keypoints)
    repeat_rows(document["model"], "head.cls_preds", classes)
    torch.save(document, tmp_path / "net.pth")
    check_generic(tmp_path / "net.pth", keypoints, classes)


def test_half_precision_becomes_float32(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / EDGEAI)
    document["model"] = {k: v.half() if v.is_floating_point() else v for k, v in document["model"].items()}
    torch.save(document, tmp_path / "half.pth")
    net = yolopose.load(tmp_path / "half.pth")
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_batch_counters_may_be_absent(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / EDGEAI)
    document["model"] = {k: v for k, v in document["model"].items() if not k.endswith("num_batches_tracked")}
    torch.save(document, tmp_path / "net.pth")
    yolopose.load(tmp_path / "net.pth")


def test_rejects_rows_that_are_no_multiple_of_three(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / EDGEAI)
    repeat_rows(document["model"], "head.kpts_preds", 50)
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="has 50 rows, not a multiple of three"):
        yolopose.load(tmp_path / "net.pth")


def test_rejects_a_missing_head(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / EDGEAI)
    del document["model"]["head.cls_preds.0.weight"]
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="is missing"):
        yolopose.load(tmp_path / "net.pth")


def test_rejects_stages_of_unequal_depth(checkpoints: Path, tmp_path: Path) -> None:
    """Two blocks in one long stage and three in the other: no depth multiplier gives that."""
    document = stored(checkpoints / EDGEAI)
    state = document["model"]
    document["model"] = {k: v for k, v in state.items() if not ("dark3" in k and ".m.2." in k)}
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"12 left over \(backbone\.csp4"):
        yolopose.load(tmp_path / "net.pth")
