"""Artifacts of every network and precision against the support table of TensorRT's ONNX parser, version 10.1.

No node may be one that the parser refuses, nor mix types, which strongly typed networks forbid. Whether TensorRT fuses
and computes as intended, only TensorRT can show.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from yolopose.export.config import ShapeConfig
from yolopose.export.graph import simplify
from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import make_plan, quantize, tensors_to_sample
from yolopose.export.int8.ranges import collect_samples
from yolopose.export.onnx_export import onnx_from_net
from yolopose.export.precision import to_float16
from yolopose.model.sizes import SIZES, build
from yolopose.runtime.contract import NmsInfo

NETWORKS = {
    "yolox-pose": replace(SIZES["yolox-pose-nano"], width=0.125),
    "yolov5-pose": replace(SIZES["yolov5s6-pose"], width=0.0625),
    "ti-lite": replace(SIZES["yolov5s6-pose-ti-lite"], width=0.0625),
}
TYPES = {
    TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16", TensorProto.INT32: "INT32", TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL", TensorProto.INT8: "INT8", TensorProto.UINT8: "UINT8",
}  # fmt: skip
# Inputs that are parameters (sizes, axes, indices, scales); the types in the table are those of data inputs.
PARAMETERS = {
    "Gather": (1,), "GatherElements": (1,), "Reshape": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4), "Resize": (1, 2, 3),
    "ReduceSum": (1,), "ReduceMax": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "TopK": (1,), "Trilu": (1,),
    "CumSum": (1,), "DequantizeLinear": (1, 2), "QuantizeLinear": (1, 2), "Where": (0,), "Tile": (1,), "Pad": (1, 3),
}  # fmt: skip
CONSTANT_AXES = {"ReduceSum": 1, "ReduceMax": 1, "Slice": 3, "Squeeze": 1, "Unsqueeze": 1, "CumSum": 1}
INPUT_MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")


@pytest.fixture(scope="module")
def table(data_dir: Path) -> dict[str, Any]:
    document = json.loads((data_dir / "tensorrt_operators_10.1.json").read_text(encoding="utf-8"))
    operators: dict[str, Any] = document["operators"]
    return operators


@pytest.fixture(scope="module", params=[*NETWORKS, "yolox-pose fixed"])
def float32(request: pytest.FixtureRequest) -> onnx.ModelProto:
    name, _, fixed = request.param.partition(" ")
    shape = ShapeConfig((128, 192), 2) if fixed else ShapeConfig()
    return simplify(onnx_from_net(build(NETWORKS[name]).eval(), NmsInfo(), shape))[0]


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    to_float16(copy, {})
    return copy


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    body = find_body(model)
    image = next(value for value in model.graph.input if value.name == "images").type.tensor_type.shape.dim
    rows, height, width = (dim.dim_value or usual for dim, usual in zip(image, (1, 64, 64), strict=False))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]
    samples = collect_samples(model, tensors_to_sample(body, "tensorrt"), images, rows=rows)
    return quantize(model, make_plan(body, samples, "tensorrt", lambda items, total, label: items))


class Typed:
    """Types and constant values of the tensors of a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = shape_inference.infer_shapes(model, strict_mode=True).graph
        values = (*self.graph.input, *self.graph.value_info, *self.graph.output)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.held = {tensor.name: tensor for tensor in self.graph.initializer}
        self.types |= {name: tensor.data_type for name, tensor in self.held.items()}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.held[node.output[0]] = node.attribute[0].t

    def value(self, name: str) -> np.ndarray:
        return np.asarray(numpy_helper.to_array(self.held[name]))


