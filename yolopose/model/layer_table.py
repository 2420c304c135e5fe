"""A network as a table of layers, as YOLOv8 and its successors describe themselves, in plain values.

Backbone and neck from a table of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import SPP, AttentionBlock, Bottleneck, ConvBlock, CSPBlock, SplitGather, SplitJoin, upsample_twice

IMAGES = -1  # as the source of the first layer: the network's input
KINDS = ("conv", "gather", "join-first", "join-second", "pool", "upsample", "concat")
BLOCKS = ("bottleneck", "csp", "attention", "bottleneck-attention")
MAX_LAYERS, MAX_CHANNELS, MAX_BLOCKS = 200, 16_384, 300  # of a network; several times what is published


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
    sources: tuple[int, ...]  # numbers of earlier layers; of the first one IMAGES
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
        numbers = (self.channels, self.kernel, self.stride, self.hidden, self.repeats, self.width, *self.sources)
        if not all(type(number) is int for number in numbers) or not type(self.shortcut) is type(self.linear) is bool:
            raise ValueError(f"a layer {self.kind!r} of {numbers}, {self.shortcut!r} and {self.linear!r}")
        if self.kind not in KINDS or self.block not in BLOCKS:
            raise ValueError(f"there is no layer {self.kind!r} of {self.block!r}")
        if not self.sources or (self.kind != "concat" and len(self.sources) != 1):
            raise ValueError(f"a layer {self.kind!r} of {len(self.sources)} inputs")
        if not all(0 <= number <= MAX_CHANNELS for number in (self.channels, self.hidden, self.width)):
            raise ValueError(f"a layer of {self.channels}, {self.hidden} and {self.width} channels")
        if not (1 <= self.repeats <= MAX_BLOCKS and self.kernel in (1, 3, 5, 7, 9) and self.stride in (1, 2)):
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
        flags = (self.depthwise_classes, self.half_cell, self.one_to_one)
        if not all(type(number) is int for number in (*widths, self.bins)) or not all(type(f) is bool for f in flags):
            raise ValueError(f"a head of {widths} channels, {self.bins!r} bins and {flags}")
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
        if sum(layer.repeats + len(layer.sources) for layer in self.layers) > MAX_BLOCKS + 2 * MAX_LAYERS:
            raise ValueError(f"more blocks or joints than any network here has, {MAX_BLOCKS}")
        if (self.layers[0].kind, self.layers[0].sources) != ("conv", (IMAGES,)):  # the one whose colours can be turned
            raise ValueError("the first layer is no convolution of the images")
        for number, layer in enumerate(self.layers[1:], 1):
            if not all(0 <= source < number for source in layer.sources):
                raise ValueError(f"layer {number} takes the output of {layer.sources}, which is no layer before it")
        if not all(type(level) is int and 0 <= level < len(self.layers) for level in self.levels):
            raise ValueError(f"the head takes the output of {self.levels}, of {len(self.layers)} layers")
        self._check_widths()
        strides = self.strides
        if list(strides) != sorted(set(strides)):
            raise ValueError(f"levels of strides {strides}; finest first is wanted, each once")

    def _check_widths(self) -> None:
        """ValueError where maps of too many channels meet, or an input is added to maps of other channels."""
        widths = {IMAGES: 3}
        for number, layer in enumerate(self.layers):
            incoming = sum(widths[source] for source in layer.sources)
            widths[number] = incoming if layer.kind in ("upsample", "concat") else layer.channels
            if not 1 <= widths[number] <= MAX_CHANNELS:
                raise ValueError(f"layer {number} has {widths[number]} channels")
            if layer.kind == "pool" and layer.shortcut and incoming != layer.channels:
                raise ValueError(f"layer {number} adds {incoming} channels to {layer.channels}")

    @property
    def neck_begins(self) -> int:
        """The first layer of the neck: where maps are enlarged for the first time."""
        kinds = [layer.kind for layer in self.layers]
        return kinds.index("upsample") if "upsample" in kinds else len(kinds)

    @property
    def strides(self) -> tuple[int, ...]:
        """Of the levels, in pixels, finest first."""
        every = self._strides()
        return tuple(every[level] for level in self.levels)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this many pixels: the coarsest map of all has whole cells."""
        return max(self._strides().values())

    def _strides(self) -> dict[int, int]:
        """By row. Raises ValueError where maps of several sizes meet, or are finer than the images."""
        found = {IMAGES: 1}
        for number, layer in enumerate(self.layers):
            given = {found[source] for source in layer.sources}
            if len(given) != 1:
                raise ValueError(f"layer {number} joins maps of strides {sorted(given)}")
            stride = given.pop() * layer.stride
            if layer.kind == "upsample":
                if stride % 2:
                    raise ValueError(f"layer {number} is finer than the images")
                stride //= 2
            found[number] = stride
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LayerTable:
        layers = tuple(Layer(**{**row, "sources": tuple(row["sources"])}) for row in document["layers"])
        return cls(layers, tuple(document["levels"]), DistanceSettings(**document["head"]))


