"""A network as a table of layers, as YOLOv8 and its successors describe themselves, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

IMAGES = -1  # as a source: the network's input
KINDS = ("conv", "gather", "join-first", "join-second", "pool", "upsample", "concat")
BLOCKS = ("bottleneck", "csp", "attention", "bottleneck-attention")
MAX_LAYERS, MAX_CHANNELS, MAX_REPEATS = 200, 16_384, 100  # several times what is published


@dataclass(frozen=True)
class Layer:
    """One row. Which fields count, by kind:

    conv                      kernel, stride
    gather                    hidden, block, repeats, shortcut, width: SplitGather
    join-first, join-second   the same: SplitJoin
    pool                      kernel, shortcut, linear: SPP
    upsample, concat          none, ``channels`` neither
    """

    kind: str
    sources: tuple[int, ...]  # numbers of earlier layers, or IMAGES
    channels: int = 0  # of the output
    kernel: int = 1
    stride: int = 1
    hidden: int = 0  # channels of each half
    block: str = "bottleneck"  # what one half goes through
    repeats: int = 1
    shortcut: bool = False
    width: int = 0  # channels inside a bottleneck
    linear: bool = False  # no activation before the pooling

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.block not in BLOCKS:
            raise ValueError(f"there is no layer {self.kind!r} of {self.block!r}")
        if not self.sources or (self.kind != "concat" and len(self.sources) != 1):
            raise ValueError(f"a layer {self.kind!r} of {len(self.sources)} inputs")
        if not all(0 <= number <= MAX_CHANNELS for number in (self.channels, self.hidden, self.width)):
            raise ValueError(f"a layer of {self.channels}, {self.hidden} and {self.width} channels")
        if not (1 <= self.repeats <= MAX_REPEATS and self.kernel in (1, 3, 5, 7, 9) and self.stride in (1, 2)):
            raise ValueError(f"{self.repeats} repeats, a kernel of {self.kernel}, a stride of {self.stride}")


@dataclass(frozen=True)
class DistanceSettings:
    """What decides the layers of a ``heads.distance.DistanceHead``."""

    box_width: int  # channels of the towers
    class_width: int
    keypoint_width: int
    bins: int = 16  # of the distribution of a distance; 1: the distance itself
    depthwise_classes: bool = False  # the tower of the classes is of depth-wise convolutions
    half_cell: bool = False  # keypoints are offsets from the cell's centre, not doubled ones from its corner
    one_to_one: bool = False  # trained to give each person once: needs no NMS

    def __post_init__(self) -> None:
        widths = (self.box_width, self.class_width, self.keypoint_width)
        if not all(1 <= number <= MAX_CHANNELS for number in widths) or not 1 <= self.bins <= 64:
            raise ValueError(f"a head of {widths} channels and {self.bins} bins")


@dataclass(frozen=True)
class LayerTable:
    """Rows in order, which of them the head looks at (finest first), and the head."""

    layers: tuple[Layer, ...]
    levels: tuple[int, ...]
    head: DistanceSettings

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS or not self.levels:
            raise ValueError(f"a table of {len(self.layers)} layers, {len(self.levels)} of them for the head")
        for number, layer in enumerate(self.layers):
            if not all(IMAGES <= source < number for source in layer.sources):
                raise ValueError(f"layer {number} takes the output of {layer.sources}, which is not before it")
        if not all(0 <= level < len(self.layers) for level in self.levels):
            raise ValueError(f"the head takes the output of {self.levels}, of {len(self.layers)} layers")
        strides = self.strides
        if list(strides) != sorted(set(strides)):
            raise ValueError(f"levels of strides {strides}; finest first is wanted, each once")

    @property
    def neck_begins(self) -> int:
        """The first layer of the neck: where maps are enlarged for the first time."""
        kinds = [layer.kind for layer in self.layers]
        return kinds.index("upsample") if "upsample" in kinds else len(kinds)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in pixels. Raises ValueError where maps of several sizes meet."""
        found: dict[int, float] = {IMAGES: 1.0}
        for number, layer in enumerate(self.layers):
            given = {found[source] for source in layer.sources}
            if len(given) != 1:
                raise ValueError(f"layer {number} joins maps of strides {sorted(given)}")
            found[number] = given.pop() * (0.5 if layer.kind == "upsample" else layer.stride)
        if any(found[level] != int(found[level]) for level in self.levels):
            raise ValueError("levels finer than the images")
        return tuple(int(found[level]) for level in self.levels)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LayerTable:
        layers = tuple(Layer(**{**row, "sources": tuple(row["sources"])}) for row in document["layers"])
        return cls(layers, tuple(document["levels"]), DistanceSettings(**document["head"]))
