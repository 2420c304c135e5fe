"""The paper's head: a few anchor shapes per cell, each with the box, score and keypoints of one person."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..blocks import ConvBlock
from . import HeadOutput, priors_of_level, xyxy_from_centres

DEPTHWISE_LAYERS = 6


class AnchorHead(nn.Module):
    """YOLO-Pose head. ``anchors`` are (width, height) in pixels, for every level the same number A of shapes.

    ``keypoint_branch`` "depthwise": six depth-wise 3x3 convolutions with five 1x1 between them, then the prediction;
    "plain": the prediction alone.

    ``legacy_layout``: the published code stacks the A * (5 + C) channels of the box branch and the A * 3K of the
    keypoint branch and then cuts the stack into A equal parts, so that box and objectness of all anchors but the
    first come out of the keypoint branch. Weights of edgeai-yolov5 and yolov7-pose need that; new networks keep
    box and keypoint channels of each anchor together.
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
        super().__init__()
        shapes = {len(level) for level in anchors}
        if len(anchors) != len(strides) or len(shapes) != 1 or 0 in shapes:
            raise ValueError(
                f"anchors must be one list of (width, height) for each of {len(strides)} levels, all equally long; "
                f"got {anchors!r}"
            )
        if keypoint_branch not in ("depthwise", "plain"):
            raise ValueError(f"keypoint_branch must be 'depthwise' or 'plain', got {keypoint_branch!r}")
        self.strides, self.num_keypoints, self.num_classes = strides, num_keypoints, num_classes
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
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Biases of a network not yet trained: about 8 people in a 640-pixel image, keypoints at their own cell.

        The published code sets the objectness prior in terms of its box branch alone, which under its layout of
        channels pushes two keypoints (left eye and ear) far away and leaves two anchors of three without a prior;
        here the values go to the rows that are decoded as objectness.
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

    def scores(self, objectness: Tensor, classes: Tensor) -> Tensor:
        """(B, 1, n) and (B, C, n) logits -> (B, C, n) scores in 0..1, with one class too (as the reference does)."""
        return objectness.sigmoid() * classes.sigmoid()

    def decode_boxes(self, boxes: Tensor, priors: Tensor) -> Tensor:
        """(B, 4, n) encoded and their (B or 1, 5, n) priors -> (B, 4, n) xyxy in pixels of the network's input."""
        doubled = boxes.sigmoid() * 2
        centres = (doubled[:, :2] - 0.5 + priors[:, :2]) * priors[:, 2:3]
        return xyxy_from_centres(centres, doubled[:, 2:] * doubled[:, 2:] * priors[:, 3:5])

    def decode_keypoints(self, raw: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3K, n) encoded and their priors -> xy (B, K, 2, n) in pixels, scores (B, K, n) in 0..1.

        Linear and unbounded (paper, section 3.2): a keypoint may lie outside its box and outside the image.
        """
        encoded = raw.unflatten(1, (self.num_keypoints, 3))
        xy = (encoded[:, :, :2] * 2 - 0.5 + priors[:, None, :2]) * priors[:, None, 2:3]
        return xy, encoded[:, :, 2].sigmoid()

    def keypoint_logits(self, raw: Tensor, priors: Tensor) -> Tensor:
        """Logits of the keypoint scores, (B, K, n), for a loss; they need no priors."""
        return raw.unflatten(1, (self.num_keypoints, 3))[:, :, 2]


def depthwise_tower(channels: int, activation: str) -> nn.Sequential:
    """Depth-wise 3x3 and 1x1 convolutions in turn, beginning and ending with a depth-wise one."""
    layers: list[nn.Module] = []
    for index in range(DEPTHWISE_LAYERS):
        if index:
            layers.append(ConvBlock(channels, channels, 1, activation=activation))
        layers.append(ConvBlock(channels, channels, 3, groups=channels, activation=activation))
    return nn.Sequential(*layers)
