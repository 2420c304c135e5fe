"""Quantized weights, the quantization plan of a network, and the int8 graph.

The graph computes in float32 with QuantizeLinear and DequantizeLinear (Q/DQ) around every operator that the backend is
to compute in integers; the backend fuses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..config import Target
from ..graph import drop_unused_initializers
from .layers import JOIN_OPERATORS, MOVE_OPERATORS, Body, Layer
from .ranges import Consumers, Grid, Progress, RangeChoice, Samples, choose_range, make_grid, tensors_to_compare

# Operators that ONNX Runtime computes in integers on a CPU if all operands and the result are quantized.
_INTEGER_OPERATORS = ("Conv", "Sigmoid", "Mul", "Relu", "LeakyRelu", *JOIN_OPERATORS, *MOVE_OPERATORS)
_SHARES = np.linspace(2.1, 0.5, 65)  # of the scale at which the largest weight of a channel just fits
_LARGEST = 127
_LARGEST_BIAS = 2.0**30
_LARGEST_PAIR = 128  # 255 x 128 = 32,640, the largest multiple of 255 below 2^15


@dataclass(frozen=True)
class QuantizedWeights:
    """weight = integers * scales, zero point 0."""

    integers: np.ndarray  # (out, in / groups, h, w) int8
    scales: np.ndarray  # (out,) float32
    bias: np.ndarray  # (out,) float32


@dataclass(frozen=True)
class QuantizationPlan:
    """All decisions about an int8 graph: ranges of tensors, integers of weights, and the layers that stay float32."""

    target: Target
    body: Body
    choices: dict[str, RangeChoice]  # tensors that may be quantized
    weights: dict[str, QuantizedWeights]  # layer name -> weights
    float32_layers: frozenset[str] = frozenset()  # names

    def with_float32_layers(self, names: Iterable[str]) -> QuantizationPlan:
        """The same plan in which exactly these layers stay float32."""
        return replace(self, float32_layers=frozenset(names))

    def grid(self, tensor: str) -> Grid:
        return self.choices[tensor].grid


def tensors_to_quantize(body: Body, target: Target) -> list[str]:
    """Tensors that get a scale, in graph order.

    cpu: all tensors, because ONNX Runtime computes in integers only if every operand and the result are quantized; but
    nothing between a convolution and its ReLU, because quantization to values >= 0 includes the ReLU.
    openvino, tensorrt: the inputs of convolutions (SiLU is computed in floating point inside the kernels).
    tensorrt: also the operands of Add, so that the convolution's kernel adds the residual.
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
    """Tensors of which ``make_plan`` needs samples, in graph order."""
    wanted = tensors_to_compare(body).union(tensors_to_quantize(body, target))
    return [output for node in body.nodes for output in node.output if output in wanted]


def make_plan(body: Body, samples: dict[str, Samples], target: Target, progress: Progress) -> QuantizationPlan:
    """Choose the ranges of all tensors and quantize all weights. samples: of ``tensors_to_sample``."""
    symmetric = target == "tensorrt"
    tensors = tensors_to_quantize(body, target)
    consumers = Consumers(body, samples)
    choices: dict[str, RangeChoice] = {}
    for i in progress(range(len(tensors)), len(tensors), "ranges of tensors"):
        name = tensors[i]
        choices[name] = choose_range(samples[name], consumers.error_of(name), symmetric)
    for group in scale_groups(body, tensors, around_concat=symmetric):
        ranges = [choices[name].grid.range for name in group]
        widest = make_grid(min(low for low, _ in ranges), max(high for _, high in ranges), symmetric)
        choices |= {name: replace(choices[name], grid=widest) for name in group}
    weights = {
        layer.name: quantize_weights(
            layer, samples[layer.input], choices[layer.input].grid, limit_pairs=target != "tensorrt"
        )
        for layer in body.layers
    }
    return QuantizationPlan(target, body, choices, weights)


