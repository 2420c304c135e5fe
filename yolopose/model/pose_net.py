"""The network: backbone, neck and head, from images to decoded predictions of every anchor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolopose.runtime.skeleton import Skeleton

from .heads.anchor import AnchorHead
from .heads.anchor_free import AnchorFreeHead
from .heads.distance import DistanceHead
from .input_spec import InputSpec
from .net_config import NetConfig


class Predictions(NamedTuple):
    """Decoded predictions of all N anchors, before non-maximum suppression; pixels of the network's input."""

    boxes: Tensor  # (B, N, 4) float32 xyxy
    scores: Tensor  # (B, N, C) float32 0..1, objectness times class where there is objectness
    keypoints: Tensor  # (B, N, K, 2) float32
    keypoint_scores: Tensor  # (B, N, K) float32 0..1


class PoseNet(nn.Module):
    """A pose network and the facts needed to use it; made by ``yolopose.build``, read by ``yolopose.load``.

    ``forward`` takes images (B, 3, H, W) float32 in the order and range of ``net.input``, H and W multiples of
    ``net.input.multiple``, and gives ``Predictions`` in training, evaluation and export alike; a loss works on
    ``net.head(net.features(images))``.
    """

    def __init__(
        self, config: NetConfig, backbone: nn.Module, neck: nn.Module, head: AnchorHead | AnchorFreeHead | DistanceHead
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.neck, self.head = backbone, neck, head
        # Where the weights came from; yolopose.load fills these in.
        self.source_format = "new"
        self.weights_sha256: str | None = None
        self.weights_licence: str | None = None

    @property
    def skeleton(self) -> Skeleton:
        return self.config.skeleton

    @property
    def classes(self) -> tuple[str, ...]:
        return self.config.classes

    @property
    def input(self) -> InputSpec:
        return self.config.input

    @property
    def one_to_one(self) -> bool:
        """Whether it gives each person once, and needs no NMS."""
        return self.config.table is not None and self.config.table.head.one_to_one

    def features(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) float32 -> one map (B, c, H / stride, W / stride) per level, finest first."""
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps

    def forward(self, images: Tensor) -> Predictions:
        if not torch.compiler.is_compiling():
            self._check(images)
        raw = self.head(self.features(images))
        boxes = self.head.decode_boxes(raw.boxes, raw.priors)
        scores = self.head.scores(raw.objectness, raw.classes)
        xy, keypoint_scores = self.head.decode_keypoints(raw.keypoints, raw.priors)
        return Predictions(
            boxes.transpose(1, 2), scores.transpose(1, 2), xy.permute(0, 3, 1, 2), keypoint_scores.transpose(1, 2)
        )

    def _check(self, images: Tensor) -> None:
        multiple = self.input.multiple
        if images.ndim != 4 or images.shape[1] != 3 or not torch.is_floating_point(images):
            raise ValueError(f"images must be (B, 3, H, W) float, got {tuple(images.shape)} {images.dtype}")
        if images.shape[2] % multiple or images.shape[3] % multiple or 0 in images.shape:
            raise ValueError(
                f"height and width of images must be multiples of {multiple}, got {tuple(images.shape[2:])}; "
                "letterbox them first (yolopose.runtime.letterbox)"
            )
