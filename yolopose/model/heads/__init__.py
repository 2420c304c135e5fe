"""Heads: the paper's with anchors, the anchor-free ones of YOLOX-Pose, and that of YOLOv8 and its successors.

What all heads return, and the grid of anchors that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class HeadOutput(NamedTuple):
    """Raw predictions of all N anchors, channel first, so that a deployed graph gathers before it decodes.

    Anchors are ordered by level (finest first), then by anchor shape, then row by row, as in the reference code bases.
    """

    boxes: Tensor  # (B, 4, N) float32, encoded; of a DistanceHead (B, 4 * bins, N)
    objectness: Tensor  # (B, 1, N) float32, logits; (B, 0, N) where the class scores alone decide
    classes: Tensor  # (B, C, N) float32, logits
    keypoints: Tensor  # (B, 3K, N) float32, encoded, in the head's own order of channels
    priors: Tensor  # (1, P, N) float32: column and row of the cell, stride [, width and height of the anchor], pixels


def as_rows(raw: HeadOutput) -> Tensor:
    """Everything that was predicted, (B, F, N): boxes, objectness, classes, keypoints."""
    parts = (raw.boxes, raw.objectness, raw.classes, raw.keypoints)
    return torch.cat([part for part in parts if part.shape[1]], dim=1)


def at_anchors(part: Tensor, images: Tensor, anchors: Tensor) -> Tensor:
    """Part (B, F, N) at M pairs of image and anchor, both (M,) -> (1, F, M), the form that heads decode."""
    return part[images, :, anchors].T[None]


def priors_of_level(height: int, width: int, constants: Sequence[float], like: Tensor) -> Tensor:
    """Anchors of one level, (1, 2 + len(constants), height * width): column, row, then the given constants.

    ``height`` and ``width`` may be symbolic, so nothing here turns them into Python numbers.
    """
    column = torch.arange(width, device=like.device).view(1, width).expand(height, width)
    row = torch.arange(height, device=like.device).view(height, 1).expand(height, width)
    grid = torch.stack((column, row)).to(torch.float32).reshape(2, height * width)
    fixed = torch.tensor(constants, dtype=torch.float32, device=like.device).view(-1, 1)
    return torch.cat((grid, fixed.expand(len(constants), height * width))).unsqueeze(0)


def xyxy_from_centres(centres: Tensor, sizes: Tensor) -> Tensor:
    """(B, 2, n) centres and (B, 2, n) sizes -> (B, 4, n) corners x1, y1, x2, y2."""
    half = sizes * 0.5
    return torch.cat((centres - half, centres + half), dim=1)
