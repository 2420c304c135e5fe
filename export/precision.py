"""float16 inside the graph: a pass over ONNX, so that it serves our networks and foreign ones alike.

Weights and activations become float16 from the first operator behind the uint8 input up to the prediction
convolutions; those, decode, coordinates and NMS stay float32 (a float16 coordinate near 1,000 px steps by half a pixel,
near 2,000 by one).
Prediction convolutions are found by structure: a Conv with no Conv behind it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .graph import body_nodes, data_inputs, drop_unused_initializers, prediction_convolutions

FLOAT16_MAX = 65504.0


def _half(initializer: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(initializer)
    largest = float(np.max(np.abs(values), initial=0.0))
    if not largest <= FLOAT16_MAX:
        raise ValueError(
            f"weight {initializer.name!r} holds {largest:g} and float16 ends at {FLOAT16_MAX:g}: export without --fp16"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def to_float16(model: onnx.ModelProto) -> list[str]:
    """Change ``model`` in place; returns the names of the prediction convolutions, which stay float32.

    Requires: topologically sorted nodes; images enter through a Cast. Ensures: inputs and outputs of the graph keep
    their types, each value is float32 or float16 throughout. Raises ValueError for weights that float16 cannot hold.
    """
    graph = model.graph
    predictions = prediction_convolutions(graph)
    if not predictions:
        raise ValueError("the graph has no convolution: there is nothing to turn into float16")
    body = body_nodes(model, predictions)
    initializers = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: dict[str, onnx.TensorProto] = {}
    for node in body:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = TensorProto.FLOAT16
        for i in data_inputs(node):
            tensor = initializers.get(node.input[i])
            if tensor is not None:
                name = f"{tensor.name}_float16"
                halves.setdefault(name, _half(tensor, name))
                node.input[i] = name
    graph.initializer.extend(halves.values())
    _cast_at_the_border(graph, {output for node in body for output in node.output})
    drop_unused_initializers(graph)
    return [node.name for node in predictions]


def _cast_at_the_border(graph: onnx.GraphProto, halves: set[str]) -> None:
    """One Cast to float32 for each float16 value that a node outside the body reads (``Shape`` takes any type)."""
    casts: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.output[0] in halves or node.op_type == "Shape":
            continue
        for i, name in enumerate(node.input):
            if name in halves:
                result = f"{name}_float32"
                casts[name] = helper.make_node("Cast", [name], [result], name=f"{result}_cast", to=TensorProto.FLOAT)
                node.input[i] = result
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        ordered.append(node)
        ordered.extend(casts[output] for output in node.output if output in casts)
    del graph.node[:]
    graph.node.extend(ordered)