def scale_groups(body: Body, tensors: Sequence[str], around_concat: bool) -> list[list[str]]:
    """Groups of two or more ``tensors`` that share one scale: input and outputs of ``MOVE_OPERATORS``.

    around_concat: also all inputs and the output of a Concat.
    """
    parent: dict[str, str] = {}  # union-find

    def root(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    for node in body.nodes:
        if node.op_type in MOVE_OPERATORS:
            related = [node.input[0], *node.output]
        elif node.op_type == "Concat" and around_concat:
            related = [*node.input, *node.output]
        else:
            continue
        first = root(related[0])
        for other in related[1:]:
            parent[root(other)] = first
    groups: dict[str, list[str]] = {}
    for name in tensors:
        groups.setdefault(root(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def quantize_weights(
    layer: Layer, inputs: Samples, grid: Grid, limit_pairs: bool, correct_bias: bool = True
) -> QuantizedWeights:
    """One scale per output channel, with the least error at the output; input channels are weighted by their energy.

    inputs, grid: samples and grid of the layer's input. correct_bias: compensate the shift of the mean output.
    limit_pairs: only scales at which the products of uint8 inputs with two neighboring weights fit 16 bits together.
    Processors with AVX2 but without VNNI add such pairs (``vpmaddubsw``) and saturate without notice. The usual remedy,
    7-bit weights, assumes that both weights of every pair are as large as the largest weight.
    """
    weight = layer.weight.astype(np.float64)
    energy = np.square(inputs.rows, dtype=np.float64).mean(0)  # (in,)
    importance = _per_weight(layer, energy)
    peak = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), np.finfo(np.float32).tiny * 256)
    least, scales = np.full(len(weight), np.inf), np.zeros(len(weight), np.float32)
    for share in _SHARES:
        tried = (peak * share / _LARGEST).astype(np.float32)
        integers = _integers(layer.weight, tried)
        error = (np.square(integers * tried[:, None, None, None] - weight) * importance).reshape(len(weight), -1).sum(1)
        if limit_pairs:
            error[_largest_pair(integers) > _LARGEST_PAIR] = np.inf
        better = error < least
        least, scales = np.where(better, error, least), np.where(better, tried, scales)
    # The bias becomes int32 with the scale grid.scale * scales. It must fit, also where the weights are almost zero.
    scales = np.maximum(scales, (np.abs(layer.bias) / (_LARGEST_BIAS * grid.scale)).astype(np.float32))
    integers = _integers(layer.weight, scales)
    bias = layer.bias
    if correct_bias:
        bias = bias - _mean_shift(layer, inputs, grid, integers * scales[:, None, None, None])
    return QuantizedWeights(integers.astype(np.int8), scales, bias.astype(np.float32))


def _integers(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.rint(weight / scales[:, None, None, None]), -_LARGEST, _LARGEST))


def _largest_pair(integers: np.ndarray) -> np.ndarray:
    """(out,): the largest sum of two neighbors with one sign, with channels or with taps adjacent in memory."""
    orders = (integers, integers.transpose(0, 2, 3, 1))
    largest = np.zeros(len(integers))
    for order in orders:
        flat = order.reshape(len(order), -1)
        for sign in (1, -1):
            sizes = np.maximum(sign * flat, 0)
            largest = np.maximum(largest, (sizes[:, 1:] + sizes[:, :-1]).max(1, initial=0))
            largest = np.maximum(largest, sizes.max(1, initial=0))
    return largest


def _mean_shift(layer: Layer, inputs: Samples, grid: Grid, quantized: np.ndarray) -> np.ndarray:
    """(out,): shift of the mean output by quantized inputs and weights, without the padding at the borders."""
    before = inputs.rows.mean(0, dtype=np.float64)
    after = grid.quantized(inputs.rows).mean(0, dtype=np.float64)
    axes = (1, 2, 3)
    shift = (quantized * _per_weight(layer, after)).sum(axes) - (layer.weight * _per_weight(layer, before)).sum(axes)
    return np.asarray(shift)


