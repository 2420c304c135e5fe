"""The head of the paper: a few anchor shapes per cell, each with the box, score and keypoints of one person."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..blocks import ConvBlock
from .base import Head, HeadOutput, priors_of_level, xyxy_from_centers

DEPTHWISE_LAYERS = 6


class AnchorHead(Head):
    """YOLO-Pose head (Maji et al. 2022).

    ``anchors``: (width, height) in pixels, the same number A of shapes for every level.

    ``keypoint_branch``: "depthwise" has six depth-wise 3x3 convolutions with five 1x1 convolutions between them before
    the prediction; "plain" has the prediction only.

    ``legacy_layout``: the published code concatenates the A * (5 + C) channels of the box branch and the A * 3K of the
    keypoint branch, then cuts the result into A equal parts. Box and objectness of all anchors but the first therefore
    come from the keypoint branch. Weights of edgeai-yolov5 and yolov7-pose need that layout; new networks keep the box
    and keypoint channels of each anchor together.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        anchors: tuple[tuple[tuple[float, float], ...], ...],
        num_keypoints: int,
        num_classes: int,
        *,
        keypoint_branch: str,
        legacy_layout: bool,
        activation: str,
    ) -> None:
        super().__init__(strides, num_keypoints, num_classes)
        shapes = {len(level) for level in anchors}
        if len(anchors) != len(strides) or len(shapes) != 1 or 0 in shapes:
            raise ValueError(
                f"anchors must be one list of (width, height) for each of {len(strides)} levels, all equally long; "
                f"got {anchors!r}"
            )
        if keypoint_branch not in ("depthwise", "plain"):
            raise ValueError(f"keypoint_branch must be 'depthwise' or 'plain', got {keypoint_branch!r}")
        self.legacy_layout, self.anchor_shapes = legacy_layout, anchors
        self.num_anchors = shapes.pop()
        self.box_width = 5 + num_classes  # channels of one anchor: 4 box, 1 objectness, C classes
        self.keypoint_width = 3 * num_keypoints
        self.box_predictions = nn.ModuleList(nn.Conv2d(c, self.num_anchors * self.box_width, 1) for c in channels)
        self.keypoint_towers = nn.ModuleList(
            depthwise_tower(c, activation) if keypoint_branch == "depthwise" else nn.Identity() for c in channels
        )
        self.keypoint_predictions = nn.ModuleList(
            nn.Conv2d(c, self.num_anchors * self.keypoint_width, 1) for c in channels
        )
        self._initialize()

    @torch.no_grad()
    def _initialize(self) -> None:
        """Biases of an untrained network: about 8 people in a 640-pixel image, keypoints at their own cell.

        The published code sets the objectness prior of the box branch only. With its channel layout this moves two
        keypoints (left eye and ear) far away and leaves two of three anchors without a prior. Here the values go to
        the channels that are decoded as objectness.
        """
        width = self.box_width + self.keypoint_width
        for level, stride in enumerate(self.strides):
            bias = torch.zeros(self.num_anchors, width)
            bias[:, 4] = math.log(8 / (640 / stride) ** 2)
            bias[:, 5 : self.box_width] = math.log(0.6 / (self.num_classes - 0.99))
            xy = bias[:, self.box_width :].view(self.num_anchors, self.num_keypoints, 3)[..., :2]
            xy.fill_(0.25)  # 2 * 0.25 - 0.5 = 0
            cut = self.num_anchors * self.box_width
            if self.legacy_layout:
                boxes, keypoints = bias.flatten()[:cut], bias.flatten()[cut:]
            else:
                boxes, keypoints = bias[:, : self.box_width].flatten(), bias[:, self.box_width :].flatten()
            for predictions, values in ((self.box_predictions, boxes), (self.keypoint_predictions, keypoints)):
                conv = predictions[level]
                assert isinstance(conv, nn.Conv2d)
                conv.bias = nn.Parameter(values.clone())

    def forward(self, features: list[Tensor]) -> HeadOutput:
        boxes: list[Tensor] = []  # (B, 5 + C, cells) of every level and anchor
        keypoints: list[Tensor] = []  # (B, 3K, cells)
        stacks: list[Tensor] = []  # (B, 5 + C + 3K, cells), legacy layout
        priors: list[Tensor] = []  # (1, 5, cells)
        for level, x in enumerate(features):
            box_map = self.box_predictions[level](x).flatten(2)
            keypoint_map = self.keypoint_predictions[level](self.keypoint_towers[level](x)).flatten(2)
            if self.legacy_layout:
                stacks += torch.cat((box_map, keypoint_map), dim=1).chunk(self.num_anchors, dim=1)
            else:
                boxes += box_map.chunk(self.num_anchors, dim=1)
                keypoints += keypoint_map.chunk(self.num_anchors, dim=1)
            for shape in self.anchor_shapes[level]:
                priors.append(priors_of_level(x.shape[-2], x.shape[-1], (self.strides[level], *shape), x))
        if self.legacy_layout:
            box_rows, keypoint_rows = torch.cat(stacks, dim=2).split((self.box_width, self.keypoint_width), dim=1)
        else:
            box_rows, keypoint_rows = torch.cat(boxes, dim=2), torch.cat(keypoints, dim=2)
        return HeadOutput(box_rows[:, :4], box_rows[:, 4:5], box_rows[:, 5:], keypoint_rows, torch.cat(priors, dim=2))

    def decode_boxes(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """Center = (2 * sigmoid - 0.5 + cell) * stride, size = (2 * sigmoid)^2 * anchor."""
        doubled = boxes.sigmoid() * 2
        centers = (doubled[:, :2] - 0.5 + priors[:, :2]) * priors[:, 2:3]
        return xyxy_from_centers(centers, doubled[:, 2:] * doubled[:, 2:] * priors[:, 3:5])

    def decode_keypoints(self, raw: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """x = (2p - 0.5 + cell) * stride, channels x, y, score of each keypoint.

        Linear and unbounded (paper, section 3.2): a keypoint may lie outside its box and outside the image.
        """
        encoded = raw.unflatten(1, (self.num_keypoints, 3))
        xy = (encoded[:, :, :2] * 2 - 0.5 + priors[:, None, :2]) * priors[:, None, 2:3]
        return xy, encoded[:, :, 2].sigmoid()


def depthwise_tower(channels: int, activation: str) -> nn.Sequential:
    """Depth-wise 3x3 and 1x1 convolutions in turn; the first and the last are depth-wise."""
    layers: list[nn.Module] = []
    for index in range(DEPTHWISE_LAYERS):
        if index:
            layers.append(ConvBlock(channels, channels, 1, activation=activation))
        layers.append(ConvBlock(channels, channels, 3, groups=channels, activation=activation))
    return nn.Sequential(*layers)
