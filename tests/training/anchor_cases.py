"""A small anchor head, raw predictions and people for the tests of its loss."""

from __future__ import annotations

import torch

from yolopose.data.batch import People
from yolopose.model.heads import HeadOutput
from yolopose.model.heads.anchor import AnchorHead
from yolopose.model.sizes import COCO_P6_ANCHORS
from yolopose.training.anchor_loss import AnchorLoss
from yolopose.training.settings import LossSettings

SIGMAS = (0.05, 0.05, 0.1)
STRIDES = (8, 16, 32, 64)


def head(classes: int = 1, legacy: bool = False) -> AnchorHead:
    torch.manual_seed(0)
    return AnchorHead(
        (8,) * 4, STRIDES, COCO_P6_ANCHORS, len(SIGMAS), classes, keypoint_branch="plain", legacy_layout=legacy,
        activation="silu",
    )  # fmt: skip


def raw_of(head: AnchorHead, batch: int, size: int = 128, seed: int = 0, spread: float = 1.0) -> HeadOutput:
    """Raw predictions of random features, each part a leaf with a gradient of its own."""
    torch.manual_seed(seed)
    features = [spread * torch.randn(batch, 8, size // stride, size // stride) for stride in STRIDES]
    with torch.no_grad():
        raw = head(features)
    return HeadOutput(*(part.requires_grad_(index < 4) for index, part in enumerate(raw)))


def some_people(batch: int = 2, most: int = 3, classes: int = 1, seed: int = 1) -> People:
    torch.manual_seed(seed)
    corner, size = 90 * torch.rand(batch, most, 2), 10 + 80 * torch.rand(batch, most, 2)
    keypoints = corner[:, :, None] + size[:, :, None] * torch.rand(batch, most, len(SIGMAS), 2)
    return People(
        torch.cat((corner, corner + size), dim=-1), keypoints, torch.rand(batch, most, len(SIGMAS)) > 0.3,
        0.5 * size.prod(-1), torch.randint(classes, (batch, most)), torch.ones(batch, most, dtype=torch.bool),
        torch.zeros(batch, most, dtype=torch.bool),
    )  # fmt: skip


def nobody(batch: int = 2, most: int = 0) -> People:
    people = some_people(batch, most)
    return People(*(torch.zeros_like(part) for part in people))


def loss_of(head: AnchorHead, kind: str = "oks") -> AnchorLoss:
    return AnchorLoss(head, SIGMAS, LossSettings(keypoint_loss=kind))
