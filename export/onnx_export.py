"""A network -> ONNX through ``torch.onnx.export(dynamo=True)``: deployed, bare, or as it is."""

from __future__ import annotations

from typing import Any

import onnx
import torch
from torch.export import Dim

from yolopose.deploy.deployed import BareNet, DeployedNet
from yolopose.model.pose_net import PoseNet
from yolopose.runtime.contract import INPUT_NAMES, OUTPUT_NAMES, NmsInfo

from .shapes import MAX_SIZE, ShapeConfig
from .torch_export import export_module, name_dimensions


def onnx_from_net(net: PoseNet, nms: NmsInfo, shape: ShapeConfig | None = None) -> onnx.ModelProto:
    """The deployed network as one ONNX graph; inputs and outputs as the contract has them, but without it."""
    shape = shape or ShapeConfig()
    multiple = net.input.multiple
    height, width = shape.shape_hw or (net.input.size, net.input.size)
    batch = shape.batch or 2  # 2: an example of 1 would be taken for a fixed 1
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
    model = export_module(DeployedNet(net, nms), inputs, INPUT_NAMES, OUTPUT_NAMES, dynamic)
    axes = {name: {0: "batch"} for name in (*INPUT_NAMES, *OUTPUT_NAMES)}
    axes["images"] = {0: "batch", 1: "height", 2: "width"}
    name_dimensions(model, axes)
    _enter_by_cast(model.graph)
    return model


def _enter_by_cast(graph: onnx.GraphProto) -> None:
    """Let the Cast be the only reader of the uint8 images: TensorRT takes that type at the border alone.

    The exporter reads the batch size from the input itself; from the Cast's result it is the same.
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
    """The network alone (``BareNet``) at a fixed size, dynamic batch: ``images`` float32 NCHW in, ``head`` out."""
    images = torch.zeros((2, 3, *shape_hw))
    model = export_module(BareNet(net), (images,), ("images",), ("head",), ({0: Dim("batch", min=1)},))
    return model.SerializeToString()


def predictions_onnx_from_net(net: PoseNet, shape_hw: tuple[int, int], batch: int) -> bytes:
    """``net`` itself at a fixed size: float32 NCHW in its own range in, the four tensors of ``Predictions`` out."""
    images = torch.zeros((batch, 3, *shape_hw))
    names = ("boxes", "scores", "keypoints", "keypoint_scores")
    return export_module(net, (images,), ("images",), names, None).SerializeToString()
