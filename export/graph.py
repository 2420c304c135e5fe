"""What an exported graph is made of: the body up to the prediction convolutions, and all that lies behind."""

from __future__ import annotations

import onnx
from onnx import TensorProto, shape_inference

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


def data_inputs(node: onnx.NodeProto) -> list[int]:
    parameters = _FLOAT32_PARAMETERS.get(node.op_type, ())
    return [i for i, name in enumerate(node.input) if name and i not in parameters]


def body_nodes(model: onnx.ModelProto, predictions: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes with float32 results that the prediction convolutions' data comes from, in graph order."""
    graph, floats = model.graph, _float_values(model)
    needed = {node.input[0] for node in predictions}
    body = []
    for node in reversed(graph.node):
        if any(output in needed for output in node.output):
            body.append(node)
            needed.update(node.input[i] for i in data_inputs(node) if node.input[i] in floats)
    return body[::-1]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give nodes without a name, or with another's, one of their own: passes keep track of nodes by name."""
    seen: set[str] = set()
    for i, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}_{node.output[0]}"
        seen.add(node.name)


def drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """Remove initializers that no node reads and that are no output."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
