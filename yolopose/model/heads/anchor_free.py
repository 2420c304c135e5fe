"""The anchor-free heads of YOLOX-Pose: mmpose's and edgeai-yolox's, which differ in depth, offset and score rules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..blocks import ConvBlock
from . import HeadOutput, priors_of_level, xyxy_from_centres

PRIOR_PROBABILITY = 0.01  # of objectness and class in a network not yet trained


class AnchorFreeHead(nn.Module):
    """Decoupled head: per level a 1x1 stem, then one tower of 3x3 convolutions for classes, boxes and keypoints each.

    ``variant`` "mmpose": four convolutions in the keypoint tower; raw keypoints are x, y of every keypoint (2K), then
    their visibility logits (K); x = (p + column) * stride. "edgeai": two convolutions; raw keypoints are x, y, score
    of each; x = (2p - 0.5 + column) * stride, and the score's logit is (2p - 0.5) * stride: that head applies its
    affine decoding to the score channel as well, in training and in inference.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        hidden: int,
        strides: tuple[int, ...],
        num_keypoints: int,
        num_classes: int,
        *,
        variant: str,
        activation: str,
    ) -> None:
        super().__init__()
        if variant not in ("mmpose", "edgeai"):
            raise ValueError(f"variant of an anchor-free head must be 'mmpose' or 'edgeai', got {variant!r}")
        self.strides, self.num_keypoints, self.num_classes, self.variant = strides, num_keypoints, num_classes, variant

        def tower(depth: int) -> nn.ModuleList:
            def blocks() -> nn.Sequential:
                return nn.Sequential(*(ConvBlock(hidden, hidden, 3, activation=activation) for _ in range(depth)))

            return nn.ModuleList(blocks() for _ in strides)

        def predict(out_channels: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv2d(hidden, out_channels, 1) for _ in strides)

        self.stems = nn.ModuleList(ConvBlock(c, hidden, activation=activation) for c in channels)
        self.class_towers = tower(2)
        self.box_towers = tower(2)
        self.keypoint_towers = tower(4 if variant == "mmpose" else 2)
        self.class_predictions = predict(num_classes)
        self.box_predictions = predict(4)
        self.objectness_predictions = predict(1)
        if variant == "mmpose":
            self.keypoint_predictions = predict(2 * num_keypoints)
            self.visibility_predictions = predict(num_keypoints)
        else:
            self.keypoint_predictions = predict(3 * num_keypoints)
        self._initialise()

    def _initialise(self) -> None:
        """Few anchors hold a person, and an untrained keypoint lies at its own cell."""
        prior = -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY)
        keypoint = 0.0 if self.variant == "mmpose" else 0.25  # 2 * 0.25 - 0.5 = 0
        fill_biases(self.class_predictions, prior)
        fill_biases(self.objectness_predictions, prior)
        fill_biases(self.keypoint_predictions, keypoint)
        if self.variant == "mmpose":
            fill_biases(self.visibility_predictions, 0.0)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        boxes, objectness, classes, keypoints, priors = [], [], [], [], []
        for level, feature in enumerate(features):
            x = self.stems[level](feature)
            box_features = self.box_towers[level](x)
            boxes.append(self.box_predictions[level](box_features).flatten(2))
            objectness.append(self.objectness_predictions[level](box_features).flatten(2))
            classes.append(self.class_predictions[level](self.class_towers[level](x)).flatten(2))
            keypoints.append(self._keypoints_of_level(level, x).flatten(2))
            priors.append(priors_of_level(x.shape[-2], x.shape[-1], (self.strides[level],), x))
        return HeadOutput(
            torch.cat(boxes, 2), torch.cat(objectness, 2), torch.cat(classes, 2), torch.cat(keypoints, 2),
            torch.cat(priors, 2),
        )  # fmt: skip

    def _keypoints_of_level(self, level: int, x: Tensor) -> Tensor:
        features = self.keypoint_towers[level](x)
        positions = self.keypoint_predictions[level](features)
        if self.variant == "edgeai":
            return positions
        return torch.cat((positions, self.visibility_predictions[level](features)), dim=1)

    def scores(self, objectness: Tensor, classes: Tensor) -> Tensor:
        """(B, 1, n) and (B, C, n) logits -> (B, C, n) scores in 0..1."""
        return objectness.sigmoid() * classes.sigmoid()

    def decode_boxes(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """(B, 4, n) encoded and their (B or 1, P, n) priors -> (B, 4, n) xyxy in pixels of the network's input."""
        grid, stride = priors[:, :2], priors[:, 2:3]
        return xyxy_from_centres((boxes[:, :2] + grid) * stride, boxes[:, 2:].exp() * stride)

    def decode_keypoints(self, raw: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3K, n) encoded and their priors -> xy (B, K, 2, n) in pixels, scores (B, K, n) in 0..1."""
        grid, stride = priors[:, None, :2], priors[:, None, 2:3]
        if self.variant == "mmpose":
            xy = raw[:, : 2 * self.num_keypoints].unflatten(1, (self.num_keypoints, 2))
        else:
            xy = raw.unflatten(1, (self.num_keypoints, 3))[:, :, :2] * 2 - 0.5
        return (xy + grid) * stride, self.keypoint_logits(raw, priors).sigmoid()

    def keypoint_logits(self, raw: Tensor, priors: Tensor) -> Tensor:
        """Logits of the keypoint scores, (B, K, n), for a loss."""
        if self.variant == "mmpose":
            return raw[:, 2 * self.num_keypoints :]
        return (raw.unflatten(1, (self.num_keypoints, 3))[:, :, 2] * 2 - 0.5) * priors[:, 2:3]


def fill_biases(predictions: nn.ModuleList, value: float) -> None:
    for conv in predictions:
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        nn.init.constant_(conv.bias, value)
