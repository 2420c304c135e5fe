"""A graph that was exported for one batch size, opened for any: where the graph allows, as running it shows."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from .source import Source

_TRIED = 3  # images at once


def opened(source: Source) -> onnx.ModelProto | None:
    """``source.model`` with the batch open; None where it then gives other results than for one image at a time."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == source.batch:
            dims[0].dim_param = "batch"
    _open_reshapes(graph, source.batch or 1)
    return model if _gives_the_same(source, model) else None


def _open_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """Shapes that begin with the batch take over the dimension instead."""
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    constants = {node.output[0]: node for node in graph.node if node.op_type == "Constant"}
    for node in graph.node:
        if node.op_type != "Reshape":
            continue
        tensor = shapes.get(node.input[1])
        if tensor is None and node.input[1] in constants:
            tensor = next((a.t for a in constants[node.input[1]].attribute if a.name == "value"), None)
        if tensor is None:
            continue
        shape = numpy_helper.to_array(tensor).copy()
        if shape.size > 1 and shape.flat[0] == batch and not any(a.name == "allowzero" and a.i for a in node.attribute):
            shape.flat[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def _gives_the_same(source: Source, model: onnx.ModelProto) -> bool:
    rng = np.random.default_rng(0)
    rows = source.batch or 1
    images = rng.random((_TRIED, 3, *source.probe_hw), np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails here is no error
    try:
        one, many = (
            onnxruntime.InferenceSession(each.SerializeToString(), options, providers=["CPUExecutionProvider"])
            for each in (source.model, model)
        )
        together = many.run(None, {source.input: images})
        for i, image in enumerate(images):
            alone = one.run(None, {source.input: np.repeat(image[None], rows, axis=0)})
            for whole, part in zip(together, alone, strict=True):
                if len(whole) != _TRIED or not np.allclose(whole[i], part[0], rtol=1e-3, atol=1e-3):
                    return False
    except Exception:  # its exceptions have no base of their own: the graph cannot be opened
        return False
    return True