CSP_REPEATS = 2  # bottlenecks of a CSP block inside a stage


class LayerStack(nn.Module):
    """Consecutive rows of a table, under their numbers: the outputs of ``given`` rows -> those of ``wanted`` rows."""

    def __init__(
        self,
        rows: Mapping[int, Layer],
        given: Mapping[int, int],
        wanted: tuple[int, ...],
        *,
        activation: str,
    ) -> None:
        """given: channels by row; IMAGES is the network's input."""
        super().__init__()
        widths = dict(given)
        self.layers = nn.ModuleDict()
        for number, layer in rows.items():
            incoming = sum(widths[source] for source in layer.sources)
            widths[number] = incoming if layer.kind in ("upsample", "concat") else layer.channels
            self.layers[str(number)] = _module(layer, incoming, activation)
        self.rows, self.given, self.wanted = dict(rows), tuple(given), wanted
        self.channels = tuple(widths[number] for number in wanted)

    def forward(self, maps: Tensor | list[Tensor]) -> list[Tensor]:
        found = dict(zip(self.given, [maps] if isinstance(maps, Tensor) else maps, strict=True))
        for number, layer in self.rows.items():
            sources = [found[source] for source in layer.sources]
            x = torch.cat(sources, dim=1) if len(sources) > 1 else sources[0]
            found[number] = upsample_twice(x) if layer.kind == "upsample" else self.layers[str(number)](x)
        return [found[number] for number in self.wanted]


def backbone_and_neck(table: LayerTable, *, activation: str) -> tuple[LayerStack, LayerStack]:
    """The neck takes from the backbone what its rows, or the head, look at."""
    first = table.neck_begins
    rows = dict(enumerate(table.layers))
    later = [source for number in range(first, len(rows)) for source in rows[number].sources] + list(table.levels)
    between = tuple(sorted({source for source in later if source < first}))
    backbone = LayerStack(
        {number: rows[number] for number in range(first)}, {IMAGES: 3}, between, activation=activation
    )
    neck = LayerStack(
        {number: rows[number] for number in range(first, len(rows))},
        dict(zip(between, backbone.channels, strict=True)),
        table.levels,
        activation=activation,
    )
    return backbone, neck


def _module(layer: Layer, incoming: int, activation: str) -> nn.Module:
    if layer.kind in ("upsample", "concat"):
        return nn.Identity()
    if layer.kind == "conv":
        return ConvBlock(incoming, layer.channels, layer.kernel, layer.stride, activation=activation)
    if layer.kind == "pool":
        return SPP(
            incoming, layer.channels, layer.kernel, activation=activation, linear=layer.linear, shortcut=layer.shortcut
        )
    blocks = [_BLOCKS[layer.block](layer, activation) for _ in range(layer.repeats)]
    if layer.kind == "gather":
        return SplitGather(incoming, layer.channels, layer.hidden, blocks, activation=activation)
    return SplitJoin(
        incoming, layer.channels, layer.hidden, blocks, first=layer.kind == "join-first", activation=activation
    )


def _bottleneck(layer: Layer, activation: str) -> nn.Module:
    return Bottleneck(layer.hidden, shortcut=layer.shortcut, activation=activation, kernel=3, hidden=layer.width)


def _csp(layer: Layer, activation: str) -> nn.Module:
    return CSPBlock(layer.hidden, layer.hidden, CSP_REPEATS, shortcut=layer.shortcut, activation=activation, kernel=3)


def _attention(layer: Layer, activation: str) -> nn.Module:
    return AttentionBlock(layer.hidden, shortcut=True, activation=activation)


_BLOCKS: dict[str, Callable[[Layer, str], nn.Module]] = {
    "bottleneck": _bottleneck,
    "csp": _csp,
    "attention": _attention,
    "bottleneck-attention": lambda layer, activation: nn.Sequential(
        _bottleneck(layer, activation), _attention(layer, activation)
    ),
}