def _per_weight(layer: Layer, channels: np.ndarray) -> np.ndarray:
    """(in,) -> (out or 1, in / groups, 1, 1): the value of the input channel at each weight."""
    if layer.groups == 1:
        return channels[None, :, None, None]
    grouped = channels.reshape(layer.groups, -1)  # (groups, in / groups)
    return np.repeat(grouped, len(layer.weight) // layer.groups, axis=0)[:, :, None, None]


def quantize(model: onnx.ModelProto, plan: QuantizationPlan) -> onnx.ModelProto:
    """A copy of ``model`` with all layers but ``plan.float32_layers`` in int8; inputs and outputs are unchanged."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    integer = integer_nodes(plan)
    produced = {output for node in graph.node if node.name in integer for output in node.output}
    dequantized: dict[str, str] = {}  # tensor -> the same tensor behind Q and DQ
    for node in graph.node:
        for position, tensor in enumerate(node.input):
            if tensor in plan.choices and _reads_dequantized(node, tensor, plan, integer, produced):
                node.input[position] = dequantized.setdefault(tensor, f"{tensor}_rounded")
    layers = {layer.nodes[0]: layer for layer in plan.body.layers}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in integer and node.name in layers:
            nodes += _quantized_operands(graph, node, layers[node.name], plan)
        nodes.append(node)
        for output in node.output:
            if output in dequantized:
                nodes += _q_and_dq(graph, output, dequantized[output], plan)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.ClearField("value_info")
    drop_unused_initializers(graph)
    return copy


def integer_nodes(plan: QuantizationPlan) -> set[str]:
    """Names of the nodes that compute in integers: int8 layers, and operators whose results integer nodes read.

    A result that only floating point reads is not quantized: neither before prediction convolutions nor between two
    float32 layers. For ``cpu`` the output of each int8 convolution is, after its ReLU if it has one.
    """
    convolutions = {layer.nodes[0]: layer for layer in plan.body.layers}
    inner = {name for layer in plan.body.layers for name in layer.nodes[1:-1]}  # the Sigmoid of SiLU
    relus = {layer.nodes[1] for layer in plan.body.layers if layer.has_relu and plan.target == "cpu"}
    float32 = {name for layer in plan.body.layers if layer.name in plan.float32_layers for name in layer.nodes}
    wanted: set[str] = set()  # tensors that integer nodes read
    found: set[str] = set()
    for node in reversed(plan.body.nodes):
        if node.op_type == "Conv":
            integer = node.name in convolutions and node.name not in float32
        elif node.name in float32 or node.name in relus:
            integer = node.name not in float32  # a ReLU is part of its convolution
        else:
            integer = _has_integer_kernel(node, plan) and (
                node.name in inner or any(name in wanted for name in node.output)
            )
        if integer:
            found.add(node.name)
            wanted.update(node.input)
    return found


def _has_integer_kernel(node: onnx.NodeProto, plan: QuantizationPlan) -> bool:
    """Whether the target's backend computes this node, which is no convolution, in integers."""
    if plan.target == "openvino":
        return False
    if plan.target == "tensorrt":  # around a Concat there is one scale: quantizing again changes nothing
        return node.op_type in (*JOIN_OPERATORS, *MOVE_OPERATORS)
    operands = node.input[:1] if node.op_type in MOVE_OPERATORS else node.input
    return node.op_type in _INTEGER_OPERATORS and all(name in plan.choices for name in operands)


def _reads_dequantized(
    node: onnx.NodeProto, tensor: str, plan: QuantizationPlan, integer: set[str], produced: set[str]
) -> bool:
    if node.name in integer:
        return True
    # The result of an integer kernel of ONNX Runtime exists only as integers.
    return plan.target == "cpu" and tensor in produced and node.op_type != "Shape"


def _q_and_dq(graph: onnx.GraphProto, tensor: str, result: str, plan: QuantizationPlan) -> Iterator[onnx.NodeProto]:
    grid = plan.grid(tensor)
    dtype = np.int8 if grid.signed else np.uint8
    scale = _constant(graph, f"{tensor}_scale", np.float32(grid.scale))
    zero = _constant(graph, f"{tensor}_zero_point", dtype(grid.zero_point))
    integers = f"{tensor}_integers"
    yield helper.make_node("QuantizeLinear", [tensor, scale, zero], [integers], name=f"{tensor}_quantize")
    yield helper.make_node("DequantizeLinear", [integers, scale, zero], [result], name=f"{tensor}_dequantize")


def _quantized_operands(
    graph: onnx.GraphProto, conv: onnx.NodeProto, layer: Layer, plan: QuantizationPlan
) -> Iterator[onnx.NodeProto]:
    """Replace weight and bias of ``conv`` by integers; yields the nodes that dequantize them."""
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
