"""Operations on ONNX graphs that several steps of an export share.

The parts of a graph (body, prediction convolutions), running it in ONNX Runtime in the middle of an export,
simplification, and embedding the contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from yolopose.data.image_set import ImageSet
from yolopose.runtime.backends.onnxruntime import open_session as open_onnx_session
from yolopose.runtime.backends.onnxruntime import session_options
from yolopose.runtime.contract import INPUT_NAMES, METADATA_KEY, Contract, InputInfo, NmsInfo
from yolopose.runtime.images import as_bgr_image
from yolopose.runtime.letterbox import Placement, letterbox

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_FLOAT32_PARAMETERS = {"Resize": (1, 2)}  # inputs that are float32 by the operator's definition
_MAX_DIFFERENCE = 1e-3  # in any output, that simplification may cause
_Item = TypeVar("_Item")


def prediction_convolutions(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Conv nodes with no other Conv behind them, in graph order. Requires topologically sorted nodes."""
    before_conv: set[str] = set()  # values from which a Conv is reachable
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
    """Indices of the inputs that are data, not parameters that are float32 by the operator's definition."""
    parameters = _FLOAT32_PARAMETERS.get(node.op_type, ())
    return [i for i, name in enumerate(node.input) if name and i not in parameters]


def body_nodes(model: onnx.ModelProto, predictions: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes that compute the float32 data of the prediction convolutions, in graph order."""
    graph, floats = model.graph, _float_values(model)
    needed = {node.input[0] for node in predictions}
    body = []
    for node in reversed(graph.node):
        if any(output in needed for output in node.output):
            body.append(node)
            needed.update(node.input[i] for i in data_inputs(node) if node.input[i] in floats)
    return body[::-1]


def name_nodes(graph: onnx.GraphProto) -> None:
    """Give each node a unique name, by which passes identify it; existing unique names stay."""
    seen: set[str] = set()
    for i, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{i}_{node.output[0]}"
        seen.add(node.name)


def drop_unused_initializers(graph: onnx.GraphProto) -> None:
    """Remove initializers that are neither read by a node nor an output."""
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def letterboxed(images: ImageSet, given: InputInfo) -> list[tuple[np.ndarray, Placement]]:
    """Each image as the runtime passes it to the artifact, (h, w, 3) uint8, and its placement in that frame."""
    shape_hw = given.height.opt, given.width.opt
    return [
        letterbox(as_bgr_image(images.read(i)), shape_hw, pad_value=given.pad_value, pad_side=given.pad_side)
        for i in range(len(images))
    ]


def feed(
    images: Sequence[np.ndarray],
    score_threshold: float = NmsInfo.score_threshold,
    iou_threshold: float = NmsInfo.iou_threshold,
    rows: int = 1,
) -> dict[str, np.ndarray]:
    """Letterboxed images (h, w, 3) uint8 as inputs of an artifact.

    rows: the batch of a fixed file; the last image is repeated to fill it.
    """
    thresholds = (np.full((max(rows, len(images)), 1), value, np.float32) for value in (score_threshold, iou_threshold))
    filled = [*images, *[images[-1]] * (rows - len(images))]
    return dict(zip(INPUT_NAMES, (np.stack(filled), *thresholds), strict=True))


def in_batches(images: Iterable[_Item], rows: int) -> Iterator[list[_Item]]:
    """Lists of ``rows`` items; the last may be shorter."""
    rest = iter(images)
    while batch := list(islice(rest, rows)):
        yield batch


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy whose only outputs are ``tensors``; the runtime skips what they do not need."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return copy


def open_session(model: onnx.ModelProto, threads: int | None = None, errors: bool = True) -> InferenceSession:
    """Session on ONNX Runtime's CPU provider. errors: log errors to stderr; warnings are never logged."""
    options = session_options(threads=threads, log_severity=3 if errors else 4)
    return open_onnx_session(model.SerializeToString(), options)


def graph_sha256(model: onnx.ModelProto) -> str:
    """Hex digest of the serialized GraphProto; metadata does not change it."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def embed_contract(model: onnx.ModelProto, contract: Contract) -> bytes:
    """The artifact's content: ``model`` with ``contract`` as its only metadata.

    Raises ValueError for a contract of another graph.
    """
    digest = graph_sha256(model)
    if contract.provenance.graph_sha256 != digest:
        raise ValueError(
            f"the contract is for graph {contract.provenance.graph_sha256[:12]}, this one is {digest[:12]}"
        )
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def simplify(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """``model`` simplified by onnxsim if that keeps interface and results, else ``model`` itself.

    Returns the model and one sentence for the user about what was done. Never raises.
    """
    before = len(model.graph.node)
    try:
        import onnxsim

        simplified, checked = onnxsim.simplify(model)
    except Exception as error:  # whatever goes wrong in a third-party optimizer
        return model, f"not simplified: onnxsim failed ({type(error).__name__}: {error})"
    if not checked:
        return model, "not simplified: onnxsim's own check failed"
    if _interface(simplified) != _interface(model):
        return model, "not simplified: onnxsim changed inputs or outputs"
    difference = _largest_difference(model, simplified)
    if not difference <= _MAX_DIFFERENCE:  # NaN included
        return model, f"not simplified: onnxsim changed the results by {difference:g}"
    simplified.graph.ClearField("value_info")
    return simplified, f"simplified from {before} to {len(simplified.graph.node)} nodes"


def _interface(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    return [(value.name, value.type.SerializeToString()) for value in (*model.graph.input, *model.graph.output)]


def _largest_difference(one: onnx.ModelProto, other: onnx.ModelProto) -> float:
    """Largest absolute difference of any output on random images, at thresholds low enough to give people."""
    rng = np.random.default_rng(0)
    shape = [dim.dim_value or fallback for dim, fallback in zip(_image_dims(one), (3, 128, 192, 3), strict=True)]
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    low = np.zeros((shape[0], 1), np.float32)
    feeds = {"images": images, "score_threshold": low, "iou_threshold": low + np.float32(0.65)}
    pairs = zip(*(open_session(model).run(None, feeds) for model in (one, other)), strict=True)
    return max(float(np.max(np.abs(a.astype(np.float64) - b.astype(np.float64)), initial=0.0)) for a, b in pairs)


def _image_dims(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    images = next(value for value in model.graph.input if value.name == "images")
    return list(images.type.tensor_type.shape.dim)
