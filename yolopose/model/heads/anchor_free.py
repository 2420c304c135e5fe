"""The anchor-free heads of YOLOX-Pose (mmpose and edgeai-yolox), which differ in depth, offsets and score channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..blocks import ConvBlock
from .base import PRIOR_LOGIT, Head, HeadOutput, fill_biases, priors_of_level, xyxy_from_centers


class AnchorFreeHead(Head):
    """Decoupled head: per level a 1x1 stem, then one tower of 3x3 convolutions each for classes, boxes and keypoints.

    ``variant``
        "mmpose": four convolutions in the keypoint tower. Channels are x, y of every keypoint (2K), then the
        visibility logits (K); x = (p + column) * stride.

        "edgeai": two convolutions in the keypoint tower. Channels are x, y, score of each keypoint;
        x = (2p - 0.5 + column) * stride. The logit of the score is (2p - 0.5) * stride: that head applies its affine
        decoding to the score channel as well, in training and in inference.
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
        super().__init__(strides, num_keypoints, num_classes)
        if variant not in ("mmpose", "edgeai"):
            raise ValueError(f"variant of an anchor-free head must be 'mmpose' or 'edgeai', got {variant!r}")
        self.variant = variant

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
        self._initialize()

    def _initialize(self) -> None:
        """Biases of an untrained network: few anchors hold a person, a keypoint lies at its own cell."""
        fill_biases(self.class_predictions, PRIOR_LOGIT)
        fill_biases(self.objectness_predictions, PRIOR_LOGIT)
        fill_biases(self.keypoint_predictions, 0.0 if self.variant == "mmpose" else 0.25)  # 2 * 0.25 - 0.5 = 0
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

    def decode_boxes(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """Center = (p + cell) * stride, size = exp(p) * stride."""
        grid, stride = priors[:, :2], priors[:, 2:3]
        return xyxy_from_centers((boxes[:, :2] + grid) * stride, boxes[:, 2:].exp() * stride)

    def decode_keypoints(self, raw: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """As the class describes for each variant."""
        grid, stride = priors[:, None, :2], priors[:, None, 2:3]
        if self.variant == "mmpose":
            xy = raw[:, : 2 * self.num_keypoints].unflatten(1, (self.num_keypoints, 2))
        else:
            xy = raw.unflatten(1, (self.num_keypoints, 3))[:, :, :2] * 2 - 0.5
        return (xy + grid) * stride, self.keypoint_logits(raw, priors).sigmoid()

    def keypoint_logits(self, raw: Tensor, priors: Tensor) -> Tensor:
        """As in ``Head``; those of "edgeai" depend on the priors."""
        if self.variant == "mmpose":
            return raw[:, 2 * self.num_keypoints :]
        return (raw.unflatten(1, (self.num_keypoints, 3))[:, :, 2] * 2 - 0.5) * priors[:, 2:3]
