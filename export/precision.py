"""float16 inside an ONNX graph; works for graphs from PyTorch and for third-party ones.

Weights and activations become float16 from the first operator behind the uint8 input up to the prediction
convolutions. Those, decode, coordinates and NMS stay float32: float16 resolves coordinates near 1,000 px to half a
pixel, near 2,000 px to one. Prediction convolutions are found by structure: a Conv with no Conv behind it. Nodes whose
values, as measured on images, exceed the range of float16 stay float32 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from yolopose.runtime.errors import ArtifactError, UsageError

from .graph import (
    body_nodes,
    data_inputs,
    drop_unused_initializers,
    feed,
    name_nodes,
    open_session,
    prediction_convolutions,
    with_outputs,
)

FLOAT16_MAX = 65504.0
HEADROOM = 4  # values count as out of range from FLOAT16_MAX / HEADROOM: other images may give larger ones


def to_float16(model: onnx.ModelProto, float32_nodes: Collection[str] = ()) -> list[str]:
    """Change ``model`` in place; returns the names of the prediction convolutions, which stay float32.

    float32_nodes: names of further nodes that stay float32, see ``out_of_range``.

    Requires topologically sorted nodes and images that enter through a Cast. Inputs and outputs of the graph keep
    their types. Raises UsageError for weights that float16 cannot hold and for a graph without convolution.
    """
    graph = model.graph
    predictions = prediction_convolutions(graph)
    if not predictions:
        raise UsageError("the graph has no convolution: leave out --fp16")
    body = body_nodes(model, predictions)
    float16_nodes = [node for node in body if node.name not in float32_nodes]
    initializers = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    halves: dict[str, onnx.TensorProto] = {}
    for node in float16_nodes:
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
    float16_values = {output for node in float16_nodes for output in node.output}
    _cast_at_borders(graph, float16_values, {output for node in body for output in node.output} - float16_values)
    drop_unused_initializers(graph)
    return [node.name for node in predictions]


def float16_emulation(model: onnx.ModelProto, float32_nodes: Collection[str] = ()) -> onnx.ModelProto:
    """A float32 graph that computes what ``to_float16(model)`` computes on hardware with float16.

    Weights and each result of the body are rounded to float16 and back. ONNX Runtime's CPU provider has no float16
    kernels for most operators: it computes a float16 file in float32 and drops the casts between, so it neither rounds
    nor overflows where a GPU does. The emulation does, on any machine. ``model`` is float32 and stays unchanged.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    body = [n for n in body_nodes(copy, prediction_convolutions(graph)) if n.name not in float32_nodes]
    rounded = {output for node in body for output in node.output}
    read = {node.input[i] for node in body for i in data_inputs(node)}
    for tensor in graph.initializer:
        if tensor.name in read and tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(_half(tensor, "")).astype(np.float32), tensor.name)
            )
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in rounded:
                node.input[i] = f"{name}_rounded"
        nodes.append(node)
        for name in node.output:
            if name in rounded:
                half = f"{name}_half"
                nodes.append(helper.make_node("Cast", [name], [half], name=f"{half}_cast", to=TensorProto.FLOAT16))
                nodes.append(
                    helper.make_node("Cast", [half], [f"{name}_rounded"], name=f"{name}_back", to=TensorProto.FLOAT)
                )
    del graph.node[:]
    graph.node.extend(nodes)
    return copy


def out_of_range(model: onnx.ModelProto, images: Iterable[np.ndarray], rows: int = 1) -> dict[str, float]:
    """Names of nodes whose values float16 may not hold -> the largest value that they read or write on ``images``.

    images: letterboxed (h, w, 3) uint8; rows: the batch of a fixed file. Names the nodes of ``model`` that have no
    name. Raises ArtifactError for values that are not finite in float32.
    """
    name_nodes(model.graph)
    body = body_nodes(model, prediction_convolutions(model.graph))
    written = [output for node in body for output in node.output]
    session = open_session(with_outputs(model, written))
    largest = dict.fromkeys(written, 0.0)
    for image in images:
        for name, value in zip(written, session.run(written, feed([image], rows=rows)), strict=True):
            largest[name] = max(largest[name], float(np.abs(value).max(initial=0)))
            if not np.isfinite(largest[name]):
                raise ArtifactError(
                    f"the network computes values that are not finite ({name}): train or export it again"
                )
    found = {}
    for node in body:
        if (most := max(largest.get(name, 0.0) for name in (*node.input, *node.output))) > FLOAT16_MAX / HEADROOM:
            found[node.name] = most
    return found


def _half(initializer: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """``initializer`` in float16 under another name. Raises UsageError for values beyond the range of float16."""
    values = numpy_helper.to_array(initializer)
    largest = float(np.max(np.abs(values), initial=0.0))
    if not largest <= FLOAT16_MAX:
        raise UsageError(
            f"weight {initializer.name!r} holds {largest:g} and float16 ends at {FLOAT16_MAX:g}: export without --fp16"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def _cast_at_borders(graph: onnx.GraphProto, float16_values: set[str], float32_values: set[str]) -> None:
    """Insert one Cast for each value that some node reads in the other type (``Shape`` takes any type)."""
    casts: dict[str, dict[str, onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Shape":
            continue
        half = node.output[0] in float16_values
        kind, to = ("float16", TensorProto.FLOAT16) if half else ("float32", TensorProto.FLOAT)
        for i, name in enumerate(node.input):
            if name in (float32_values if half else float16_values):
                result = f"{name}_{kind}"
                cast = helper.make_node("Cast", [name], [result], name=f"{result}_cast", to=to)
                casts.setdefault(name, {}).setdefault(kind, cast)
                node.input[i] = result
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        ordered.append(node)
        for output in node.output:
            ordered.extend(casts.get(output, {}).values())
    del graph.node[:]
    graph.node.extend(ordered)
