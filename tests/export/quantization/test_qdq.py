"""The int8 graph of each engine: what is rounded where, what never is, and that it computes what the float one does."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from yolopose.export.config import TARGETS, Target
from yolopose.export.graph import feed, open_session, prediction_convolutions
from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import quantize

from .graphs import SIZE, pictures, small_graph, small_plan

ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def outputs(model: onnx.ModelProto, images: list[np.ndarray]) -> np.ndarray:
    session = open_session(model, threads=1)
    return np.stack([np.stack(session.run(None, feed([image]))) for image in images])


def operators(model: onnx.ModelProto) -> collections.Counter[str]:
    return collections.Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("target", TARGETS)
def test_computes_what_the_float_graph_does(target: Target) -> None:
    model = small_graph()
    untouched = model.SerializeToString()
    rounded = quantize(model, small_plan(target, model))
    assert model.SerializeToString() == untouched
    assert [v.name for v in rounded.graph.output] == ["boxes", "points"]
    images = pictures(8, seed=9)
    before, after = outputs(model, images), outputs(rounded, images)
    assert not np.array_equal(before, after)
    assert np.abs(before - after).mean() < 0.05 * before.std()  # a graph of random weights, where errors grow


@pytest.mark.parametrize("target", TARGETS)
def test_keeping_every_layer_leaves_the_float_graph(target: Target) -> None:
    model = small_graph()
    plan = small_plan(target, model)
    kept = quantize(model, plan.keeping(layer.name for layer in plan.body.layers))
    assert not any(node.op_type in ROUNDING for node in kept.graph.node)
    images = pictures(4, seed=9)
    np.testing.assert_array_equal(outputs(model, images), outputs(kept, images))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_from_the_prediction_convolutions_on_is_rounded(target: Target) -> None:
    model = small_graph()
    rounded = quantize(model, small_plan(target, model))
    behind = {output for node in prediction_convolutions(rounded.graph) for output in node.output}
    for node in rounded.graph.node:
        if node.op_type in ROUNDING:
            assert not behind & set(node.input)
        if behind & set(node.input):
            behind.update(node.output)
    predictions = prediction_convolutions(rounded.graph)
    assert [node.input[1] for node in predictions] == ["predict_boxes.weight", "predict_points.weight"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_kept_layer_is_computed_in_floating_point(target: Target) -> None:
    model = small_graph()
    plan = small_plan(target, model)
    rounded = quantize(model, plan.keeping(["inner"]))
    convolutions = {node.name: node for node in rounded.graph.node if node.op_type == "Conv"}
    assert convolutions["inner"].input[1] == "inner.weight"
    assert convolutions["stem"].input[1] == "stem.weight_rounded"
    quantized = {node.input[0] for node in rounded.graph.node if node.op_type == "QuantizeLinear"}
    assert "inner_out" not in quantized


def test_onnxruntime_fuses_every_layer_into_integer_kernels(tmp_path: Path) -> None:
    model = small_graph()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    content = quantize(model, small_plan("cpu", model)).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert found["QLinearConv"] == 4
    assert found["QLinearSigmoid"] == 3
    assert found["QLinearMul"] == 3
    assert found["QLinearAdd"] == 1
    assert found["QLinearConcat"] == 1
    # What is left in floating point are the two prediction convolutions and the activation in front of them.
    assert sum(found[kind] for kind in ("Conv", "FusedConv")) == 2


def test_tensorrt_wants_symmetric_integers_and_floating_bias() -> None:
    model = small_graph()
    plan = small_plan("tensorrt", model)
    rounded = quantize(model, plan)
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in rounded.graph.initializer}
    for node in rounded.graph.node:
        if node.op_type in ROUNDING:
            zero = held[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    for node in rounded.graph.node:
        if node.op_type == "Conv":
            assert held[node.input[2]].dtype == np.float32
            assert node.input[1].endswith("_rounded") == (not node.name.startswith("predict"))
    addition = next(node for node in rounded.graph.node if node.op_type == "Add")
    assert all(name.endswith("_rounded") for name in addition.input)
    around_concat = [plan.grid(name).scale for name in ("joined", "depthwise_out_silu") if name in plan.choices]
    assert len(set(around_concat)) == 1


def test_openvino_gets_rounded_inputs_of_convolutions_alone() -> None:
    model = small_graph()
    rounded = quantize(model, small_plan("openvino", model))
    readers = collections.defaultdict(set)
    for node in rounded.graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    for node in rounded.graph.node:
        if node.op_type == "DequantizeLinear":
            assert readers[node.output[0]] == {"Conv"}


@pytest.mark.parametrize("target", TARGETS)
def test_tensors_of_one_grid_keep_the_widest_range_of_all(target: Target) -> None:
    """Behind MaxPool small negative values are gone, whose grid would cut them off in front of it."""
    model = small_graph()
    plan = small_plan(target, model)
    names = [name for name in ("depthwise_out_silu", "pooled") if name in plan.choices]
    grids = {plan.grid(name) for name in names}
    assert len(grids) <= 1
    if target == "cpu":
        low, high = grids.pop().range
        assert low < -0.1
        assert high > 0.1


def chain(activation: str, shared: bool = False) -> onnx.ModelProto:
    """Three convolutions in a row with ``activation`` between them; the second with the first one's weights."""
    rng = np.random.default_rng(3)
    weights = {f"w{i}": rng.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32) for i in range(3)}
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=onnx.TensorProto.FLOAT)]
    nodes.append(helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Mul", ["planes", "scale"], ["x0"]))
    for i in range(3):
        weight = "w0" if shared and i == 1 else f"w{i}"
        nodes.append(helper.make_node("Conv", [f"x{i}", weight], [f"y{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node(activation if i < 2 else "Sigmoid", [f"y{i}"], [f"x{i + 1}"], f"act{i}"))
    value = helper.make_tensor_value_info
    inputs = [value("images", onnx.TensorProto.UINT8, ["batch", SIZE, SIZE, 3])]
    inputs += [value(name, onnx.TensorProto.FLOAT, ["batch", 1]) for name in ("score_threshold", "iou_threshold")]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    held.append(numpy_helper.from_array(np.array(1 / 64, np.float32), "scale"))
    outputs = [value("x3", onnx.TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
    graph = helper.make_graph(nodes, "chain", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("target", TARGETS)
def test_a_relu_is_contained_in_the_rounding_behind_it(target: Target, tmp_path: Path) -> None:
    model = chain("Relu")
    rounded = quantize(model, small_plan(target, model))
    quantized = {node.input[0] for node in rounded.graph.node if node.op_type == "QuantizeLinear"}
    assert not quantized & {"y0", "y1"}
    assert "x1" in quantized
    images = pictures(8, seed=9)
    before, after = outputs(model, images), outputs(rounded, images)
    assert np.abs(before - after).mean() < 0.05 * before.std()
    if target == "cpu":
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(rounded.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = operators(onnx.load(tmp_path / "optimized.onnx"))
        assert found["QLinearConv"] == 2
        assert found["Relu"] == 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_leaky_relu_is_looked_through(target: Target) -> None:
    model = chain("LeakyRelu")
    plan = small_plan(target, model)
    assert [layer.negative_slope for layer in plan.body.layers] == [pytest.approx(0.01)] * 2
    images = pictures(8, seed=9)
    before, after = outputs(model, images), outputs(quantize(model, plan), images)
    assert np.abs(before - after).mean() < 0.05 * before.std()
    if target == "cpu":  # cutting most of what is negative costs nothing behind a slope of 0.01
        low, high = plan.grid("y0").range
        assert -low < high


@pytest.mark.parametrize("target", TARGETS)
def test_layers_that_share_weights_are_rounded_each_for_itself(target: Target) -> None:
    model = chain("Relu", shared=True)
    plan = small_plan(target, model)
    assert [layer.name for layer in plan.body.layers] == ["w0", "w0 (2)"]
    images = pictures(8, seed=9)
    for kept in ([], ["w0"], ["w0 (2)"]):
        rounded = quantize(model, plan.keeping(kept))
        onnx.checker.check_model(rounded, full_check=True)
        before, after = outputs(model, images), outputs(rounded, images)
        assert 0 < np.abs(before - after).mean() < 0.05 * before.std()


def test_the_same_inputs_give_the_same_bytes() -> None:
    made = [quantize(small_graph(), small_plan("cpu")).SerializeToString() for _ in range(2)]
    assert made[0] == made[1]


def test_nodes_without_names_are_as_good() -> None:
    named, unnamed = small_graph(), small_graph(name_nodes=False)
    images = pictures(2, seed=9)
    one, other = (outputs(quantize(model, small_plan("cpu", model)), images) for model in (named, unnamed))
    np.testing.assert_array_equal(one, other)


def test_what_cannot_become_int8_is_refused() -> None:
    model = small_graph()
    rounded = quantize(model, small_plan("cpu", model))
    with pytest.raises(ValueError, match="quantized already"):
        find_body(rounded)
    broken = small_graph()
    weight = next(tensor for tensor in broken.graph.initializer if tensor.name == "inner.weight")
    weight.CopyFrom(numpy_helper.from_array(np.full((8, 8, 3, 3), np.nan, np.float32), "inner.weight"))
    with pytest.raises(ValueError, match=r"inner\.weight.*not finite"):
        find_body(broken)
    half = small_graph()
    half.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float16), "half"))
    with pytest.raises(ValueError, match="float16 already"):
        find_body(half)
