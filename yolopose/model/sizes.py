"""The named sizes, and how a network is built: from a configuration, or by widening a trained network.

Widening follows Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016: every
channel is repeated, and the next layer divides its weight among the copies. The wider network gives the same outputs,
so training continues from them instead of from random weights. The shares are unequal, so that the copies get
different gradients.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from yolopose.runtime.skeleton import Skeleton

from .config import BGR_BYTES, RGB_UNIT, Anchors, NetConfig
from .csp_darknet import PAN, PANP6, CSPDarknet, CSPDarknetP6
from .heads.anchor import AnchorHead
from .heads.anchor_free import AnchorFreeHead
from .heads.distance import DistanceHead
from .layer_table import LayerTable, backbone_and_neck
from .pose_net import PoseNet
from .yolov7_w6 import YOLOv7W6Backbone, YOLOv7W6Neck

P5_STRIDES = (8, 16, 32)
P6_STRIDES = (8, 16, 32, 64)
P6_WIDTHS = (64, 128, 256, 512, 768, 1024)
MIN_SHARE = 0.3  # added to a random share of 0..1 when a network is widened, so that no copy of a channel is near zero

# Width and height in pixels, three per level, as in all published YOLOv5-P6 and YOLOv7-W6 pose networks.
COCO_P6_ANCHORS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


def _yolox(name: str, depth: float, width: float, size: int = 640) -> NetConfig:
    return NetConfig(name, "yolox-pose", depth, width, replace(BGR_BYTES, size=size))


def _yolov5(name: str, depth: float, width: float, *, lite: bool) -> NetConfig:
    if not lite:
        return NetConfig(
            name, "yolov5-pose", depth, width, replace(RGB_UNIT, size=960), head="anchor", anchors=COCO_P6_ANCHORS
        )  # fmt: skip
    return NetConfig(
        name, "yolov5-pose", depth, width, RGB_UNIT, activation="relu", spp_activation="relu", stem="conv-focus",
        head="anchor", keypoint_branch="plain", anchors=COCO_P6_ANCHORS,
    )  # fmt: skip


_CONFIGS = (
    _yolox("yolox-pose-nano", 0.33, 0.25, 416),
    _yolox("yolox-pose-tiny", 0.33, 0.375, 416),
    _yolox("yolox-pose-s", 0.33, 0.5),
    _yolox("yolox-pose-m", 0.67, 0.75),
    _yolox("yolox-pose-l", 1.0, 1.0),
    _yolov5("yolov5s6-pose", 0.33, 0.5, lite=False),
    _yolov5("yolov5m6-pose", 0.67, 0.75, lite=False),
    _yolov5("yolov5l6-pose", 1.0, 1.0, lite=False),
    _yolov5("yolov5s6-pose-ti-lite", 0.33, 0.5, lite=True),
    _yolov5("yolov5m6-pose-ti-lite", 0.67, 0.75, lite=True),
    _yolov5("yolov5l6-pose-ti-lite", 1.0, 1.0, lite=True),
    NetConfig(
        "yolov7-w6-pose", "yolov7-pose", 1.0, 1.0, replace(RGB_UNIT, size=960), head="anchor", anchors=COCO_P6_ANCHORS
    ),
)
SIZES: dict[str, NetConfig] = {config.name: config for config in _CONFIGS}


def named(config: NetConfig) -> NetConfig:
    """``config`` with the name of the published size it equals, else a name made of family and multipliers."""
    for size in SIZES.values():
        same = replace(size, name=config.name, depth=config.depth) if size.repeats == config.repeats else size
        if (same.family, same.depth, same.width, same.stem) == (config.family, config.depth, config.width, config.stem):
            return replace(config, name=size.name)
    return replace(config, name=f"{config.family}-d{config.depth:.3g}-w{config.width:.3g}")


def build(config: str | NetConfig, skeleton: Skeleton | None = None, classes: tuple[str, ...] | None = None) -> PoseNet:
    """A new network with random weights, in training mode.

    ``config``: a name in SIZES or a NetConfig. ``skeleton`` and ``classes`` replace those of the config.
    Raises ValueError for an unknown name and for a config that describes no valid network.
    """
    if isinstance(config, str):
        if config not in SIZES:
            raise ValueError(f"there is no network called {config!r}; choose one of {', '.join(SIZES)}")
        config = SIZES[config]
    if skeleton is not None:
        config = replace(config, skeleton=skeleton)
    if classes is not None:
        config = replace(config, classes=tuple(classes))
    if config.table is not None:
        return _build_table(config, config.table)
    if config.family == "yolox-pose":
        return _build_yolox(config)
    if config.family == "yolov5-pose":
        return _build_yolov5(config)
    return _build_yolov7(config)


def _build_yolox(config: NetConfig) -> PoseNet:
    base, act = int(64 * config.width), config.activation
    backbone = CSPDarknet(
        base, config.repeats, stem=config.stem, focus_order=config.focus_order, activation=act,
        spp_activation=config.spp_activation,
    )  # fmt: skip
    neck = PAN(backbone.channels, config.repeats[0], activation=act)
    head = AnchorFreeHead(
        neck.channels, int(256 * config.width), P5_STRIDES, config.skeleton.num_keypoints, len(config.classes),
        variant=config.head, activation=act,
    )  # fmt: skip
    return PoseNet(config, backbone, neck, head)


def _build_yolov5(config: NetConfig) -> PoseNet:
    backbone = CSPDarknetP6(
        _scaled(P6_WIDTHS, config.width), config.repeats, stem=config.stem, focus_order=config.focus_order,
        activation=config.activation, spp_activation=config.spp_activation,
    )  # fmt: skip
    neck = PANP6(backbone.channels, config.repeats[0], activation=config.activation)
    return PoseNet(config, backbone, neck, _anchor_head(config, neck.channels))


def _build_yolov7(config: NetConfig) -> PoseNet:
    width, act = config.width, config.activation
    backbone = YOLOv7W6Backbone(
        _scaled(P6_WIDTHS, width), _scaled((64, 128, 256, 384, 512), width), focus_order=config.focus_order,
        activation=act,
    )  # fmt: skip
    neck = YOLOv7W6Neck(
        backbone.channels, _scaled((128, 256, 384, 512), width), _scaled((64, 128, 192, 256), width),
        _scaled((256, 512, 768, 1024), width), activation=act,
    )  # fmt: skip
    return PoseNet(config, backbone, neck, _anchor_head(config, neck.channels))


def _build_table(config: NetConfig, table: LayerTable) -> PoseNet:
    backbone, neck = backbone_and_neck(table, activation=config.activation)
    head = DistanceHead(
        neck.channels, table.strides, table.head, config.skeleton.num_keypoints, len(config.classes),
        activation=config.activation,
    )  # fmt: skip
    return PoseNet(config, backbone, neck, head)


def _anchor_head(config: NetConfig, channels: tuple[int, ...]) -> AnchorHead:
    return AnchorHead(
        channels, P6_STRIDES, config.anchors, config.skeleton.num_keypoints, len(config.classes),
        keypoint_branch=config.keypoint_branch, legacy_layout=config.legacy_layout, activation=config.activation,
    )  # fmt: skip


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Channels times ``width``, rounded up to a multiple of 8."""
    return tuple(math.ceil(c * width / 8) * 8 for c in channels)


