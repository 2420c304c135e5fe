"""float16 inside the graph: a pass over ONNX, so that it serves our networks and foreign ones alike.

Weights and activations become float16 from the first operator behind the uint8 input up to the prediction
convolutions; those, decode, coordinates and NMS stay float32 (a float16 coordinate near 1,000 px steps by half a pixel,
near 2,000 by one).
Prediction convolutions are found by structure: a Conv with no Conv behind it. Nodes whose values float16 has no room
for, as measured on images, stay float32 as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from yolopose.runtime.errors import ArtifactError

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
HEADROOM = 4  # see ``out_of_range``


def _half(initializer: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(initializer)
    largest = float(np.max(np.abs(values), initial=0.0))
    if not largest <= FLOAT16_MAX:
        raise ValueError(
            f"weight {initializer.name!r} holds {largest:g} and float16 ends at {FLOAT16_MAX:g}: export without --fp16"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)


def to_float16(model: onnx.ModelProto, float32_nodes: Collection[str] = ()) -> list[str]:
    """Change ``model`` in place; returns the names of the prediction convolutions, which stay float32.

    float32_nodes: names of others that stay so, see ``out_of_range``.

    Requires: topologically sorted nodes; images enter through a Cast. Ensures: inputs and outputs of the graph keep
    their types, each value is float32 or float16 throughout. Raises ValueError for weights that float16 cannot hold.
    """
    graph = model.graph
    predictions = prediction_convolutions(graph)
    if not predictions:
        raise ValueError("the graph has no convolution: there is nothing to turn into float16")
    whole = body_nodes(model, predictions)
    body = [node for node in whole if node.name not in float32_nodes]
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
    halves_written = {output for node in body for output in node.output}
    _cast_at_borders(graph, halves_written, {output for node in whole for output in node.output} - halves_written)
    drop_unused_initializers(graph)
    return [node.name for node in predictions]


def rounded_to_float16(model: onnx.ModelProto, float32_nodes: Collection[str] = ()) -> onnx.ModelProto:
    """A float32 copy of the float32 ``model`` that computes what ``to_float16`` makes of it on hardware with float16.

    Weights and each result of the body go through float16. ONNX Runtime's CPU provider has no float16 kernels for most
    operators: it computes a float16 file in float32, drops the casts between, and so neither rounds nor overflows where
    a GPU does. The copy does, on any machine.
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
    """Nodes that float16 has no room for -> the largest value that they read or write on ``images``.

    images: letterboxed (h, w, 3) uint8; rows: of a fixed batch. Names the nodes of ``model`` where they have no name.
    Values beyond a quarter of float16's range count: other images may reach further. ArtifactError for values that are
    not finite in float32 already.
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


def _cast_at_borders(graph: onnx.GraphProto, halves: set[str], islands: set[str]) -> None:
    """One Cast for each value that some node reads in the other type (``Shape`` takes any type)."""
    casts: dict[str, dict[str, onnx.NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "Shape":
            continue
        half = node.output[0] in halves
        kind, to = ("float16", TensorProto.FLOAT16) if half else ("float32", TensorProto.FLOAT)
        for i, name in enumerate(node.input):
            if name in (islands if half else halves):
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
