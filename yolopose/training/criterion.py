"""What is trained: the network with its auxiliary branch, and the losses of its family."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from ..data.batch import People
from ..model.heads.anchor_free import AnchorFreeHead
from ..model.heads.distance import DistanceHead
from ..model.heads.output import HeadOutput
from ..model.pose_net import PoseNet
from .anchor_free_loss import AnchorFreeLoss
from .anchor_loss import AnchorLoss
from .distance_loss import DistanceLoss
from .heatmaps import Heatmaps
from .settings import LossSettings


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
