"""Auxiliary heat maps: while training, the finest features must also say where each kind of keypoint is.

A regressed pose gives the features of a body's centre a gradient, the wrist's own pixels hardly any, and a network from
scratch stays at the mean pose for long. One 1x1 convolution on the finest level (thrown away afterwards) teaches every
cell; DirectPose and FCPose train that way. The target of a cell is the OKS that a keypoint put there would have.

What is trained: the network with its auxiliary branch, and the losses of its family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads import HeadOutput
from ..model.heads.anchor_free import AnchorFreeHead
from ..model.heads.distance import DistanceHead
from ..model.pose_net import PoseNet
from .anchor_free_loss import AnchorFreeLoss
from .anchor_loss import AnchorLoss
from .distance_loss import DistanceLoss
from .processes import mean_positives
from .settings import LossSettings

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


class Trained(NamedTuple):
    """What one forward pass gives to the losses."""

    raw: HeadOutput
    heatmaps: Tensor | None  # (B, K, h, w) logits


class TrainableNet(nn.Module):
    """The network and the branch that only training needs, as one module for the optimizer and for DDP."""

    def __init__(self, net: PoseNet, heatmaps: bool) -> None:
        super().__init__()
        self.net = net
        self.heatmaps: Heatmaps | None = None
        if heatmaps:
            channels: Any = net.neck.channels
            self.heatmaps = Heatmaps(channels[0], net.head.strides[0], net.skeleton.sigmas)

    def forward(self, images: Tensor) -> Trained:
        """images: (B, 3, H, W) float32 in the network's own order and range."""
        features = self.net.features(images)
        raw = self.net.head(features)
        return Trained(raw, None if self.heatmaps is None else self.heatmaps(features[0]))


class Criterion(nn.Module):
    """Weighted losses by name; their sum is what the optimizer sees."""

    def __init__(self, trainable: TrainableNet, settings: LossSettings) -> None:
        super().__init__()
        head, sigmas = trainable.net.head, trainable.net.skeleton.sigmas
        self.head_loss: AnchorFreeLoss | AnchorLoss | DistanceLoss
        if isinstance(head, AnchorFreeHead):
            self.head_loss = AnchorFreeLoss(head, sigmas, settings)
        elif isinstance(head, DistanceHead):
            self.head_loss = DistanceLoss(head, sigmas, settings)
        else:
            self.head_loss = AnchorLoss(head, sigmas, settings)
        self.heatmaps, self.heatmaps_weight = [trainable.heatmaps], settings.heatmaps

    def forward(self, predicted: Trained, people: People) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.head_loss(predicted.raw, people)
        if predicted.heatmaps is not None and self.heatmaps[0] is not None:
            terms["heatmaps"] = self.heatmaps_weight * self.heatmaps[0].loss(predicted.heatmaps, people)
        return terms
