"""The int8 graph: QuantizeLinear and DequantizeLinear around what an engine then computes in integers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph import drop_unused_initializers
from .layers import JOINS, MOVES, Layer
from .plan import Plan

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
