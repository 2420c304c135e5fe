"""Wrap a third-party graph: the contract's inputs in front, post-processing to the contract's outputs behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper, shape_inference
from torch import Tensor, nn

from yolopose.deploy.deployed import FindPeople
from yolopose.deploy.nms import take
from yolopose.runtime.contract import INPUT_NAMES, NmsInfo, PoseInfo
from yolopose.runtime.skeleton import Skeleton

from ..config import ShapeConfig
from ..graph import drop_unused_initializers
from ..onnx_export import clean, export_module, name_dimensions
from .layouts import Layout
from .onnx_file import OnnxFile

_PREFIX, _SOURCE = "yolopose/", "net."  # of names that yolopose adds, and of the third-party graph's names


def wrap(
    source: OnnxFile, layout: Layout, skeleton: Skeleton, nms: NmsInfo, shape: ShapeConfig, pose: PoseInfo
) -> onnx.ModelProto:
    """The graph with the contract's inputs and outputs; the contract itself is not in it. shape: fixed dimensions."""
    network = onnx.ModelProto()
    network.CopyFrom(source.model)
    network = compose.add_prefix(clean(network), _SOURCE)  # its names may equal ours: images, scores, ...
    _replace_expectation_convolutions(network.graph)
    _replace_slices_before_gathers(network)
    _add_preprocessing(network.graph, f"{_SOURCE}{source.input}", layout, shape)
    find_people = FindPeople(nms, pose, skeleton.sigmas, layout.nms_free)
    postprocessing = _postprocessing(source, layout, find_people, shape.batch)
    pairs = [(f"{_SOURCE}{name}", f"{_PREFIX}output{i}") for i, name in enumerate(layout.outputs)]
    network.ir_version = postprocessing.ir_version = min(network.ir_version, postprocessing.ir_version)
    whole = compose.merge_models(
        network, postprocessing, io_map=pairs, outputs=[f"{_PREFIX}{name}" for name in pose.outputs]
    )
    _rename(whole.graph, {f"{_PREFIX}{name}": name for name in (*INPUT_NAMES[1:], *pose.outputs)})
    del whole.opset_import[:]
    whole.opset_import.extend(postprocessing.opset_import)
    whole.graph.name, whole.producer_name, whole.producer_version = "graph", "yolopose", ""
    rows = {0: "batch"}
    name_dimensions(whole, {name: rows for name in (*INPUT_NAMES[1:], *pose.outputs)})
    return clean(whole)


