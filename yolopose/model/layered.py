"""Backbone and neck from a table of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from .blocks import SPP, Bottleneck, ConvBlock, CSPBlock, upsample_twice
from .layer_table import IMAGES, Layer, LayerTable
from .split_blocks import AttentionBlock, SplitGather, SplitJoin

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
