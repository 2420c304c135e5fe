"""Weights as 8-bit integers, one scale an output channel, and the bias that makes up for what rounding shifts.

Everything about an int8 graph but its nodes: which tensors are rounded where, and how.

The int8 graph: QuantizeLinear and DequantizeLinear around what an engine then computes in integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..config import Target
from ..graph import drop_unused_initializers
from .layers import JOINS, MOVES, Body, Layer
from .ranges import Choice, Grid, Readers, Samples, choose, grid_of, tensors_read

_SHARES = np.linspace(2.1, 0.5, 65)  # of the scale at which a channel's largest weight just fits
_LARGEST = 127
_LARGEST_BIAS = 2.0**30
_LARGEST_PAIR = 128  # 255 x 128 = 32,640, the most below 2^15


@dataclass(frozen=True)
class RoundedWeights:
    """weight = integers * scales, zero point 0."""

    integers: np.ndarray  # (out, in / groups, h, w) int8
    scales: np.ndarray  # (out,) float32
    bias: np.ndarray  # (out,) float32


def round_weights(layer: Layer, inputs: Samples, grid: Grid, pairs: bool, correct_bias: bool = True) -> RoundedWeights:
    """Scales with the least error at the layer's output, weighting each input channel by its energy.

    pairs: only scales at which two products of a uint8 with neighbouring weights fit 16 bits together. Processors with
    AVX2 but without VNNI add them there and cut off what is larger without a word (``vpmaddubsw``). The usual remedy,
    7-bit weights, is the case that all pairs are as large as the largest weight.
    """
    weight = layer.weight.astype(np.float64)
    energy = np.square(inputs.rows, dtype=np.float64).mean(0)  # (in,)
    importance = _per_weight(layer, energy)
    peak = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), np.finfo(np.float32).tiny * 256)
    best, scales = np.full(len(weight), np.inf), np.zeros(len(weight), np.float32)
    for share in _SHARES:
        tried = (peak * share / _LARGEST).astype(np.float32)
        integers = _integers(layer.weight, tried)
        error = (np.square(integers * tried[:, None, None, None] - weight) * importance).reshape(len(weight), -1).sum(1)
        if pairs:
            error[_largest_pair(integers) > _LARGEST_PAIR] = np.inf
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, tried, scales)
    # The bias becomes an int32 of this scale: it must fit, also where weights are next to nothing.
    scales = np.maximum(scales, (np.abs(layer.bias) / (_LARGEST_BIAS * grid.scale)).astype(np.float32))
    integers = _integers(layer.weight, scales)
    bias = layer.bias
    if correct_bias:
        bias = bias - _shift(layer, inputs, grid, integers * scales[:, None, None, None])
    return RoundedWeights(integers.astype(np.int8), scales, bias.astype(np.float32))


def _integers(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weight / scales[:, None, None, None]), -_LARGEST, _LARGEST)


def _largest_pair(integers: np.ndarray) -> np.ndarray:
    """(out,): the largest sum of two neighbours of one sign, whether channels or taps lie side by side in memory."""
    orders = (integers, integers.transpose(0, 2, 3, 1))
    most = np.zeros(len(integers))
    for order in orders:
        flat = order.reshape(len(order), -1)
        for sign in (1, -1):
            one = np.maximum(sign * flat, 0)
            most = np.maximum(most, (one[:, 1:] + one[:, :-1]).max(1, initial=0))
            most = np.maximum(most, one.max(1, initial=0))
    return most


def _shift(layer: Layer, inputs: Samples, grid: Grid, rounded: np.ndarray) -> np.ndarray:
    """(out,): how much the mean output moves by rounding inputs and weights; the borders' padding is left out."""
    before = inputs.rows.mean(0, dtype=np.float64)
    after = grid.rounded(inputs.rows).mean(0, dtype=np.float64)
    axes = (1, 2, 3)
    moved = (rounded * _per_weight(layer, after)).sum(axes) - (layer.weight * _per_weight(layer, before)).sum(axes)
    return np.asarray(moved)


