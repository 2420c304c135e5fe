"""Configurations of the networks, and how one is built from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from yolopose.runtime.skeleton import COCO_17, Skeleton

from .blocks import ACTIVATIONS
from .csp_darknet import CSPDarknet, CSPDarknetP6
from .heads.anchor import AnchorHead
from .heads.anchor_free import AnchorFreeHead
from .input_spec import BGR_BYTES, RGB_UNIT, InputSpec
from .pan import PAN, PANP6
from .pose_net import PoseNet
from .yolov7_w6 import YOLOv7W6Backbone, YOLOv7W6Neck

FAMILIES = ("yolox-pose", "yolov5-pose", "yolov7-pose")
MAX_MULTIPLIER = 8.0  # of depth and width; the largest published networks have less than 2
HEADS = ("mmpose", "edgeai", "anchor")
P5_STRIDES = (8, 16, 32)
P6_STRIDES = (8, 16, 32, 64)
P6_WIDTHS = (64, 128, 256, 512, 768, 1024)

Anchors = tuple[tuple[tuple[float, float], ...], ...]

# Width and height in pixels, three per level: those of every published YOLOv5-P6 and YOLOv7-W6 pose network.
COCO_P6_ANCHORS: Anchors = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


@dataclass(frozen=True)
class NetConfig:
    """Everything that decides the layers of a network and the meaning of its channels."""

    name: str
    family: str  # one of FAMILIES
    depth: float  # multiplies the number of bottlenecks of a stage
    width: float  # multiplies the channels
    input: InputSpec
    skeleton: Skeleton = COCO_17
    classes: tuple[str, ...] = ("person",)
    activation: str = "silu"  # "silu" | "relu"
    spp_activation: str = "silu"  # of the two convolutions around the pyramid pooling
    stem: str = "focus"  # "focus" | "conv-focus"
    focus_order: str = "columns"  # "columns" | "rows", see blocks.Focus
    head: str = "mmpose"  # "mmpose" | "edgeai" (anchor-free) | "anchor"
    keypoint_branch: str = "depthwise"  # "depthwise" | "plain"; anchor head only
    legacy_layout: bool = False  # channels as in edgeai-yolov5 and yolov7; anchor head only
    anchors: Anchors = ()  # anchor head only

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}")
        if self.head not in HEADS or (self.head == "anchor") == (self.family == "yolox-pose"):
            raise ValueError(f"a {self.family} network cannot have the head {self.head!r}")
        if not (0 < self.depth <= MAX_MULTIPLIER and 0 < self.width <= MAX_MULTIPLIER):
            raise ValueError(f"depth and width must lie in 0..{MAX_MULTIPLIER}, got {self.depth} and {self.width}")
        if self.activation not in ACTIVATIONS or self.spp_activation not in ACTIVATIONS:
            raise ValueError(f"activations must be {ACTIVATIONS}, got {self.activation!r}, {self.spp_activation!r}")
        if not self.classes:
            raise ValueError("a network needs at least one class")

    @property
    def repeats(self) -> tuple[int, int]:
        """Bottlenecks of the short and of the long stages."""
        return max(round(3 * self.depth), 1), max(round(9 * self.depth), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types only; ``from_dict`` gives an equal config back."""
        document = dict(vars(self))
        document["input"] = self.input.to_dict()
        document["skeleton"] = self.skeleton.to_dict()
        document["classes"] = list(self.classes)
        document["anchors"] = [[list(shape) for shape in level] for level in self.anchors]
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> NetConfig:
        """Inverse of ``to_dict``. Raises ValueError, TypeError or KeyError for a document of another make."""
        fields = dict(document)
        fields["input"] = InputSpec.from_dict(fields["input"])
        fields["skeleton"] = Skeleton.from_dict(fields["skeleton"])
        fields["classes"] = tuple(str(name) for name in fields["classes"])
        fields["anchors"] = tuple(tuple((float(w), float(h)) for w, h in level) for level in fields["anchors"])
        return cls(**fields)


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


def build(config: str | NetConfig, skeleton: Skeleton | None = None, classes: tuple[str, ...] | None = None) -> PoseNet:
    """A new network with random weights, in training mode.

    ``config``: a name in SIZES or a NetConfig. ``skeleton`` and ``classes`` replace those of the config.
    """
    if isinstance(config, str):
        if config not in SIZES:
            raise ValueError(f"there is no network called {config!r}; choose one of {', '.join(SIZES)}")
        config = SIZES[config]
    if skeleton is not None:
        config = replace(config, skeleton=skeleton)
    if classes is not None:
        config = replace(config, classes=tuple(classes))
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


def _anchor_head(config: NetConfig, channels: tuple[int, ...]) -> AnchorHead:
    return AnchorHead(
        channels, P6_STRIDES, config.anchors, config.skeleton.num_keypoints, len(config.classes),
        keypoint_branch=config.keypoint_branch, legacy_layout=config.legacy_layout, activation=config.activation,
    )  # fmt: skip


def _scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Channels times ``width``, rounded up to a multiple of 8."""
    return tuple(math.ceil(c * width / 8) * 8 for c in channels)
