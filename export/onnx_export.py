"""PyTorch to ONNX by ``torch.onnx.export(dynamo=True)``: any module, the deployed network, the bare network."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
import torch
from torch import nn
from torch.export import Dim

from yolopose.deploy.deployed import BareNet, DeployedNet
from yolopose.model.pose_net import PoseNet
from yolopose.runtime.contract import INPUT_NAMES, NmsInfo, PoseInfo

from .config import MAX_SIZE, OPSET, ShapeConfig


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints progress, advice about torchvision and its own deprecation warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def export_module(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: tuple[dict[int, Any], ...] | None,
) -> onnx.ModelProto:
    """``module`` in evaluation mode as a cleaned ONNX graph of opset 18.

    inputs          example tensors
    dynamic_shapes  for each input, axis -> ``torch.export.Dim``; None: all axes are fixed
    """
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module.eval(),
            inputs,
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=True,
            verify=False,
        )
    assert program is not None
    return clean(program.model_proto)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove stack traces, source paths, notes and stale shape formulas that the exporter leaves in ``model``.

    Clears every ``metadata_props``, ``doc_string`` and ``value_info`` in place. The graph computes the same.
    """
    graph = model.graph
    for holder in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *model.functions):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")
    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    graph.ClearField("value_info")
    return model


def name_dimensions(model: onnx.ModelProto, names: dict[str, dict[int, str]]) -> None:
    """Name dynamic dimensions as the contract does; the exporter names them by formulas.

    names: input or output -> axis -> name.
    """
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        for axis, name in names.get(value.name, {}).items():
            if not shape.dim[axis].HasField("dim_value"):
                shape.dim[axis].dim_param = name


def onnx_from_net(
    net: PoseNet, nms: NmsInfo, shape: ShapeConfig | None = None, pose: PoseInfo | None = None
) -> onnx.ModelProto:
    """The deployed network (pre-processing, network, decode, NMS) as one graph with the contract's inputs and outputs.

    shape: fixed dimensions; None: all dynamic. pose: source of the keypoints; None: ``PoseInfo()``. The contract itself
    is not in the graph.
    """
    shape, pose = shape or ShapeConfig(), pose or PoseInfo()
    multiple = net.input.multiple
    height, width = shape.shape_hw or (net.input.size, net.input.size)
    batch = shape.batch or 2  # the exporter would take an example of 1 for a fixed 1
    inputs = (
        torch.zeros((batch, height, width, 3), dtype=torch.uint8),
        torch.full((batch, 1), nms.score_threshold),
        torch.full((batch, 1), nms.iou_threshold),
    )
    image_axes: dict[int, Any] = {}
    threshold_axes: dict[int, Any] = {}
    if shape.batch is None:
        image_axes[0] = threshold_axes[0] = Dim("batch", min=1)
    if shape.shape_hw is None:
        image_axes[1] = multiple * Dim("rows", min=1, max=MAX_SIZE // multiple)
        image_axes[2] = multiple * Dim("columns", min=1, max=MAX_SIZE // multiple)
    dynamic = (image_axes, threshold_axes, threshold_axes) if image_axes else None
    model = export_module(DeployedNet(net, nms, pose), inputs, INPUT_NAMES, pose.outputs, dynamic)
    axes = {name: {0: "batch"} for name in (*INPUT_NAMES, *pose.outputs)}
    axes["images"] = {0: "batch", 1: "height", 2: "width"}
    name_dimensions(model, axes)
    _read_images_by_one_cast(model.graph)
    return model


def _read_images_by_one_cast(graph: onnx.GraphProto) -> None:
    """Make the Cast the first node and the only one that reads the uint8 images.

    TensorRT accepts uint8 only as the type of an input. The exporter reads the batch size from the input itself; read
    from the Cast's result it is the same.
    """
    position, cast = next(
        (i, node) for i, node in enumerate(graph.node) if "images" in node.input and node.op_type == "Cast"
    )
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] == "images":
            node.input[0] = cast.output[0]
    assert sum("images" in node.input for node in graph.node) == 1
    first = onnx.NodeProto()
    first.CopyFrom(cast)
    del graph.node[position]
    graph.node.insert(0, first)


def bare_onnx_from_net(net: PoseNet, shape_hw: tuple[int, int]) -> bytes:
    """The network alone (``BareNet``) at a fixed size with dynamic batch, serialized.

    Input ``images``: (B, 3, H, W) float32; output ``head``: (B, F, N) float32, the raw values of the head.
    """
    images = torch.zeros((2, 3, *shape_hw))
    model = export_module(BareNet(net), (images,), ("images",), ("head",), ({0: Dim("batch", min=1)},))
    content: bytes = model.SerializeToString()
    return content


def predictions_onnx_from_net(net: PoseNet, shape_hw: tuple[int, int], batch: int) -> bytes:
    """``net`` itself at a fixed size, serialized.

    Input ``images``: (B, 3, H, W) float32 in the network's own range; outputs: the four tensors of ``Predictions``.
    """
    images = torch.zeros((batch, 3, *shape_hw))
    names = ("boxes", "scores", "keypoints", "keypoint_scores")
    content: bytes = export_module(net, (images,), ("images",), names, None).SerializeToString()
    return content
