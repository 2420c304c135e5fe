"""Auxiliary heat maps: while training, the finest features must also say where each kind of keypoint is.

A regressed pose gives the features of a body's centre a gradient, the wrist's own pixels hardly any, and a network from
scratch stays at the mean pose for long. One 1x1 convolution on the finest level (thrown away afterwards) teaches every
cell; DirectPose and FCPose train that way. The target of a cell is the OKS that a keypoint put there would have.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batch import People
from .distributed import mean_positives

LEAST_TARGET = 0.01  # below, a cell is far from every labelled keypoint
FOCUS = 2.0  # |target - prediction| to this power weighs a cell: quality focal loss
PRIOR_BIAS = -4.0  # few cells hold a keypoint
LEAST_WIDTH = 1.0  # strides: a target must be seen by at least its own cell


class Heatmaps(nn.Module):
    """One logit a cell and keypoint from features (B, channels, h, w)."""

    sigmas: Tensor

    def __init__(self, channels: int, stride: int, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.stride = stride
        self.predict = nn.Conv2d(channels, len(sigmas), 1)
        assert self.predict.bias is not None
        nn.init.constant_(self.predict.bias, PRIOR_BIAS)
        self.register_buffer("sigmas", torch.tensor(sigmas, dtype=torch.float32), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """-> (B, K, h, w) logits."""
        logits: Tensor = self.predict(features)
        return logits

    def loss(self, logits: Tensor, people: People) -> Tensor:
        """Scalar; a sum over cells divided by the labelled keypoints over all processes.

        Cells within a crowd or a person without labelled keypoints teach nothing, save near keypoints of others: what
        is there is not known.
        """
        logits = logits.float()
        target = self.targets(people, logits.shape[2:])
        weight = (target - logits.detach().sigmoid()).abs() ** FOCUS
        weight = weight * ~(self._unknown(people, logits.shape[2:])[:, None] & (target < LEAST_TARGET))
        terms = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
        return terms / mean_positives(people.visible.sum())

    @torch.no_grad()
    def targets(self, people: People, shape_hw: Sequence[int]) -> Tensor:
        """(B, K, h, w) in 0..1: at each cell's centre the best OKS over the people of the picture."""
        x, y = self._centres(shape_hw, people.keypoints.device)
        scales = 2 * self.sigmas * people.areas.sqrt()[..., None]  # (B, G, K) px
        scales = scales.clamp(min=LEAST_WIDTH * self.stride)[..., None]
        # The Gaussian is separable: one factor for columns, one for rows.
        columns = torch.exp(-0.5 * ((people.keypoints[..., :1] - x) / scales).square())
        rows = torch.exp(-0.5 * ((people.keypoints[..., 1:] - y) / scales).square())
        rows *= people.visible[..., None]
        target = columns.new_zeros(len(columns), columns.shape[2], len(y), len(x))
        for nth in range(columns.shape[1]):  # the nth person of every picture at once
            torch.maximum(target, rows[:, nth, :, :, None] * columns[:, nth, :, None, :], out=target)
        return target

    def _centres(self, shape_hw: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Pixels of the cells' centres: (w,) and (h,)."""
        y, x = ((torch.arange(cells, device=device) + 0.5) * self.stride for cells in shape_hw)
        return x, y

    def _unknown(self, people: People, shape_hw: Sequence[int]) -> Tensor:
        """(B, h, w) bool: cells whose centre lies in the box of those whose keypoints nobody labelled."""
        x, y = self._centres(shape_hw, people.boxes.device)
        x1, y1, x2, y2 = people.boxes[..., None].unbind(2)
        hidden = people.ignore | (people.valid & ~people.visible.any(-1))
        columns, rows = (x > x1) & (x < x2) & hidden[..., None], (y > y1) & (y < y2)
        return (rows[..., :, None] & columns[..., None, :]).any(1)
