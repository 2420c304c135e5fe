"""A third_party ONNX file as it is: what goes in, what comes out, what it says of itself.

A graph that was exported for one batch size, opened for any: where the graph allows, as running it shows.
"""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper, version_converter
from onnx.external_data_helper import load_external_data_for_model

from yolopose.runtime.contract import METADATA_KEY
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

from ..source import OPSET

OLDEST_OPSET = 11  # what comes before resizes in another way
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}
_STANDARD = ("", "ai.onnx")
_PROBE_SIZE = 256  # pixels, where the file leaves its size open


@dataclass(frozen=True)
class OnnxFile:
    """model: opset 18, float32. Sizes are None where the file leaves them open; ``shapes``: of each output for one
    image of ``probe_hw``, as running it gave."""

    path: Path
    model: onnx.ModelProto
    sha256: str
    metadata: dict[str, Any]  # values as Python reads them, texts where it cannot
    input: str
    batch: int | None
    shape_hw: tuple[int | None, int | None]
    probe_hw: tuple[int, int]
    shapes: dict[str, tuple[int, ...]]

    def describe(self) -> str:
        """Inputs and outputs in one line."""
        outputs = ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
        rows = "any number of" if self.batch is None else str(self.batch)
        return f"{rows} images of {self.probe_hw[0]}x{self.probe_hw[1]} -> {outputs}"


def read_onnx_file(path: Path) -> OnnxFile:
    """Raises CheckpointError (damaged, parts missing), UnknownCheckpoint (nothing that we can take up, and why)."""
    content, model = _load(path)
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise UnknownCheckpoint(f"{path} is an artifact already: deploy it, or export the weights that it came from")
    _check_operators(path, model)
    name, dims = _image_input(path, model)
    batch, height, width = (dim.dim_value or None for dim in (dims[0], dims[2], dims[3]))
    probe_hw = (height or _PROBE_SIZE, width or _PROBE_SIZE)
    return OnnxFile(
        path,
        model,
        hashlib.sha256(content).hexdigest(),
        {entry.key: _value(entry.value) for entry in model.metadata_props},
        name,
        batch,
        (height, width),
        probe_hw,
        _run_once(path, model, name, batch or 1, probe_hw),
    )


def _load(path: Path) -> tuple[bytes, onnx.ModelProto]:
    try:
        content = path.read_bytes()
        model = onnx.load_from_string(content)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    except Exception as error:  # protobuf's own
        raise CheckpointError(f"cannot read {path} as ONNX: {error}") from error
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx's own
        raise CheckpointError(
            f"{path} keeps its weights in another file, which is not beside it ({error}): copy both"
        ) from error
    if not model.graph.node:
        raise CheckpointError(f"{path} is no ONNX file, or an empty one")
    return content, model


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Standard operators of an opset that can be brought to ours, in float32."""
    third_party = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _STANDARD})
    if third_party:
        raise UnknownCheckpoint(
            f"{path} holds operators that are not ONNX's own ({', '.join(third_party[:3])}): export it without plugins"
        )
    if found := sorted({node.op_type for node in model.graph.node} & _QUANTIZED):
        raise UnknownCheckpoint(
            f"{path} is quantized already ({', '.join(found)}): give the float32 export, int8 is made from it here"
        )
    if any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer):
        raise UnknownCheckpoint(f"{path} is float16 already: give the float32 export, --fp16 makes float16 from it")
    opset = next((opset.version for opset in model.opset_import if opset.domain in _STANDARD), 0)
    if not OLDEST_OPSET <= opset <= OPSET:
        raise UnknownCheckpoint(
            f"{path} has opset {opset}, and {OLDEST_OPSET} to {OPSET} are read: export it with opset {OPSET}"
        )
    if opset < OPSET:
        try:
            converted = version_converter.convert_version(model, OPSET)
        except Exception as error:  # its own, and whatever a rule of it raises
            raise UnknownCheckpoint(
                f"{path} has opset {opset}, which cannot be brought to {OPSET} ({error}): export it with opset {OPSET}"
            ) from error
        model.CopyFrom(converted)


def _image_input(path: Path, model: onnx.ModelProto) -> tuple[str, list[onnx.TensorShapeProto.Dimension]]:
    """The one input: (batch, 3, height, width) float32."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    told = ", ".join(f"{value.name} {_shape(value)}" for value in inputs)
    first = inputs[0].type.tensor_type if inputs else None
    dims = list(first.shape.dim) if first is not None else []
    if first is None or len(inputs) != 1 or len(dims) != 4 or first.elem_type != TensorProto.FLOAT:
        raise UnknownCheckpoint(
            f"{path} should take one float32 (batch, 3, height, width), and takes {told or 'nothing'}"
        )
    if dims[1].dim_value != 3:
        raise UnknownCheckpoint(f"{path} should take three channels first, and takes {told}")
    return inputs[0].name, dims


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _value(text: str) -> Any:
    """Ultralytics writes Python's literals, others JSON or plain text."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _run_once(
    path: Path, model: onnx.ModelProto, name: str, batch: int, shape_hw: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs, by running it: what a file declares is often open, or wrong."""
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = session.run(None, {name: np.full((batch, 3, *shape_hw), 0.5, np.float32)})
    except Exception as error:  # its exceptions have no base of their own
        raise CheckpointError(f"{path} does not run in ONNX Runtime: {error}") from error
    return {node.name: tuple(value.shape) for node, value in zip(session.get_outputs(), found, strict=True)}


_TRIED = 3  # images at once


def opened(source: OnnxFile) -> onnx.ModelProto | None:
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


def _gives_the_same(source: OnnxFile, model: onnx.ModelProto) -> bool:
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