def _add_preprocessing(graph: onnx.GraphProto, name: str, layout: Layout, shape: ShapeConfig) -> None:
    """Make the input uint8 NHWC BGR, and compute the network's own input ``name`` from it by two to four nodes."""
    spec = layout.input
    steps = [
        helper.make_node("Cast", [INPUT_NAMES[0]], [f"{_PREFIX}float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", [f"{_PREFIX}float"], [f"{_PREFIX}planes"], perm=[0, 3, 1, 2]),
    ]
    value = f"{_PREFIX}planes"
    if spec.channel_order == "rgb" and not _reverse_first_convolutions(graph, name):
        graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), f"{_PREFIX}order"))
        steps.append(helper.make_node("Gather", [value, f"{_PREFIX}order"], [f"{_PREFIX}rgb"], axis=1))
        value = f"{_PREFIX}rgb"
    if spec.scale != 1:
        scale = numpy_helper.from_array(np.array(spec.scale, np.float32), f"{_PREFIX}scale")
        graph.initializer.append(scale)
        steps.append(helper.make_node("Mul", [value, scale.name], [f"{_PREFIX}scaled"]))
    steps[-1].output[0] = name
    for step in steps:
        step.name = f"{_PREFIX}{step.op_type}"
    nodes = [*steps, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    height, width = shape.shape_hw or ("height", "width")
    entry = helper.make_tensor_value_info(INPUT_NAMES[0], TensorProto.UINT8, [shape.batch or "batch", height, width, 3])
    del graph.input[:]
    graph.input.append(entry)


def _replace_expectation_convolutions(graph: onnx.GraphProto) -> None:
    """Replace convolutions with the fixed weights 0, 1, 2, ... by a weighted sum.

    Ultralytics writes the expectation over 16 box distances that way. Without that convolution behind them, the
    network's last convolutions are found to be its prediction convolutions.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        weight = weights.get(node.input[1]) if node.op_type == "Conv" and len(node.input) == 2 else None
        values = None if weight is None else numpy_helper.to_array(weight)
        if values is None or values.shape[0] != 1 or not np.array_equal(values.ravel(), np.arange(values.size)):
            nodes.append(node)
            continue
        bins, axes = f"{_PREFIX}{node.output[0]}/bins", f"{_PREFIX}channels"
        graph.initializer.append(numpy_helper.from_array(values.reshape(1, -1, 1, 1), bins))
        if axes not in weights:
            weights[axes] = numpy_helper.from_array(np.array([1]), axes)
            graph.initializer.append(weights[axes])
        product = f"{bins}/weighted"
        nodes.append(helper.make_node("Mul", [node.input[0], bins], [product], name=product))
        nodes.append(helper.make_node("ReduceSum", [product, axes], node.output, name=node.name, keepdims=1))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_initializers(graph)


def _replace_slices_before_gathers(model: onnx.ModelProto) -> None:
    """Replace a Slice from 0 before GatherElements by a Split.

    OpenVINO 2026.4 removes such a Slice, and then refuses the graph.
    """
    graph = model.graph
    inferred = shape_inference.infer_shapes(model).graph
    sizes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in inferred.value_info}
    gathered = {node.input[0] for node in graph.node if node.op_type == "GatherElements"}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                constants[node.output[0]] = numpy_helper.to_array(attribute.t)
    for node in graph.node:
        if node.op_type != "Slice" or node.output[0] not in gathered or len(node.input) < 4:
            continue
        starts, ends, axes = (constants.get(name) for name in node.input[1:4])
        if starts is None or ends is None or axes is None or starts.tolist() != [0] or len(axes) != 1:
            continue
        axis, size, taken = int(axes[0]), sizes.get(node.input[0], []), int(ends[0])
        if not size or not 0 < taken < size[axis]:
            continue
        parts = f"{_PREFIX}{node.output[0]}/sizes"
        graph.initializer.append(numpy_helper.from_array(np.array([taken, size[axis] - taken]), parts))
        split = helper.make_node(
            "Split", [node.input[0], parts], [node.output[0], f"{parts}/rest"], node.name, axis=axis
        )
        node.CopyFrom(split)


def _reverse_first_convolutions(graph: onnx.GraphProto, name: str) -> bool:
    """Swap the input channels of the first convolutions, so that an RGB network takes BGR at no cost.

    Returns False, and changes nothing, where anything but a convolution with weights of its own reads the image.
    """
    readers = [node for node in graph.node if name in node.input]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    firsts = [weights.get(node.input[1]) for node in readers if node.op_type == "Conv"]
    if len(firsts) != len(readers) or not readers or any(w is None or w.dims[1] != 3 for w in firsts):
        return False
    uses = [value for node in graph.node for value in node.input]
    if any(w is None or uses.count(w.name) != 1 for w in firsts):
        return False
    for weight in firsts:
        assert weight is not None
        reversed_ = np.ascontiguousarray(numpy_helper.to_array(weight)[:, ::-1])
        weight.CopyFrom(numpy_helper.from_array(reversed_, weight.name))
    return True


def _postprocessing(source: OnnxFile, layout: Layout, find_people: FindPeople, batch: int | None) -> onnx.ModelProto:
    """``Postprocessing`` as ONNX, all names with our prefix."""
    rows = batch or 2  # the exporter would take an example of 1 for a fixed 1
    Dim = torch.export.Dim
    inputs: list[torch.Tensor] = []
    axes: list[dict[int, Any]] = []
    count = Dim("count", min=1)
    for name in layout.outputs:
        shape = source.shapes[name]
        is_list = len(shape) == 2  # one list of people, without a batch
        axis = 0 if is_list else 2 if layout.features_axis == 1 else 1
        example = [*shape] if is_list else [rows, *shape[1:]]
        example[axis] = max(example[axis], 3)
        inputs.append(torch.zeros(example))
        axes.append({axis: count} | ({} if is_list or batch is not None else {0: Dim("batch", min=1)}))
    for default in (find_people.nms.score_threshold, find_people.nms.iou_threshold):
        inputs.append(torch.full((rows, 1), default))
        axes.append({} if batch is not None else {0: Dim("batch", min=1)})
    names = [f"output{i}" for i in range(len(layout.outputs))]
    shapes: Any = (tuple(axes),)  # one parameter, *inputs
    outputs = find_people.pose.outputs
    model = export_module(
        Postprocessing(layout, find_people), tuple(inputs), (*names, *INPUT_NAMES[1:]), outputs, shapes
    )
    return compose.add_prefix(model, _PREFIX)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = names.get(name, name)


class Postprocessing(nn.Module):
    """From the outputs that ``layout`` names to those of an artifact, with NMS where the network has none.

    Converts boxes to corners for the C candidates only, and gathers keypoints for people and their supporters only.
    """

    def __init__(self, layout: Layout, find_people: FindPeople) -> None:
        super().__init__()
        self.layout, self.find_people = layout, find_people

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """inputs: the outputs of the network, then score and IoU threshold, each (B, 1)."""
        *outputs, score_threshold, iou_threshold = inputs
        layout = self.layout
        all_boxes, between, points = self._parts(outputs)
        first = layout.scores - 4
        scores = between[:, first : first + layout.num_classes]  # (B, classes, N)
        if layout.objectness is not None:
            scores = scores * between[:, layout.objectness - 4, None]
        best, all_labels = scores[:, 0], None
        if layout.num_classes > 1:
            best, all_labels = scores.max(dim=1)
        elif layout.label is not None:
            all_labels = between[:, layout.label - 4].to(torch.int64)
        candidates = self.find_people.select(best, score_threshold)
        boxes = self._corners(take(all_boxes, candidates.anchors))
        labels = torch.zeros_like(candidates.anchors)
        if all_labels is not None:
            labels = torch.gather(all_labels, 1, candidates.anchors)

        def decode(anchors: Tensor) -> tuple[Tensor, Tensor]:
            rows = torch.unflatten(take(points, anchors), 1, (layout.num_keypoints, layout.keypoint_numbers))
            xy = rows[:, :, :2]  # (B, K, 2, n)
            return xy, rows[:, :, 2] if layout.keypoint_numbers == 3 else torch.ones_like(xy[:, :, 0])

        return self.find_people(candidates, boxes, labels, decode, iou_threshold)  # type: ignore[no-any-return]

    def _parts(self, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Boxes (B, 4, N), the columns between boxes and keypoints, keypoints (B, 3K or 2K, N).

        Uses split: OpenVINO removes a slice before a gather, and then refuses data and indices of different sizes.
        An empty list of people gets a row of zeros, because gather needs at least one.
        """
        rows = [nn.functional.pad(output, (0, 0, 0, 1))[None] if output.dim() == 2 else output for output in outputs]
        rows = [output.flatten(2) if output.dim() == 4 else output for output in rows]
        whole = torch.cat(rows, dim=self.layout.features_axis) if len(rows) > 1 else rows[0]
        features = whole if self.layout.features_axis == 1 else whole.transpose(1, 2)
        sizes = [4, self.layout.keypoints - 4, self.layout.keypoint_numbers * self.layout.num_keypoints]
        if (rest := features.shape[1] - sum(sizes)) > 0:
            sizes.append(rest)
        return torch.split(features, sizes, dim=1)[:3]

    def _corners(self, boxes: Tensor) -> Tensor:
        """(B, 4, C) boxes of the layout -> (B, 4, C) xyxy."""
        if self.layout.box == "xyxy":
            return boxes
        center, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat((center - half, center + half), dim=1)