def widened(net: PoseNet, factor: int, *, seed: int = 0) -> PoseNet:
    """A network with ``factor`` times the channels and the outputs of ``net`` up to rounding, in evaluation mode.

    The copies of a channel are adjacent, so that concatenations and additions need no special handling.
    Raises ValueError for a factor below 2, for a network made from a layer table, and for a network whose channels do
    not all grow by the factor (widths are rounded to multiples of 8).
    """
    if net.config.table is not None:
        raise ValueError(f"{net.config.name} cannot be widened: its layers come from a layer table")
    if factor < 2:
        raise ValueError(f"the factor of widening must be at least 2, got {factor}")
    config = named(replace(net.config, width=net.config.width * factor))
    wide = build(config)
    generator = torch.Generator().manual_seed(seed)
    narrow, tensors = net.state_dict(), {}
    for name, tensor in wide.state_dict().items():
        tensors[name] = _grown(narrow[name], tensor.shape, factor, generator, name)
    wide.load_state_dict(tensors)
    wide.weights_licence = net.weights_licence
    return wide.eval()


def _grown(tensor: Tensor, shape: torch.Size, factor: int, generator: torch.Generator, name: str) -> Tensor:
    """``tensor`` (outputs, inputs, kernel; or one value per channel) with its channels repeated to ``shape``."""
    fits = len(shape) == tensor.dim() and all(
        wide == narrow or (axis < 2 and wide == factor * narrow)
        for axis, (wide, narrow) in enumerate(zip(shape, tensor.shape, strict=False))
    )
    if not fits:
        raise ValueError(
            f"cannot widen by {factor}: {name} is {tuple(tensor.shape)}, and {tuple(shape)} in the wider network"
        )
    if tensor.dim() and shape[0] != tensor.shape[0]:
        tensor = tensor.repeat_interleave(factor, 0)
    if tensor.dim() > 1 and shape[1] != tensor.shape[1]:
        shares = torch.rand((tensor.shape[0], tensor.shape[1], factor), generator=generator) + MIN_SHARE
        shares = (shares / shares.sum(2, keepdim=True)).reshape(tensor.shape[0], -1, *(1 for _ in shape[2:]))
        tensor = tensor.repeat_interleave(factor, 1) * shares
    return tensor