def _per_weight(layer: Layer, channels: np.ndarray) -> np.ndarray:
    """(in,) -> (out or 1, in / groups, 1, 1): the input channel's value at each weight."""
    if layer.groups == 1:
        return channels[None, :, None, None]
    grouped = channels.reshape(layer.groups, -1)  # (groups, in / groups)
    return np.repeat(grouped, len(layer.weight) // layer.groups, axis=0)[:, :, None, None]


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


# Operators that ONNX Runtime computes in integers on a CPU when all operands and the result are rounded.
_INTEGER_OPERATORS = ("Conv", "Sigmoid", "Mul", "Relu", "LeakyRelu", *JOINS, *MOVES)


def quantize(model: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """A copy of ``model`` in which the plan's layers, but those it keeps, are int8; inputs and outputs are the same."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    integer = integer_nodes(plan)
    produced = {output for node in graph.node if node.name in integer for output in node.output}
    rounded: dict[str, str] = {}  # tensor -> the same behind Q and DQ
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            if tensor in plan.choices and _reads_rounded(node, tensor, plan, integer, produced):
                node.input[position] = rounded.setdefault(tensor, f"{tensor}_rounded")
    layers = {layer.nodes[0]: layer for layer in plan.body.layers}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in integer and node.name in layers:
            layer = layers[node.name]
            nodes += _convolution(graph, node, layer, plan)
        nodes.append(node)
        for output in node.output:
            if output in rounded:
                nodes += _pair(graph, output, rounded[output], plan)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.ClearField("value_info")
    drop_unused_initializers(graph)
    return copy


def integer_nodes(plan: Plan) -> set[str]:
    """Names of the nodes that compute in integers: layers that are not kept, and what hands its result to integers.

    A result that floating point alone reads is not rounded: neither in front of prediction convolutions, nor between
    two layers that are kept; but for ``cpu`` each convolution's own output is, behind its ReLU where it has one.
    """
    convolutions = {layer.nodes[0]: layer for layer in plan.body.layers}
    inner = {name for layer in plan.body.layers for name in layer.nodes[1:-1]}  # the Sigmoid of SiLU
    relus = {layer.nodes[1] for layer in plan.body.layers if layer.has_relu and plan.target == "cpu"}
    kept = {name for layer in plan.body.layers if layer.name in plan.kept for name in layer.nodes}
    wanted: set[str] = set()  # tensors that integer nodes read
    found: set[str] = set()
    for node in reversed(plan.body.nodes):
        if node.op_type == "Conv":
            integer = node.name in convolutions and node.name not in kept
        elif node.name in kept or node.name in relus:
            integer = node.name not in kept  # a ReLU is part of its convolution
        else:
            integer = _can_compute(node, plan) and (node.name in inner or any(name in wanted for name in node.output))
        if integer:
            found.add(node.name)
            wanted.update(node.input)
    return found


def _can_compute(node: onnx.NodeProto, plan: Plan) -> bool:
    """Whether the engine has an integer kernel for this node, other than a convolution."""
    if plan.target == "openvino":
        return False
    if plan.target == "tensorrt":  # around a Concat all scales are one: rounding twice is rounding once, of fewer bytes
        return node.op_type in (*JOINS, *MOVES)
    operands = node.input[:1] if node.op_type in MOVES else node.input
    return node.op_type in _INTEGER_OPERATORS and all(name in plan.choices for name in operands)


def _reads_rounded(node: onnx.NodeProto, tensor: str, plan: Plan, integer: set[str], produced: set[str]) -> bool:
    if node.name in integer:
        return True
    # What an integer kernel of ONNX Runtime has written exists in no other form.
    return plan.target == "cpu" and tensor in produced and node.op_type != "Shape"


def _pair(graph: onnx.GraphProto, tensor: str, result: str, plan: Plan) -> Iterator[onnx.NodeProto]:
    grid = plan.grid(tensor)
    kind = np.int8 if grid.signed else np.uint8
    scale = _constant(graph, f"{tensor}_scale", np.float32(grid.scale))
    zero = _constant(graph, f"{tensor}_zero_point", kind(grid.zero_point))
    integers = f"{tensor}_integers"
    yield helper.make_node("QuantizeLinear", [tensor, scale, zero], [integers], name=f"{tensor}_quantize")
    yield helper.make_node("DequantizeLinear", [integers, scale, zero], [result], name=f"{tensor}_dequantize")


def _convolution(graph: onnx.GraphProto, conv: onnx.NodeProto, layer: Layer, plan: Plan) -> Iterator[onnx.NodeProto]:
    weights, name, bias_name = plan.weights[layer.name], f"{layer.name}.weight", f"{layer.name}.bias"
    integers = _constant(graph, f"{name}_integers", weights.integers)
    scales = _constant(graph, f"{name}_scale", weights.scales)
    zeros = _constant(graph, f"{name}_zero_point", np.zeros(len(weights.scales), np.int8))
    yield helper.make_node(
        "DequantizeLinear", [integers, scales, zeros], [f"{name}_rounded"], name=f"{name}_dequantize", axis=0
    )
    if plan.target == "cpu":  # ONNX Runtime adds the bias to the integer sums
        bias_scales = (weights.scales * np.float32(plan.grid(layer.input).scale)).astype(np.float32)
        whole = np.clip(np.rint(weights.bias.astype(np.float64) / bias_scales), -(2**31), 2**31 - 1).astype(np.int32)
        inputs = [
            _constant(graph, f"{bias_name}_integers", whole),
            _constant(graph, f"{bias_name}_scale", bias_scales),
            _constant(graph, f"{bias_name}_zero_point", np.zeros(len(whole), np.int32)),
        ]
        bias = f"{bias_name}_rounded"
        yield helper.make_node("DequantizeLinear", inputs, [bias], name=f"{bias_name}_dequantize", axis=0)
    else:
        bias = _constant(graph, f"{bias_name}_corrected", weights.bias)
    data = conv.input[0]
    del conv.input[:]
    conv.input.extend([data, f"{name}_rounded", bias])


def _constant(graph: onnx.GraphProto, name: str, value: np.ndarray | np.generic) -> str:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name
