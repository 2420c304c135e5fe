"""Everything about an int8 graph but its nodes: which tensors are rounded where, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from .calibration import Samples
from .layers import MOVES, Body
from .ranges import Choice, Grid, choose, grid_of
from .readers import Readers, tensors_read
from .weights import RoundedWeights, round_weights

Target = Literal["cpu", "openvino", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class Int8Config:
    target: Target
    search_minutes: float = 10.0  # for the ranking of layers and the search together
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """``kept``: names of layers that stay float32. ``choices``: of every tensor that may be rounded."""

    target: Target
    body: Body
    choices: dict[str, Choice]
    weights: dict[str, RoundedWeights]  # by layer
    kept: frozenset[str] = frozenset()

    def keeping(self, layers: Iterable[str]) -> Plan:
        return replace(self, kept=frozenset(layers))

    def grid(self, tensor: str) -> Grid:
        return self.choices[tensor].grid


def tensors_to_round(body: Body, target: Target) -> list[str]:
    """Tensors that get a scale, in graph order.

    cpu: all, as ONNX Runtime computes in integers only where each operand and the result are rounded; but nothing
    between a convolution and its ReLU, which rounding to what is not negative contains. openvino and
    tensorrt: what convolutions read (SiLU is computed in floating point inside their kernels); tensorrt also what is
    added, so that a residual is added in the convolution's kernel.
    """
    if target == "cpu":
        wanted = {output for node in body.nodes for output in node.output}
        wanted -= {layer.output for layer in body.layers if layer.has_relu}
    else:
        wanted = {layer.input for layer in body.layers}
        if target == "tensorrt":
            wanted |= {name for node in body.nodes if node.op_type == "Add" for name in node.input}
    return [output for node in body.nodes for output in node.output if output in wanted]


def tensors_to_sample(body: Body, target: Target) -> list[str]:
    """What ``make_plan`` wants samples of, in graph order."""
    wanted = tensors_read(body).union(tensors_to_round(body, target))
    return [output for node in body.nodes for output in node.output if output in wanted]


def make_plan(
    body: Body, samples: dict[str, Samples], target: Target, tick: Callable[[Sequence[str]], Iterable[str]]
) -> Plan:
    """Choose all grids and round all weights.

    samples: of ``tensors_to_sample``; tick: hands on its items and shows how far they are.
    """
    symmetric = target == "tensorrt"
    leaders = _leaders(body, joined=symmetric)
    tensors = tensors_to_round(body, target)
    readers = Readers(body, samples)
    choices: dict[str, Choice] = {}
    for name in tick(tensors):
        choices[name] = choose(samples[name], readers.of(name), symmetric)
    for group in _groups(tensors, leaders):
        ranges = [choices[name].grid.range for name in group]
        whole = grid_of(min(low for low, _ in ranges), max(high for _, high in ranges), symmetric)
        choices |= {name: replace(choices[name], grid=whole) for name in group}
    weights = {
        layer.name: round_weights(layer, samples[layer.input], choices[layer.input].grid, pairs=target != "tensorrt")
        for layer in body.layers
    }
    return Plan(target, body, choices, weights)


def _leaders(body: Body, joined: bool) -> dict[str, str]:
    """Tensor -> the one whose scale it shares: results of MOVES their input's; ``joined``: also all around a Concat."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.get(name, name) != name:
            name = leader[name]
        return name

    for node in body.nodes:
        if node.op_type in MOVES:
            related = [node.input[0], *node.output]
        elif node.op_type == "Concat" and joined:
            related = [*node.input, *node.output]
        else:
            continue
        first = find(related[0])
        for other in related[1:]:
            leader[find(other)] = first
    return {name: find(name) for name in (*leader, *leader.values())}


def _groups(tensors: Sequence[str], leaders: dict[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name in tensors:
        groups.setdefault(leaders.get(name, name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
