"""State dicts of YOLOX-Pose files that a test changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import yolopose


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def repeat_rows(state: dict[str, torch.Tensor], prefix: str, rows: int) -> None:
    """Replace a prediction by its first row, repeated ``rows`` times, on every level."""
    for level in range(3):
        for kind in ("weight", "bias"):
            tensor = state[f"{prefix}.{level}.{kind}"][:1]
            state[f"{prefix}.{level}.{kind}"] = tensor.repeat(rows, *[1] * (tensor.ndim - 1))


def check_generic(path: Path, keypoints: int, classes: int) -> None:
    """The file gives a network with so many unnamed keypoints and classes."""
    net = yolopose.load(path)
    assert net.skeleton.num_keypoints == keypoints
    assert net.skeleton.name == f"generic-{keypoints}"
    assert len(net.classes) == classes
    assert len(set(net.skeleton.sigmas)) == 1
