"""Backbone and neck as a table of layers, as YOLOv8 and its successors define their networks.

``LayerTable`` holds the rows in plain values that a checkpoint can store; ``backbone_and_neck`` builds the modules.
The tables come from checkpoints (``yolopose.checkpoints.ultralytics``), therefore every value is validated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import SPP, AttentionBlock, Bottleneck, ConvBlock, CSPBlock, SplitGather, SplitJoin, upsample_2x

IMAGES = -1  # source of the first layer: the input of the network
KINDS = ("conv", "gather", "join-first", "join-second", "pool", "upsample", "concat")
BLOCKS = ("bottleneck", "csp", "attention", "bottleneck-attention")
KERNELS = (1, 3, 5, 7, 9)
CSP_REPEATS = 2  # bottlenecks of a CSP block inside a stage
# Upper limits of one network, several times what is published.
MAX_LAYERS, MAX_CHANNELS, MAX_BLOCKS, MAX_BINS = 200, 16_384, 300, 64


@dataclass(frozen=True)
class Layer:
    """One row. The fields that apply, by kind:

    conv                      kernel, stride
    gather                    hidden, block, repeats, shortcut, width: SplitGather
    join-first, join-second   the same: SplitJoin
    pool                      kernel, shortcut, linear: SPP
    upsample, concat          none, not even ``channels``
    """

    kind: str
    sources: tuple[int, ...]  # numbers of earlier layers; IMAGES for the first layer
    channels: int = 0  # of the output
    kernel: int = 1
    stride: int = 1
    hidden: int = 0  # channels of each half
    block: str = "bottleneck"  # kind of the blocks that one half passes through
    repeats: int = 1
    shortcut: bool = False
    width: int = 0  # channels inside a bottleneck
    linear: bool = False  # no activation before the pooling

    def __post_init__(self) -> None:
        numbers = (self.channels, self.kernel, self.stride, self.hidden, self.repeats, self.width, *self.sources)
        if not all(type(number) is int for number in numbers):
            raise ValueError(f"layer {self.kind!r}: its numbers must be integers, got {numbers}")
        if not type(self.shortcut) is type(self.linear) is bool:
            raise ValueError(f"layer {self.kind!r}: flags must be bool, got {self.shortcut!r} and {self.linear!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind of a layer must be one of {KINDS}, got {self.kind!r}")
        if self.block not in BLOCKS:
            raise ValueError(f"block of a layer must be one of {BLOCKS}, got {self.block!r}")
        if not self.sources or (self.kind != "concat" and len(self.sources) != 1):
            raise ValueError(f"a layer {self.kind!r} cannot have {len(self.sources)} inputs")
        if not all(0 <= number <= MAX_CHANNELS for number in (self.channels, self.hidden, self.width)):
            raise ValueError(
                f"channels must lie in 0..{MAX_CHANNELS}, got {self.channels}, hidden {self.hidden}, width {self.width}"
            )
        if not 1 <= self.repeats <= MAX_BLOCKS:
            raise ValueError(f"repeats must lie in 1..{MAX_BLOCKS}, got {self.repeats}")
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {KERNELS}, got {self.kernel}")
        if self.stride not in (1, 2):
            raise ValueError(f"stride must be 1 or 2, got {self.stride}")


@dataclass(frozen=True)
class DistanceSettings:
    """Everything that decides the layers of a ``heads.distance.DistanceHead``."""

    box_width: int  # channels of the towers
    class_width: int
    keypoint_width: int
    bins: int = 16  # of the distribution of a distance; 1: the distance itself
    depthwise_classes: bool = False  # the class tower consists of depth-wise convolutions
    half_cell: bool = False  # keypoints are offsets from the center of the cell, else doubled ones from its corner
    one_to_one: bool = False  # trained to give each person once: needs no NMS

    def __post_init__(self) -> None:
        widths = (self.box_width, self.class_width, self.keypoint_width)
        flags = (self.depthwise_classes, self.half_cell, self.one_to_one)
        if not all(type(number) is int for number in (*widths, self.bins)):
            raise ValueError(f"a head needs integers, got channels {widths} and {self.bins!r} bins")
        if not all(type(flag) is bool for flag in flags):
            raise ValueError(f"a head needs flags of type bool, got {flags}")
        if not all(1 <= number <= MAX_CHANNELS for number in widths):
            raise ValueError(f"a head needs 1 to {MAX_CHANNELS} channels, got {widths}")
        if not 1 <= self.bins <= MAX_BINS:
            raise ValueError(f"a head needs 1 to {MAX_BINS} bins, got {self.bins}")


@dataclass(frozen=True)
class LayerTable:
    """All rows in order, the numbers of the layers that feed the head (finest first), and the settings of the head."""

    layers: tuple[Layer, ...]
    levels: tuple[int, ...]
    head: DistanceSettings

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS or not self.levels:
            raise ValueError(
                f"a table needs 1 to {MAX_LAYERS} layers and at least one level, "
                f"got {len(self.layers)} layers and {len(self.levels)} levels"
            )
        if sum(layer.repeats + len(layer.sources) for layer in self.layers) > MAX_BLOCKS + 2 * MAX_LAYERS:
            raise ValueError(f"a table may have {MAX_BLOCKS} blocks and {2 * MAX_LAYERS} inputs at most")
        # Export folds the order and range of the input channels into this convolution.
        if (self.layers[0].kind, self.layers[0].sources) != ("conv", (IMAGES,)):
            raise ValueError("the first layer must be a convolution of the images")
        for number, layer in enumerate(self.layers[1:], 1):
            if not all(0 <= source < number for source in layer.sources):
                raise ValueError(f"layer {number} takes the output of {layer.sources}; sources must be earlier layers")
        if not all(type(level) is int and 0 <= level < len(self.layers) for level in self.levels):
            raise ValueError(f"the head takes the output of {self.levels}; there are {len(self.layers)} layers")
        self._check_channels()
        strides = self.strides
        if list(strides) != sorted(set(strides)):
            raise ValueError(f"levels must be ordered finest first without repetition, got strides {strides}")

    def _check_channels(self) -> None:
        """ValueError where a concatenation has too many channels, or a shortcut adds maps of unequal channels."""
        channels = {IMAGES: 3}
        for number, layer in enumerate(self.layers):
            incoming = sum(channels[source] for source in layer.sources)
            channels[number] = _output_channels(layer, incoming)
            if not 1 <= channels[number] <= MAX_CHANNELS:
                raise ValueError(f"layer {number} has {channels[number]} channels; 1 to {MAX_CHANNELS} are supported")
            if layer.kind == "pool" and layer.shortcut and incoming != layer.channels:
                raise ValueError(f"layer {number} adds {incoming} channels to {layer.channels}")

    @property
    def neck_begins(self) -> int:
        """Number of the first layer of the neck: the first upsampling."""
        kinds = [layer.kind for layer in self.layers]
        return kinds.index("upsample") if "upsample" in kinds else len(kinds)

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the levels in pixels, finest first."""
        every = self._strides()
        return tuple(every[level] for level in self.levels)

    @property
    def multiple(self) -> int:
        """Height and width of images must be multiples of this many pixels: the coarsest map has whole cells."""
        return max(self._strides().values())

    def _strides(self) -> dict[int, int]:
        """Stride of each layer. Raises ValueError where maps of unequal size meet, or a map is finer than the image."""
        strides = {IMAGES: 1}
        for number, layer in enumerate(self.layers):
            incoming = {strides[source] for source in layer.sources}
            if len(incoming) != 1:
                raise ValueError(f"layer {number} joins maps of strides {sorted(incoming)}")
            stride = incoming.pop() * layer.stride
            if layer.kind == "upsample":
                if stride % 2:
                    raise ValueError(f"layer {number} is finer than the images")
                stride //= 2
            strides[number] = stride
        return strides

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` returns an equal table."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> LayerTable:
        """Inverse of ``to_dict``. Raises ValueError, TypeError or KeyError for an invalid document."""
        layers = tuple(Layer(**{**row, "sources": tuple(row["sources"])}) for row in document["layers"])
        return cls(layers, tuple(document["levels"]), DistanceSettings(**document["head"]))


class LayerStack(nn.Module):
    """Consecutive rows of a table as modules, stored under their numbers.

    ``inputs``: channels of each map that comes from outside, by layer number (IMAGES: the images).
    ``outputs``: numbers of the layers whose maps ``forward`` returns.
    """

    def __init__(
        self, rows: Mapping[int, Layer], inputs: Mapping[int, int], outputs: tuple[int, ...], *, activation: str
    ) -> None:
        super().__init__()
        channels = dict(inputs)
        self.layers = nn.ModuleDict()
        for number, layer in rows.items():
            incoming = sum(channels[source] for source in layer.sources)
            channels[number] = _output_channels(layer, incoming)
            self.layers[str(number)] = _module(layer, incoming, activation)
        self.rows, self.inputs, self.outputs = dict(rows), tuple(inputs), outputs
        self.channels = tuple(channels[number] for number in outputs)

    def forward(self, maps: Tensor | list[Tensor]) -> list[Tensor]:
        """The maps of ``inputs``, in order -> the maps of ``outputs``."""
        found = dict(zip(self.inputs, [maps] if isinstance(maps, Tensor) else maps, strict=True))
        for number, layer in self.rows.items():
            sources = [found[source] for source in layer.sources]
            x = torch.cat(sources, dim=1) if len(sources) > 1 else sources[0]
            found[number] = upsample_2x(x) if layer.kind == "upsample" else self.layers[str(number)](x)
        return [found[number] for number in self.outputs]


def backbone_and_neck(table: LayerTable, *, activation: str) -> tuple[LayerStack, LayerStack]:
    """The backbone returns every map that the neck or the head uses; the neck returns the maps of the head."""
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


def _output_channels(layer: Layer, incoming: int) -> int:
    return incoming if layer.kind in ("upsample", "concat") else layer.channels


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


def _bottleneck_attention(layer: Layer, activation: str) -> nn.Module:
    return nn.Sequential(_bottleneck(layer, activation), _attention(layer, activation))


_BLOCKS: dict[str, Callable[[Layer, str], nn.Module]] = {
    "bottleneck": _bottleneck,
    "csp": _csp,
    "attention": _attention,
    "bottleneck-attention": _bottleneck_attention,
}
