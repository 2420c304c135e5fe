"""float16 as a graph pass: which nodes become float16, which stay float32, and that results agree."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolopose.export.graph import feed, open_session, prediction_convolutions, with_outputs
from yolopose.export.precision import FLOAT16_MAX, float16_emulation, out_of_range, to_float16
from yolopose.runtime.errors import ArtifactError

from .int8.graphs import random_images, small_graph


def graph(weight: float = 0.5) -> onnx.ModelProto:
    """images uint8 -> Cast -> Conv -> Resize x2 -> two prediction Convs; other nodes read a shape and a mean."""
    rng = np.random.default_rng(0)
    body = rng.normal(0, weight, (4, 3, 3, 3)).astype(np.float32)
    head = rng.normal(0, 0.1, (2, 4, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "body", "body_bias"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("Resize", ["active", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Shape", ["large"], ["shape"]),
        helper.make_node("Conv", ["large", "head"], ["boxes"], name="predict_boxes"),
        helper.make_node("Conv", ["large", "head"], ["points"], name="predict_points"),
        helper.make_node("Cast", ["shape"], ["shape_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["shape_float"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["boxes", "largest"], ["scaled"]),
        helper.make_node("ReduceMean", ["large"], ["level"], keepdims=0),
    ]
    tensors = {
        "body": body,
        "body_bias": np.zeros(4, np.float32),
        "head": head,
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    shapes = {"scaled": [1, 2, 16, 16], "points": [1, 2, 16, 16], "level": []}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 3, 8, 8])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    images = np.random.default_rng(1).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})


def test_prediction_convolutions_have_no_convolution_behind_them() -> None:
    assert [node.name for node in prediction_convolutions(graph().graph)] == ["predict_boxes", "predict_points"]


def test_body_becomes_float16_and_predictions_stay_float32() -> None:
    model = graph()
    expected = run(model)
    assert to_float16(model) == ["predict_boxes", "predict_points"]
    onnx.checker.check_model(model, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types == {
        "scales": TensorProto.FLOAT,
        "head": TensorProto.FLOAT,
        "body_float16": TensorProto.FLOAT16,
        "body_bias_float16": TensorProto.FLOAT16,
    }
    # one Cast at the border serves all its readers, and shapes need none
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 3
    assert next(node for node in model.graph.node if node.op_type == "Shape").input[0] == "large"
    for half, full in zip(run(model), expected, strict=True):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, full, rtol=5e-3, atol=0.5)
        assert not np.array_equal(half, full)  # rounding is visible


def test_rejects_weights_beyond_float16_by_name() -> None:
    with pytest.raises(ValueError, match=f"'body'.*{FLOAT16_MAX:g}"):
        to_float16(graph(weight=1e5))


def test_rejects_graph_without_convolution() -> None:
    model = graph()
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Cast", ["images"], ["level"], to=TensorProto.FLOAT))
    with pytest.raises(ValueError, match="no convolution"):
        to_float16(model)


def outputs(model: onnx.ModelProto) -> list[np.ndarray]:
    session = open_session(model)
    return [value for image in random_images(2, seed=9) for value in session.run(None, feed([image]))]


def graph_with_large_values() -> onnx.ModelProto:
    """A small graph whose layer "inner" writes values beyond float16, which "depthwise" scales back."""
    model = small_graph()
    for tensor in model.graph.initializer:
        factor = {"inner.weight": 1e4, "depthwise.weight": 1e-4}.get(tensor.name)
        if factor:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    return model


def test_nodes_with_values_beyond_float16_stay_float32() -> None:
    expected = outputs(graph_with_large_values())
    model = graph_with_large_values()
    large = out_of_range(model, random_images(8))
    assert {"inner", "inner_out_mul", "residual", "depthwise"} <= set(large)
    assert "stem" not in large
    assert "last" not in large
    assert max(large.values()) > FLOAT16_MAX
    # As a GPU computes it: the CPU provider computes float16 files in float32, so it would not overflow.
    assert not all(
        np.allclose(*pair, atol=0.5) for pair in zip(outputs(float16_emulation(model)), expected, strict=True)
    )
    for found, wanted in zip(outputs(float16_emulation(model, large)), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.02)
    to_float16(model, large)
    onnx.checker.check_model(model, full_check=True)
    half = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    assert "stem.weight_float16" in half
    assert "inner.weight_float16" not in half
    for found, wanted in zip(outputs(model), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.02)


def test_usual_values_are_in_range() -> None:
    assert out_of_range(small_graph(), random_images(4)) == {}


def test_rejects_values_that_are_not_finite() -> None:
    model = graph_with_large_values()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "inner.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((8, 8, 3, 3), 1e38, np.float32), "inner.weight"))
    with pytest.raises(ArtifactError, match="not finite"):
        out_of_range(model, random_images(2))


def test_emulation_rounds_each_result_once() -> None:
    model = small_graph()
    copy = float16_emulation(model)
    session = open_session(with_outputs(copy, ["stem_out_rounded", "sum_rounded", "predict_boxes_out"]))
    plain = open_session(with_outputs(model, ["stem_out", "predict_boxes_out"]))
    for image in random_images(2):
        stem, total, boxes = session.run(None, feed([image]))
        for value in (stem, total):
            np.testing.assert_array_equal(value, value.astype(np.float16).astype(np.float32))
        before, boxes_before = plain.run(None, feed([image]))
        np.testing.assert_allclose(stem, before, rtol=2e-3, atol=5e-3)
        assert not np.array_equal(boxes, boxes.astype(np.float16).astype(np.float32))  # predictions are float32
        np.testing.assert_allclose(boxes, boxes_before, atol=0.05)
