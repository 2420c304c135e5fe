"""Read a third-party ONNX file: its input, its outputs, its metadata; and open its batch size where possible."""

from __future__ import annotations

import ast
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, version_converter
from onnx.external_data_helper import load_external_data_for_model

from yolopose.runtime.contract import METADATA_KEY
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

from ..config import OPSET
from ..graph import open_session

OLDEST_OPSET = 11  # Resize has other semantics before
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"}
_STANDARD = ("", "ai.onnx")
_PROBE_SIZE = 256  # pixels, to run a file of dynamic size once
_TRIED_BATCH = 3  # images, to compare a batch with single images


@dataclass(frozen=True)
class OnnxFile:
    """A readable file.

    model       opset 18, float32
    metadata    values as Python literals or JSON; strings where they are neither
    input       name of the one input, (batch, 3, height, width) float32
    batch       None: dynamic
    shape_hw    height and width in pixels; None: dynamic
    probe_hw    height and width at which the file was run once
    shapes      shape of each output in that run
    """

    path: Path
    model: onnx.ModelProto
    sha256: str
    metadata: dict[str, Any]
    input: str
    batch: int | None
    shape_hw: tuple[int | None, int | None]
    probe_hw: tuple[int, int]
    shapes: dict[str, tuple[int, ...]]

    def describe(self) -> str:
        """Input and outputs in one line."""
        batch, height, width = ("dynamic" if size is None else size for size in (self.batch, *self.shape_hw))
        outputs = ", ".join(f"{name} {list(shape)}" for name, shape in self.shapes.items())
        probed = "" if None not in self.shape_hw else f" at {self.probe_hw[0]}x{self.probe_hw[1]}"
        return f"{self.input} [{batch}, 3, {height}, {width}] -> {outputs}{probed}"


def read_onnx_file(path: Path) -> OnnxFile:
    """Raises CheckpointError for a damaged file or missing parts, UnknownCheckpoint for one that cannot be imported."""
    content, model = _load(path)
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise UnknownCheckpoint(
            f"{path} was exported by yolopose: run it as it is, or export the weights that it came from"
        )
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
    except Exception as error:  # protobuf's exceptions have no common base
        raise CheckpointError(f"cannot read {path} as ONNX: {error}") from error
    try:
        load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises several kinds
        raise CheckpointError(
            f"{path} keeps its weights in another file, which is missing ({error}): copy both"
        ) from error
    if not model.graph.node:
        raise CheckpointError(f"{path} is not an ONNX file, or an empty one")
    return content, model


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    """Check that operators are standard and float32, and convert ``model`` to opset 18 in place."""
    nonstandard = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in _STANDARD})
    if nonstandard:
        raise UnknownCheckpoint(
            f"{path} holds operators that are not standard ONNX ({', '.join(nonstandard[:3])}): export without plugins"
        )
    if found := sorted({node.op_type for node in model.graph.node} & _QUANTIZED):
        raise UnknownCheckpoint(f"{path} is quantized already ({', '.join(found)}): give the float32 export and --int8")
    if any(tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for tensor in model.graph.initializer):
        raise UnknownCheckpoint(f"{path} is float16 already: give the float32 export and --fp16")
    opset = next((opset.version for opset in model.opset_import if opset.domain in _STANDARD), 0)
    if not OLDEST_OPSET <= opset <= OPSET:
        raise UnknownCheckpoint(
            f"{path} has opset {opset}, supported are {OLDEST_OPSET} to {OPSET}: export it with opset {OPSET}"
        )
    if opset < OPSET:
        try:
            converted = version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter and its adapters raise several kinds
            raise UnknownCheckpoint(
                f"{path} has opset {opset}, which cannot be converted ({error}): export it with opset {OPSET}"
            ) from error
        model.CopyFrom(converted)


def _image_input(path: Path, model: onnx.ModelProto) -> tuple[str, list[onnx.TensorShapeProto.Dimension]]:
    """Name and dimensions of the one input, (batch, 3, height, width) float32."""
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    found = ", ".join(f"{value.name} {_shape(value)}" for value in inputs)
    first = inputs[0].type.tensor_type if inputs else None
    dims = list(first.shape.dim) if first is not None else []
    if first is None or len(inputs) != 1 or len(dims) != 4 or first.elem_type != TensorProto.FLOAT:
        raise UnknownCheckpoint(
            f"{path} should take one float32 (batch, 3, height, width), and takes {found or 'nothing'}"
        )
    if dims[1].dim_value != 3:
        raise UnknownCheckpoint(f"{path} should take three channels first, and takes {found}")
    return inputs[0].name, dims


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _value(text: str) -> Any:
    """A metadata value: Ultralytics writes Python literals, others JSON or plain strings."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def _run_once(
    path: Path, model: onnx.ModelProto, name: str, batch: int, shape_hw: tuple[int, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of the outputs, found by running the file: declared shapes are often dynamic, or wrong."""
    try:
        session = open_session(model)
        found = session.run(None, {name: np.full((batch, 3, *shape_hw), 0.5, np.float32)})
    except Exception as error:  # ONNX Runtime's exceptions have no common base
        raise CheckpointError(f"{path} does not run in ONNX Runtime: {error}") from error
    return {node.name: tuple(value.shape) for node, value in zip(session.get_outputs(), found, strict=True)}


def with_dynamic_batch(source: OnnxFile) -> onnx.ModelProto | None:
    """``source.model`` with a dynamic batch; None if it then gives other results than for single images."""
    model = onnx.ModelProto()
    model.CopyFrom(source.model)
    graph = model.graph
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == source.batch:
            dims[0].dim_param = "batch"
    _keep_batch_in_reshapes(graph, source.batch or 1)
    return model if _batch_equals_single_images(source, model) else None


def _keep_batch_in_reshapes(graph: onnx.GraphProto, batch: int) -> None:
    """Replace a leading ``batch`` in the shapes of Reshape by 0, which copies the dimension of the input."""
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


def _batch_equals_single_images(source: OnnxFile, model: onnx.ModelProto) -> bool:
    rows = source.batch or 1
    images = np.random.default_rng(0).random((_TRIED_BATCH, 3, *source.probe_hw), np.float32)
    try:
        single, batched = (open_session(each, errors=False) for each in (source.model, model))
        together = batched.run(None, {source.input: images})
        for i, image in enumerate(images):
            alone = single.run(None, {source.input: np.repeat(image[None], rows, axis=0)})
            for whole, part in zip(together, alone, strict=True):
                if len(whole) != _TRIED_BATCH or not np.allclose(whole[i], part[0], rtol=1e-3, atol=1e-3):
                    return False
    except Exception:  # ONNX Runtime's exceptions have no common base: the batch cannot be dynamic
        return False
    return True