def faults(model: onnx.ModelProto, table: dict[str, Any]) -> Iterator[str]:
    """A line for each node that the parser refuses, or may refuse."""
    typed = Typed(model)
    assert all(not opset.domain and 9 <= opset.version <= 20 for opset in model.opset_import)
    for node in typed.graph.node:
        at = f"{node.op_type} {node.name}"
        rule = table.get(node.op_type)
        if rule is None or not rule["supported"]:
            yield f"{at}: not supported"
            continue
        parameters = PARAMETERS.get(node.op_type, ())
        data = [name for i, name in enumerate(node.input) if name and i not in parameters]
        kinds = {TYPES[typed.types[name]] for name in data}
        if "UINT8" in kinds:  # only graph inputs, and only as input of a Cast
            inputs = {value.name for value in typed.graph.input}
            if node.op_type != "Cast" or not set(data) <= inputs:
                yield f"{at}: reads uint8"
        elif not kinds <= set(rule["types"]):
            yield f"{at}: reads {kinds}, {rule['types']} are supported"
        if len(kinds) > 1:
            yield f"{at}: mixes {kinds}"
        yield from (f"{at}: {fault}" for fault in restrictions(node, typed))


def restrictions(node: onnx.NodeProto, typed: Typed) -> Iterator[str]:
    """The restrictions column of the table as code, for the operators in our graphs."""
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axes = CONSTANT_AXES.get(node.op_type)
    if axes is not None and len(node.input) > axes and node.input[axes] and node.input[axes] not in typed.held:
        yield "axes are computed"
    if node.op_type == "TopK":
        if attributes.get("sorted", 1) != 1:
            yield "not sorted"
        if node.input[1] not in typed.held or typed.value(node.input[1]).max() >= 3840:
            yield "K is computed, or 3840 and more"
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and typed.value(node.input[2]).any():
        yield "a zero point that is not 0"
    if node.op_type == "MaxPool":
        if len(node.output) > 1 or len(attributes["kernel_shape"]) not in (2, 3):
            yield "indices, or neither 2-D nor 3-D"
        if set(attributes.get("dilations", [1])) != {1}:
            yield "dilated"
    if node.op_type == "Resize":
        modes = [attributes.get(key, usual).decode() for key, usual in (
            ("coordinate_transformation_mode", b"half_pixel"), ("mode", b"nearest"),
            ("keep_aspect_ratio_policy", b"stretch"), ("nearest_mode", b"round_prefer_floor"),
        )]  # fmt: skip
        if modes[0] not in INPUT_MODES or modes[1] not in ("nearest", "linear") or modes[2] != "stretch":
            yield f"modes {modes}"
        if modes[3] not in ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil") or attributes.get("antialias"):
            yield f"modes {modes}, antialias {attributes.get('antialias')}"


@pytest.mark.parametrize("kind", ["float32", "float16", "int8"])
def test_parser_supports_every_node(kind: str, float32: onnx.ModelProto, table: dict[str, Any]) -> None:
    model = {"float32": lambda model: model, "float16": half, "int8": int8}[kind](float32)
    assert list(faults(model, table)) == []
    operators = {node.op_type for node in model.graph.node}
    assert {"TopK", "Conv"} <= operators
    assert ("QuantizeLinear" in operators) == (kind == "int8")


def test_faults_are_found(table: dict[str, Any]) -> None:
    """The check itself: each of these nodes is a fault."""
    value, tensor = helper.make_tensor_value_info, numpy_helper.from_array
    held = [
        tensor(np.array([4000]), "k"), tensor(np.array(0.1, np.float32), "scale"), tensor(np.array(3, np.int8), "zero")
    ]  # fmt: skip
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["top", "at"], "topk", sorted=0),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "q"),
        helper.make_node("Add", ["bytes", "bytes"], ["sum"], "add"),
        helper.make_node("ReduceSum", ["x", "axes"], ["reduced"], "reduce"),
        helper.make_node("Unique", ["x"], ["unique"], "unique"),
    ]
    inputs = [value("x", TensorProto.FLOAT, [5000]), value("bytes", TensorProto.UINT8, [4])]
    inputs.append(value("axes", TensorProto.INT64, [1]))
    graph = helper.make_graph(nodes, "wrong", inputs, [value("top", TensorProto.FLOAT, [4000])], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    found = list(faults(model, table))
    for part in ("not sorted", "3840", "zero point", "reads uint8", "axes are computed", "Unique unique: not"):
        assert any(part in line for line in found), (part, found)
