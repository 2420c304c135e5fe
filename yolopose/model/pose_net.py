"""A whole network: from images to decoded predictions of every anchor, with batch norm folded, and its cost."""

from __future__ import annotations

import copy
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from yolopose.runtime.skeleton import Skeleton

from .blocks import ConvBlock
from .config import InputSpec, NetConfig
from .heads.base import Head

Net = TypeVar("Net", bound=nn.Module)


class Predictions(NamedTuple):
    """Decoded predictions of all N anchors, before non-maximum suppression; pixels of the network's input."""

    boxes: Tensor  # (B, N, 4) float32 xyxy
    scores: Tensor  # (B, N, C) float32 0..1, objectness times class where there is objectness
    keypoints: Tensor  # (B, N, K, 2) float32
    keypoint_scores: Tensor  # (B, N, K) float32 0..1


class PoseNet(nn.Module):
    """A pose network and the facts needed to use it; made by ``yolopose.build``, read by ``yolopose.load``.

    ``forward`` takes images (B, 3, H, W) float32 in the channel order and range of ``net.input``, H and W multiples of
    ``net.input.multiple``. It returns ``Predictions`` in training, evaluation and export alike; a loss uses
    ``net.head(net.features(images))``.
    """

    def __init__(self, config: NetConfig, backbone: nn.Module, neck: nn.Module, head: Head) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.neck, self.head = backbone, neck, head
        # Origin of the weights; yolopose.load sets these.
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
        """Whether the network gives each person once and therefore needs no NMS."""
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


def fuse_conv_bn(net: Net) -> Net:
    """A copy of ``net`` in evaluation mode with every batch norm folded into the convolution before it."""
    fused = copy.deepcopy(net).eval()
    for module in fused.modules():
        if isinstance(module, ConvBlock) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = _folded(module.conv, module.bn)
            module.bn = nn.Identity()
    return fused


@torch.no_grad()
def _folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias, equal to ``bn(conv(x))`` in evaluation mode; computed in float64."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    before = conv.bias.double() if conv.bias is not None else torch.zeros_like(bn.running_mean, dtype=torch.float64)
    bias = bn.bias.double() + (before - bn.running_mean.double()) * gain
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight.double() * gain.view(-1, 1, 1, 1)).to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return folded.requires_grad_(False)


def num_parameters(net: nn.Module) -> int:
    """Number of learnable values, including scale and shift of batch norm, without its running statistics."""
    return sum(parameter.numel() for parameter in net.parameters())


def gmacs(net: nn.Module, shape_hw: tuple[int, int], device: str = "meta") -> float:
    """Multiply-accumulates of one image of ``shape_hw`` pixels, in units of 10^9.

    Counts convolutions, linear layers and the matrix products of attention, without biases. thop, whose figures most
    papers and READMEs of these networks quote, adds four for every output of a batch norm (about one percent) and
    leaves out the products of attention.

    Runs on the ``meta`` device by default: shapes only, so a large network needs no time and no memory. A network whose
    forward pass looks at values needs ``device`` "cpu".
    """
    copied = copy.deepcopy(net).to(device).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copied(torch.zeros(1, 3, *shape_hw, device=device))
    return counter.get_total_flops() / 2e9  # two floating-point operations for each multiply-accumulate
