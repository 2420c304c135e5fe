"""The configuration of a network: its input and everything that decides its layers, as plain values.

A checkpoint of yolopose stores ``NetConfig.to_dict()`` as JSON; ``sizes.build`` makes the network from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from yolopose.runtime.contract import PAD_SIDES, skeleton_from_dict
from yolopose.runtime.skeleton import COCO_17, Skeleton

from .blocks import ACTIVATIONS
from .layer_table import LayerTable

CHANNEL_ORDERS = ("bgr", "rgb")
HEADS = {  # heads of each family
    "yolox-pose": ("mmpose", "edgeai"),
    "yolov5-pose": ("anchor",),
    "yolov7-pose": ("anchor",),
    "yolov8-pose": ("distance",),
    "yolo11-pose": ("distance",),
    "yolo26-pose": ("distance",),
}
FAMILIES = tuple(HEADS)
MAX_MULTIPLIER = 8.0  # of depth and width; the largest published networks have less than 2

Anchors = tuple[tuple[tuple[float, float], ...], ...]  # by level: (width, height) in pixels


@dataclass(frozen=True)
class InputSpec:
    """Input of a network: images (B, 3, H, W) float32, channels in ``channel_order``, bytes multiplied by ``scale``."""

    channel_order: str = "bgr"  # one of CHANNEL_ORDERS
    scale: float = 1.0  # 1.0: values 0..255; 1/255: values 0..1
    pad_value: int = 114  # gray level of the letterbox border, 0..255
    pad_side: str = "center"  # "center" | "bottom-right"
    multiple: int = 32  # height and width must be multiples of this many pixels
    size: int = 640  # square size in pixels that the weights were trained for

    def __post_init__(self) -> None:
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order must be one of {CHANNEL_ORDERS}, got {self.channel_order!r}")
        if self.pad_side not in PAD_SIDES:
            raise ValueError(f"pad_side must be one of {PAD_SIDES}, got {self.pad_side!r}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be a positive number, got {self.scale}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value must lie in 0..255, got {self.pad_value}")
        if self.multiple < 1 or self.size < self.multiple or self.size % self.multiple:
            raise ValueError(f"size must be a multiple of {self.multiple} pixels, got {self.size}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` returns an equal specification."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> InputSpec:
        """Inverse of ``to_dict``. Raises ValueError or TypeError for an invalid document."""
        return cls(**document)


# The two conventions of published networks.
RGB_UNIT = InputSpec(channel_order="rgb", scale=1 / 255, multiple=64, size=640)
BGR_BYTES = InputSpec(channel_order="bgr", scale=1.0, multiple=32, size=640)


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
    activation: str = "silu"  # one of blocks.ACTIVATIONS
    spp_activation: str = "silu"  # of the two convolutions around the pyramid pooling
    stem: str = "focus"  # "focus" | "conv-focus"
    focus_order: str = "columns"  # "columns" | "rows", see blocks.Focus
    head: str = "mmpose"  # one of HEADS[family]
    keypoint_branch: str = "depthwise"  # "depthwise" | "plain"; anchor head only
    legacy_layout: bool = False  # channels as in edgeai-yolov5 and yolov7; anchor head only
    anchors: Anchors = ()  # anchor head only
    table: LayerTable | None = None  # networks with a distance head only; their layers do not follow depth and width

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family must be one of {FAMILIES}, got {self.family!r}")
        if self.head not in HEADS[self.family]:
            raise ValueError(f"head of a {self.family} network must be one of {HEADS[self.family]}, got {self.head!r}")
        if (self.head == "distance") != (self.table is not None):
            raise ValueError(f"a layer table belongs to the head 'distance' and to no other; the head is {self.head!r}")
        if not (0 < self.depth <= MAX_MULTIPLIER and 0 < self.width <= MAX_MULTIPLIER):
            raise ValueError(f"depth and width must lie in 0..{MAX_MULTIPLIER}, got {self.depth} and {self.width}")
        if self.activation not in ACTIVATIONS or self.spp_activation not in ACTIVATIONS:
            raise ValueError(
                f"activations must be one of {ACTIVATIONS}, got {self.activation!r} and {self.spp_activation!r}"
            )
        if not self.classes:
            raise ValueError("a network needs at least one class")

    @property
    def repeats(self) -> tuple[int, int]:
        """Number of bottlenecks of the short and of the long stages."""
        return max(round(3 * self.depth), 1), max(round(9 * self.depth), 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` returns an equal config."""
        document = dict(vars(self))
        document["input"] = self.input.to_dict()
        document["skeleton"] = self.skeleton.to_dict()
        document["classes"] = list(self.classes)
        document["anchors"] = [[list(shape) for shape in level] for level in self.anchors]
        if self.table is None:
            del document["table"]  # as in files written before layer tables existed
        else:
            document["table"] = self.table.to_dict()
        return document

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> NetConfig:
        """Inverse of ``to_dict``. Raises ValueError, TypeError or KeyError for an invalid document."""
        fields = dict(document)
        fields["input"] = InputSpec.from_dict(fields["input"])
        fields["skeleton"] = skeleton_from_dict(fields["skeleton"])
        fields["classes"] = tuple(str(name) for name in fields["classes"])
        fields["anchors"] = tuple(tuple((float(w), float(h)) for w, h in level) for level in fields["anchors"])
        if "table" in fields:
            fields["table"] = LayerTable.from_dict(fields["table"])
        return cls(**fields)
