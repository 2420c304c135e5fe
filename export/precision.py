"""float16 inside the graph: a pass over ONNX, so that it serves our networks and foreign ones alike.

Weights and activations become float16 from the first operator behind the uint8 input up to the prediction
convolutions; those, decode, coordinates and NMS stay float32 (a float16 coordinate near 1,000 px steps by half a pixel,
near 2,000 by one).
Prediction convolutions are found by structure: a Conv with no Conv behind it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

FLOAT16_MAX = 65504.0
# Float inputs that are parameters of the operator, float32 by its definition.
_FLOAT32_PARAMETERS = {"Resize": (1, 2)}


def prediction_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Conv nodes behind which no other Conv comes, in graph order. Requires topologically sorted nodes."""
    before_conv: set[str] = set()  # values from which a Conv can be reached
    found: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        reaches_conv = any(output in before_conv for output in node.output)
        if node.op_type == "Conv" and not reaches_conv:
            found.append(node)
        if node.op_type == "Conv" or reaches_conv:
            before_conv.update(node.input)
    return found[::-1]


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Names of all float32 values, initializers included."""
    graph = shape_inference.infer_shapes(model).graph
    values = {
        v.name
        for v in (*graph.input, *graph.value_info, *graph.output)
        if v.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    return values | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _data_inputs(node: onnx.NodeProto) -> list[int]:
    parameters = _FLOAT32_PARAMETERS.get(node.op_type, ())
    return [i for i, name in enumerate(node.input) if name and i not in parameters]


def _body(graph: onnx.GraphProto, predictions: list[onnx.NodeProto], floats: set[str]) -> list[onnx.NodeProto]:
    """Nodes with float32 results that the prediction convolutions' data comes from, in graph order."""
    needed = {node.input[0] for node in predictions}
    body = []
    for node in reversed(graph.node):
        if any(output in needed for output in node.output):
            body.append(node)
            needed.update(node.input[i] for i in _data_inputs(node) if node.input[i] in floats)
    return body[::-1]


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
    floats = _float_values(model)
    body = _body(graph, predictions, floats)
    initializers = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: dict[str, onnx.TensorProto] = {}
    for node in body:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to":
                attribute.i = TensorProto.FLOAT16
        for i in _data_inputs(node):
            tensor = initializers.get(node.input[i])
            if tensor is not None:
                name = f"{tensor.name}_float16"
                halves.setdefault(name, _half(tensor, name))
                node.input[i] = name
    graph.initializer.extend(halves.values())
    _cast_at_the_border(graph, {output for node in body for output in node.output})
    _drop_unused_initializers(graph)
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


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
