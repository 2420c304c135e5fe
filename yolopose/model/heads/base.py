"""The interface of all heads: raw predictions, how a head decodes them, and the grid of anchors they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIOR_PROBABILITY = 0.01  # of objectness and class in an untrained network: few anchors hold a person
PRIOR_LOGIT = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)


class HeadOutput(NamedTuple):
    """Raw predictions of all N anchors, channel first, so that a deployed graph can gather before it decodes.

    Anchors are ordered by level (finest first), then by anchor shape, then row by row, as in the reference code bases.
    """

    boxes: Tensor  # (B, 4, N) float32, encoded; of a DistanceHead (B, 4 * bins, N)
    objectness: Tensor  # (B, 1, N) float32, logits; (B, 0, N) for a head with class scores only
    classes: Tensor  # (B, C, N) float32, logits
    keypoints: Tensor  # (B, 3K, N) float32, encoded, channels in the order of the head
    priors: Tensor  # (1, P, N) float32: column and row of the cell, stride [, width and height of the anchor], pixels


class Head(nn.Module, ABC):
    """Feature maps -> raw predictions, and their decoding.

    Decoding works on any subset of n anchors, with the priors of the same anchors, (B or 1, P, n). Coordinates are
    pixels of the network's input. All tensors are float32.
    """

    def __init__(self, strides: tuple[int, ...], num_keypoints: int, num_classes: int) -> None:
        super().__init__()
        self.strides, self.num_keypoints, self.num_classes = strides, num_keypoints, num_classes

    @abstractmethod
    def forward(self, features: list[Tensor]) -> HeadOutput:
        """One map (B, c, H / stride, W / stride) per level, finest first -> raw predictions of all anchors."""

    @abstractmethod
    def decode_boxes(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """(B, 4 or 4 * bins, n) encoded boxes -> (B, 4, n) xyxy in pixels."""

    @abstractmethod
    def decode_keypoints(self, raw: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3K, n) encoded keypoints -> xy (B, K, 2, n) in pixels, scores (B, K, n) in 0..1."""

    def scores(self, objectness: Tensor, classes: Tensor) -> Tensor:
        """(B, 1, n) and (B, C, n) logits -> (B, C, n) scores in 0..1.

        The product of both, for one class too, as in the reference code bases.
        """
        return objectness.sigmoid() * classes.sigmoid()

    def keypoint_logits(self, raw: Tensor, priors: Tensor) -> Tensor:
        """(B, 3K, n) encoded keypoints -> logits of the keypoint scores, (B, K, n), for a loss."""
        return raw.unflatten(1, (self.num_keypoints, 3))[:, :, 2]


def as_rows(raw: HeadOutput) -> Tensor:
    """All predictions in one tensor, (B, F, N): boxes, objectness, classes, keypoints."""
    parts = (raw.boxes, raw.objectness, raw.classes, raw.keypoints)
    return torch.cat([part for part in parts if part.shape[1]], dim=1)


def at_anchors(part: Tensor, images: Tensor, anchors: Tensor) -> Tensor:
    """Part (B, F, N) at M pairs of image and anchor, both (M,) -> (1, F, M), the layout that heads decode."""
    return part[images, :, anchors].T[None]


def priors_of_level(height: int, width: int, constants: Sequence[float], like: Tensor) -> Tensor:
    """Anchors of one level, (1, 2 + len(constants), height * width): column, row, then the given constants.

    ``height`` and ``width`` may be symbolic, therefore nothing here converts them to Python numbers.
    """
    column = torch.arange(width, device=like.device).view(1, width).expand(height, width)
    row = torch.arange(height, device=like.device).view(height, 1).expand(height, width)
    grid = torch.stack((column, row)).to(torch.float32).reshape(2, height * width)
    fixed = torch.tensor(constants, dtype=torch.float32, device=like.device).view(-1, 1)
    return torch.cat((grid, fixed.expand(len(constants), height * width))).unsqueeze(0)


def xyxy_from_centers(centers: Tensor, sizes: Tensor) -> Tensor:
    """(B, 2, n) centers and (B, 2, n) sizes -> (B, 4, n) corners x1, y1, x2, y2."""
    half = sizes * 0.5
    return torch.cat((centers - half, centers + half), dim=1)


def fill_biases(predictions: nn.ModuleList, value: float) -> None:
    """Set every bias of the convolutions of all levels to ``value``."""
    for conv in predictions:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        nn.init.constant_(conv.bias, value)
