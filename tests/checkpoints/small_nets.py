"""Small networks, and yolopose checkpoints of them that a test changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import yolopose
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import SIZES, build


def small_net(name: str = "yolox-pose-nano", **changes: object) -> PoseNet:
    torch.manual_seed(0)
    return build(replace(SIZES[name], width=0.0625, **changes)).eval()


def saved(tmp_path: Path, **changes: Any) -> Path:
    """A yolopose checkpoint with some of its keys replaced."""
    path = tmp_path / "net.pt"
    yolopose.save(small_net(), path)
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    return path


def stored(tmp_path: Path) -> Any:
    """The content of a yolopose checkpoint."""
    return torch.load(saved(tmp_path), weights_only=True)
