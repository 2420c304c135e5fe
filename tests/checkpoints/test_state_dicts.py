"""State dicts of mmpose and edgeai-yolox other than the golden ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import yolopose
from yolopose.runtime.errors import CheckpointError

MMPOSE = "mmpose_yoloxpose_s_narrow.pth"
EDGEAI = "edgeai_yolox_s_pose_ti_lite_narrow.pth"


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def repeated(state: dict[str, torch.Tensor], prefix: str, rows: int) -> None:
    """The first row of a prediction, ``rows`` times, on every level."""
    for level in range(3):
        for kind in ("weight", "bias"):
            tensor = state[f"{prefix}.{level}.{kind}"][:1]
            state[f"{prefix}.{level}.{kind}"] = tensor.repeat(rows, *[1] * (tensor.ndim - 1))


@pytest.mark.parametrize(("keypoints", "classes"), [(1, 1), (5, 3), (133, 2)])
def test_any_number_of_keypoints_and_classes(keypoints: int, classes: int, checkpoints: Path, tmp_path: Path) -> None:
    mmpose, edgeai = stored(checkpoints / MMPOSE), stored(checkpoints / EDGEAI)
    repeated(mmpose["state_dict"], "head.head_module.out_kpt", 2 * keypoints)
    repeated(mmpose["state_dict"], "head.head_module.out_kpt_vis", keypoints)
    repeated(mmpose["state_dict"], "head.head_module.out_cls", classes)
    repeated(edgeai["model"], "head.kpts_preds", 3 * keypoints)
    repeated(edgeai["model"], "head.cls_preds", classes)
    for document in (mmpose, edgeai):
        torch.save(document, tmp_path / "net.pth")
        net = yolopose.load(tmp_path / "net.pth")
        assert net.skeleton.num_keypoints == keypoints
        assert net.skeleton.name == f"generic-{keypoints}"
        assert len(net.classes) == classes
        assert len(set(net.skeleton.sigmas)) == 1


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


@pytest.mark.parametrize("spelling", ["{'act_cfg': {'type': 'ReLU'}}", "act_cfg=dict(type='ReLU')"])
def test_activation_and_size_from_the_config_of_mmpose(spelling: str, checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / MMPOSE)
    document["meta"] = {"cfg": f"{spelling}\ninput_size = (416, 416)"}
    torch.save(document, tmp_path / "net.pth")
    net = yolopose.load(tmp_path / "net.pth")
    assert (net.config.activation, net.input.size) == ("relu", 416)
    document["meta"] = {"cfg": "act_cfg=dict(type='GELU')"}
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="GELU"):
        yolopose.load(tmp_path / "net.pth")


def test_rows_that_are_no_whole_keypoints(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / EDGEAI)
    repeated(document["model"], "head.kpts_preds", 50)
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match="50 rows"):
        yolopose.load(tmp_path / "net.pth")


def test_missing_head(checkpoints: Path, tmp_path: Path) -> None:
    mmpose, edgeai = stored(checkpoints / MMPOSE), stored(checkpoints / EDGEAI)
    del mmpose["state_dict"]["head.head_module.out_cls.0.weight"], edgeai["model"]["head.cls_preds.0.weight"]
    for document in (mmpose, edgeai):
        torch.save(document, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match="is missing"):
            yolopose.load(tmp_path / "net.pth")


def test_a_network_of_uncommon_depth(checkpoints: Path, tmp_path: Path) -> None:
    """Two blocks in one long stage and three in the other: no depth multiplier gives that."""
    document = stored(checkpoints / EDGEAI)
    state = document["model"]
    document["model"] = {k: v for k, v in state.items() if not ("dark3" in k and ".m.2." in k)}
    torch.save(document, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"12 left over \(backbone\.csp4"):
        yolopose.load(tmp_path / "net.pth")
