"""The layers of a graph that may become int8, found by structure, in networks of yolopose and third-party ONNX alike.

A layer is a convolution with the activation that follows it. Between layers are operators that join tensors (Add,
Concat) or only move values. Prediction convolutions and everything after them (sigmoids, decode, coordinates, NMS) are
not layers: they stay float32, so that no scale covers pixels and probabilities together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from yolopose.runtime.errors import UsageError

from ..graph import body_nodes, name_nodes, prediction_convolutions

# The outputs hold only values of the first input, so input and outputs share one scale.
MOVE_OPERATORS = ("MaxPool", "Resize", "Slice", "Transpose", "Reshape", "Split")
JOIN_OPERATORS = ("Add", "Concat")
_QUANTIZED_OPERATORS = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}

ConsumersByTensor = dict[str, list[onnx.NodeProto]]  # tensor -> the nodes that read it


@dataclass(frozen=True)
class Layer:
    """A convolution and its activation.

    name: of its weights, as in the checkpoint. nodes: names of the convolution and of the activation's nodes.
    """

    name: str
    nodes: tuple[str, ...]
    input: str  # tensor that the convolution reads
    output: str  # tensor that the convolution writes
    result: str  # tensor after the activation; equal to ``output`` without an activation
    weight: np.ndarray  # (out, in / groups, h, w) float32
    bias: np.ndarray  # (out,) float32
    groups: int
    negative_slope: float | None = None  # of a ReLU (0) or leaky ReLU after it

    @property
    def has_relu(self) -> bool:
        return self.negative_slope == 0

    @property
    def has_silu(self) -> bool:
        return len(self.nodes) == 3


@dataclass(frozen=True)
class Body:
    """The part of a graph before the prediction convolutions."""

    layers: tuple[Layer, ...]  # in graph order
    predictions: tuple[Layer, ...]  # the prediction convolutions, which read the results of the body; never int8
    nodes: tuple[onnx.NodeProto, ...]  # all nodes of the body, in graph order


def find_body(model: onnx.ModelProto) -> Body:
    """The body of ``model``, whose unnamed nodes get names.

    UsageError for a graph that holds int8 or float16 already, has weights that are not finite, or has nothing to
    quantize.
    """
    graph = model.graph
    name_nodes(graph)
    if found := {node.op_type for node in graph.node} & _QUANTIZED_OPERATORS:
        raise UsageError(f"this graph is quantized already (it holds {', '.join(sorted(found))}): give the float32 one")
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer):
        raise UsageError("this graph holds float16 already: int8 is made from the float32 one")
    prediction_nodes = prediction_convolutions(graph)
    nodes = body_nodes(model, prediction_nodes)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    consumers: ConsumersByTensor = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    layers, predictions = (
        _with_unique_names(
            _layer(node, weights, consumers) for node in part if node.op_type == "Conv" and node.input[1] in weights
        )
        for part in (nodes, prediction_nodes)
    )
    if not layers:
        raise UsageError("the graph has no convolution before its prediction convolutions: nothing can become int8")
    return Body(layers, predictions, tuple(nodes))


def _with_unique_names(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Number the names of convolutions that share their weights, as in the heads of some networks."""
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        seen[layer.name] += 1
        number = seen[layer.name]
        named.append(layer if number == 1 else replace(layer, name=f"{layer.name} ({number})"))
    return tuple(named)


def _layer(conv: onnx.NodeProto, weights: dict[str, onnx.TensorProto], consumers: ConsumersByTensor) -> Layer:
    weight = numpy_helper.to_array(weights[conv.input[1]])
    if not np.isfinite(weight).all():
        raise UsageError(
            f"weight {conv.input[1]!r} holds values that are not finite: train or export the network again"
        )
    has_bias = len(conv.input) > 2 and conv.input[2] != ""
    bias = numpy_helper.to_array(weights[conv.input[2]]) if has_bias else np.zeros(len(weight), np.float32)
    output = conv.output[0]
    nodes: tuple[str, ...] = (conv.name,)
    result, slope = output, None
    readers = consumers.get(output, [])
    if len(readers) == 1 and readers[0].op_type in ("Relu", "LeakyRelu"):
        activation = readers[0]
        nodes, result = (*nodes, activation.name), activation.output[0]
        slope = _attribute(activation, "alpha", 0.01) if activation.op_type == "LeakyRelu" else 0.0
    elif (silu := _silu(output, readers, consumers)) is not None:
        nodes, result = (*nodes, *(node.name for node in silu)), silu[1].output[0]
    name = conv.input[1].removesuffix(".weight").removeprefix("net.")
    groups = int(_attribute(conv, "group", 1))
    return Layer(name, nodes, conv.input[0], output, result, weight, bias, groups, slope)


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    for attribute in node.attribute:
        if attribute.name == name:
            return float(helper.get_attribute_value(attribute))
    return default


def _silu(
    output: str, readers: list[onnx.NodeProto], consumers: ConsumersByTensor
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Sigmoid and Mul of ``x * sigmoid(x)``, where x is ``output``; None if its readers compute something else."""
    by_type = {node.op_type: node for node in readers}
    if len(readers) != 2 or by_type.keys() != {"Sigmoid", "Mul"}:
        return None
    sigmoid, product = by_type["Sigmoid"], by_type["Mul"]
    only_reader = consumers[sigmoid.output[0]] == [product]
    return (sigmoid, product) if only_reader and set(product.input) == {output, sigmoid.output[0]} else None
