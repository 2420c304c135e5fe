"""What of a graph may become int8, found by structure, so that our networks and foreign ones are treated alike.

A layer is a convolution with the activation behind it; between layers are operators that join (Add, Concat) or only
move values. Prediction convolutions and all that lies behind them (sigmoids, decode, coordinates, NMS) are no layers:
they stay float32, so no scale ever spans pixels and probabilities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph import body_nodes, name_nodes, prediction_convolutions

# Results hold values of the first input and no others, so both have one scale.
MOVES = ("MaxPool", "Resize", "Slice", "Transpose", "Reshape", "Split")
JOINS = ("Add", "Concat")


@dataclass(frozen=True)
class Layer:
    """name: of its weights, as in the checkpoint; nodes: names of the convolution and of the activation's nodes."""

    name: str
    nodes: tuple[str, ...]
    input: str  # tensor that the convolution reads
    output: str  # tensor that the convolution writes
    result: str  # tensor behind the activation; the output itself where there is none
    weight: np.ndarray  # (out, in / groups, h, w) float32
    bias: np.ndarray  # (out,) float32
    groups: int
    negative_slope: float | None = None  # of ReLU (0) or leaky ReLU behind it

    @property
    def has_relu(self) -> bool:
        return self.negative_slope == 0

    @property
    def has_silu(self) -> bool:
        return len(self.nodes) == 3


@dataclass(frozen=True)
class Body:
    """The part of a graph in front of the prediction convolutions."""

    layers: tuple[Layer, ...]  # in graph order
    predictions: tuple[Layer, ...]  # what reads the body's results; never int8
    nodes: tuple[onnx.NodeProto, ...]  # all of them, in graph order


def find_body(model: onnx.ModelProto) -> Body:
    """The body of ``model``, whose nodes get names where they have none.

    ValueError for a graph that holds int8 or float16 already, or nothing to make int8 of.
    """
    graph = model.graph
    name_nodes(graph)
    operators = {node.op_type for node in graph.node}
    if found := operators & {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}:
        raise ValueError(f"this graph is quantized already (it holds {', '.join(sorted(found))}): give the float32 one")
    if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer):
        raise ValueError("this graph holds float16 already: int8 is made from the float32 one")
    predictions = prediction_convolutions(graph)
    nodes = body_nodes(model, predictions)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    layers, ends = (
        _named_once(
            _layer(node, weights, readers) for node in some if node.op_type == "Conv" and node.input[1] in weights
        )
        for some in (nodes, predictions)
    )
    if not layers:
        raise ValueError("the graph has no convolution before its prediction convolutions: nothing can become int8")
    return Body(layers, ends, tuple(nodes))


def _named_once(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Convolutions that share their weights, as heads of some networks do, are layers of their own."""
    seen: Counter[str] = Counter()
    named = []
    for layer in layers:
        seen[layer.name] += 1
        again = seen[layer.name]
        named.append(layer if again == 1 else replace(layer, name=f"{layer.name} ({again})"))
    return tuple(named)


def _layer(
    conv: onnx.NodeProto, weights: dict[str, onnx.TensorProto], readers: dict[str, list[onnx.NodeProto]]
) -> Layer:
    weight = numpy_helper.to_array(weights[conv.input[1]])
    if not np.isfinite(weight).all():
        raise ValueError(
            f"weight {conv.input[1]!r} holds values that are not finite: train or export the network again"
        )
    has_bias = len(conv.input) > 2 and conv.input[2] != ""
    bias = numpy_helper.to_array(weights[conv.input[2]]) if has_bias else np.zeros(len(weight), np.float32)
    groups = _attribute(conv, "group", 1)
    output = conv.output[0]
    nodes: tuple[str, ...] = (conv.name,)
    result, slope = output, None
    after = readers.get(output, [])
    if len(after) == 1 and after[0].op_type in ("Relu", "LeakyRelu"):
        nodes, result = (*nodes, after[0].name), after[0].output[0]
        slope = _attribute(after[0], "alpha", 0.01) if after[0].op_type == "LeakyRelu" else 0.0
    elif (silu := _silu(output, after, readers)) is not None:
        nodes, result = (*nodes, *(node.name for node in silu)), silu[1].output[0]
    name = conv.input[1].removesuffix(".weight").removeprefix("net.")
    return Layer(name, nodes, conv.input[0], output, result, weight, bias, groups, slope)


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = (helper.get_attribute_value(attribute) for attribute in node.attribute if attribute.name == name)
    return next(found, default)


def _silu(
    output: str, after: list[onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Sigmoid and Mul of ``x * sigmoid(x)``."""
    kinds = {node.op_type: node for node in after}
    if len(after) != 2 or kinds.keys() != {"Sigmoid", "Mul"}:
        return None
    sigmoid, product = kinds["Sigmoid"], kinds["Mul"]
    alone = readers[sigmoid.output[0]] == [product]
    return (sigmoid, product) if alone and set(product.input) == {output, sigmoid.output[0]} else None
