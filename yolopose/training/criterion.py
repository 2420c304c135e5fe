"""What is trained: the network with its auxiliary heatmap branch, and the losses that belong to its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads import HeadOutput
from ..model.heads.anchor import AnchorHead
from ..model.heads.anchor_free import AnchorFreeHead
from ..model.heads.distance import DistanceHead
from ..model.pose_net import PoseNet
from .anchor_free_loss import AnchorFreeLoss
from .anchor_loss import AnchorLoss
from .distance_loss import DistanceLoss
from .distributed import mean_positives
from .head_loss import HeadLoss
from .settings import LossSettings

HEAD_LOSSES: Mapping[type[nn.Module], type[HeadLoss[Any]]] = {
    AnchorHead: AnchorLoss,
    AnchorFreeHead: AnchorFreeLoss,
    DistanceHead: DistanceLoss,
}

MIN_TARGET = 0.01  # of a heatmap; below it a cell is far from every labeled keypoint
FOCUS = 2.0  # quality focal loss: a cell is weighted by |target - prediction| to this power
PRIOR_BIAS = -4.0  # few cells hold a keypoint
MIN_WIDTH = 1.0  # strides; every keypoint must be visible in its own cell


class TrainingOutput(NamedTuple):
    """Output of one forward pass, input of the losses."""

    raw: HeadOutput
    heatmaps: Tensor | None  # (B, K, h, w) logits


class TrainableNet(nn.Module):
    """The network and the branch that exists in training only, as one module for the optimizer and for DDP."""

    def __init__(self, net: PoseNet, heatmaps: bool) -> None:
        super().__init__()
        self.net = net
        self.heatmaps: Heatmaps | None = None
        if heatmaps:
            channels: Any = net.neck.channels
            self.heatmaps = Heatmaps(channels[0], net.head.strides[0], net.skeleton.sigmas)

    def forward(self, images: Tensor) -> TrainingOutput:
        """images: (B, 3, H, W) float32 in the channel order and range of the network."""
        features = self.net.features(images)
        raw = self.net.head(features)
        return TrainingOutput(raw, None if self.heatmaps is None else self.heatmaps(features[0]))


class Criterion(nn.Module):
    """Weighted loss terms by name; the optimizer minimizes their sum."""

    def __init__(self, trainable: TrainableNet, settings: LossSettings) -> None:
        super().__init__()
        net = trainable.net
        self.head_loss = HEAD_LOSSES[type(net.head)](net.head, net.skeleton.sigmas, settings)
        # In a tuple: as an attribute the branch would be a part of the loss.
        self._heatmaps, self.heatmap_weight = (trainable.heatmaps,), settings.heatmaps

    def forward(self, predicted: TrainingOutput, people: People) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = self.head_loss(predicted.raw, people)
        (heatmaps,) = self._heatmaps
        if predicted.heatmaps is not None and heatmaps is not None:
            terms["heatmaps"] = self.heatmap_weight * heatmaps.loss(predicted.heatmaps, people)
        return terms


class Heatmaps(nn.Module):
    """Auxiliary branch: one logit per cell and keypoint from the finest features, (B, channels, h, w).

    Keypoint regression gives a gradient to the features at a body's center, but hardly any to the pixels of a wrist, so
    that a network trained from scratch predicts the mean pose for long. One 1x1 convolution on the finest level, used
    in training only, trains every cell (as in DirectPose and FCPose). The target of a cell is the OKS of a keypoint
    placed at its center.
    """

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
        """Scalar: a sum over cells divided by the number of labeled keypoints over all processes.

        Cells inside a crowd region or a person without labeled keypoints are left out, unless a keypoint of somebody
        else is near: where their keypoints are is unknown.
        """
        logits = logits.float()
        target = self.targets(people, logits.shape[2:])
        weight = (target - logits.detach().sigmoid()).abs() ** FOCUS
        weight = weight * ~(self._unknown(people, logits.shape[2:])[:, None] & (target < MIN_TARGET))
        terms = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")
        return terms / mean_positives(people.visible.sum())

    @torch.no_grad()
    def targets(self, people: People, shape_hw: Sequence[int]) -> Tensor:
        """(B, K, h, w) in 0..1: the highest OKS over the people of the image, at each cell's center."""
        x, y = self._centers(shape_hw, people.keypoints.device)
        scales = 2 * self.sigmas * people.areas.sqrt()[..., None]  # (B, G, K) px
        scales = scales.clamp(min=MIN_WIDTH * self.stride)[..., None]
        # The Gaussian is separable: one factor for columns, one for rows.
        columns = torch.exp(-0.5 * ((people.keypoints[..., :1] - x) / scales).square())
        rows = torch.exp(-0.5 * ((people.keypoints[..., 1:] - y) / scales).square())
        rows *= people.visible[..., None]
        target = columns.new_zeros(len(columns), columns.shape[2], len(y), len(x))
        for nth in range(columns.shape[1]):  # the nth person of every image at once
            torch.maximum(target, rows[:, nth, :, :, None] * columns[:, nth, :, None, :], out=target)
        return target

    def _centers(self, shape_hw: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """x (w,) and y (h,) of the cells' centers, px."""
        y, x = ((torch.arange(cells, device=device) + 0.5) * self.stride for cells in shape_hw)
        return x, y

    def _unknown(self, people: People, shape_hw: Sequence[int]) -> Tensor:
        """(B, h, w) bool: the cell's center lies in a crowd region or the box of a person without labeled keypoints."""
        x, y = self._centers(shape_hw, people.boxes.device)
        x1, y1, x2, y2 = people.boxes[..., None].unbind(2)
        hidden = people.ignore | (people.valid & ~people.visible.any(-1))
        columns, rows = (x > x1) & (x < x2) & hidden[..., None], (y > y1) & (y < y2)
        return (rows[..., :, None] & columns[..., None, :]).any(1)
