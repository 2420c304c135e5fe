"""The head of YOLOv8, YOLO11 and YOLO26 pose networks: no anchors, no objectness, boxes as distances to their sides."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..blocks import ConvBlock
from ..layer_table import DistanceSettings
from .base import PRIOR_LOGIT, Head, HeadOutput, fill_biases, priors_of_level

INITIAL_DISTANCE = 1.0  # bias of a distance, or of each bin, in an untrained network


class DistanceHead(Head):
    """Per level three towers of two convolutions each, for boxes, classes and keypoints.

    A box is four distances from the center of the cell to left, top, right and bottom, in strides. Each is the mean of
    a distribution over 0 .. bins - 1 (Generalized Focal Loss, Li et al. 2020, equation 4), or with one bin the number
    itself. Keypoint channels are x, y and visibility logit of each: x = (2p + column) * stride, with ``half_cell``
    x = (p + column + 0.5) * stride. There is no objectness; ``HeadOutput.objectness`` has no channels.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        settings: DistanceSettings,
        num_keypoints: int,
        num_classes: int,
        *,
        activation: str,
    ) -> None:
        super().__init__(strides, num_keypoints, num_classes)
        self.settings = settings

        def dense(incoming: int, outgoing: int) -> nn.Module:
            return ConvBlock(incoming, outgoing, 3, activation=activation)

        def depthwise(incoming: int, outgoing: int) -> nn.Module:
            return nn.Sequential(
                ConvBlock(incoming, incoming, 3, groups=incoming, activation=activation),
                ConvBlock(incoming, outgoing, activation=activation),
            )

        def towers(width: int, separable: bool = False) -> nn.ModuleList:
            layer = depthwise if separable else dense
            return nn.ModuleList(nn.Sequential(layer(c, width), layer(width, width)) for c in channels)

        def predict(width: int, outputs: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(width, outputs, 1) for _ in strides)

        self.box_towers = towers(settings.box_width)
        self.class_towers = towers(settings.class_width, settings.depthwise_classes)
        self.keypoint_towers = towers(settings.keypoint_width)
        self.box_predictions = predict(settings.box_width, 4 * settings.bins)
        self.class_predictions = predict(settings.class_width, num_classes)
        self.keypoint_predictions = predict(settings.keypoint_width, 3 * num_keypoints)
        self._initialize()

    def _initialize(self) -> None:
        """Biases of an untrained network: few cells hold a person, a keypoint lies at its own cell."""
        fill_biases(self.box_predictions, INITIAL_DISTANCE)
        fill_biases(self.class_predictions, PRIOR_LOGIT)
        fill_biases(self.keypoint_predictions, 0.0)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        boxes, classes, keypoints, priors = [], [], [], []
        for level, x in enumerate(features):
            boxes.append(self.box_predictions[level](self.box_towers[level](x)).flatten(2))
            classes.append(self.class_predictions[level](self.class_towers[level](x)).flatten(2))
            keypoints.append(self.keypoint_predictions[level](self.keypoint_towers[level](x)).flatten(2))
            priors.append(priors_of_level(x.shape[-2], x.shape[-1], (self.strides[level],), x))
        scores = torch.cat(classes, 2)
        return HeadOutput(torch.cat(boxes, 2), scores[:, :0], scores, torch.cat(keypoints, 2), torch.cat(priors, 2))

    def scores(self, objectness: Tensor, classes: Tensor) -> Tensor:
        """(B, C, n) class logits -> (B, C, n) scores in 0..1; ``objectness`` is empty."""
        return classes.sigmoid()

    def distances(self, boxes: Tensor) -> Tensor:
        """(B, 4 * bins, n) encoded boxes -> (B, 4, n) distances in strides."""
        bins = self.settings.bins
        if bins == 1:
            return boxes
        values = torch.arange(bins, dtype=torch.float32, device=boxes.device).view(1, 1, bins, 1)
        return (boxes.unflatten(1, (4, bins)).softmax(dim=2) * values).sum(dim=2)

    def decode_boxes(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """Side = (center of the cell -/+ distance) * stride."""
        distances = self.distances(boxes)
        centers, stride = priors[:, :2] + 0.5, priors[:, 2:3]
        return torch.cat(((centers - distances[:, :2]) * stride, (centers + distances[:, 2:]) * stride), dim=1)

    def decode_keypoints(self, raw: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """As the class describes, with and without ``half_cell``."""
        grid, stride = priors[:, None, :2], priors[:, None, 2:3]
        encoded = raw.unflatten(1, (self.num_keypoints, 3))
        xy = encoded[:, :, :2] + 0.5 if self.settings.half_cell else encoded[:, :, :2] * 2
        return (xy + grid) * stride, encoded[:, :, 2].sigmoid()
