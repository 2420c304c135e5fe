"""Quantized weights, and the int8 graph of each target: what is quantized, what never is, and what it computes."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from yolopose.export.config import TARGETS, Target
from yolopose.export.graph import feed, open_session, prediction_convolutions
from yolopose.export.int8.layers import Layer
from yolopose.export.int8.quantize import QuantizedWeights, quantize, quantize_weights
from yolopose.export.int8.ranges import Samples, make_grid

from .graphs import chain, random_images, small_graph, small_plan

Q_AND_DQ = ("QuantizeLinear", "DequantizeLinear")


def make_layer(weight: np.ndarray, groups: int = 1) -> Layer:
    bias = np.linspace(-1, 1, len(weight)).astype(np.float32)
    return Layer("layer", ("conv",), "in", "out", "out", weight.astype(np.float32), bias, groups)


def make_inputs(channels: int, seed: int = 0) -> Samples:
    rows = np.abs(np.random.default_rng(seed).normal(0, 1, (800, channels))).astype(np.float32)
    return Samples(float(rows.min()), float(rows.max()), rows)


def quantized_weights(layer: Layer, inputs: Samples, limit_pairs: bool) -> QuantizedWeights:
    return quantize_weights(layer, inputs, make_grid(inputs.low, inputs.high, False), limit_pairs)


def dequantized(weights: QuantizedWeights) -> np.ndarray:
    return weights.integers * weights.scales[:, None, None, None]


@given(st.integers(0, 1000), st.sampled_from([(4, 6, 1, 1), (3, 4, 3, 3), (5, 1, 3, 3)]))
def test_two_products_fit_16_bits(seed: int, shape: tuple[int, int, int, int]) -> None:
    """``vpmaddubsw`` adds uint8 x int8 of neighbors, in whichever order of channels and taps the kernel stores them."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(2, shape)  # long tails
    integers = quantized_weights(make_layer(weight), make_inputs(shape[1]), limit_pairs=True).integers.astype(int)
    for order in (integers, integers.transpose(0, 2, 3, 1)):
        flat = order.reshape(len(order), -1)
        for sign in (1, -1):
            products = np.maximum(sign * flat, 0) * 255
            assert (products[:, 1:] + products[:, :-1]).max(initial=0) < 2**15
            assert products.max() < 2**15


def test_weights_are_close_and_use_the_full_range_without_pair_limit() -> None:
    rng = np.random.default_rng(0)
    layer = make_layer(rng.normal(0, 0.1, (16, 32, 3, 3)))
    for limit_pairs in (False, True):
        weights = quantized_weights(layer, make_inputs(32), limit_pairs)
        relative = np.square(dequantized(weights) - layer.weight).sum() / np.square(layer.weight).sum()
        assert relative < 1e-3
    assert np.abs(quantized_weights(layer, make_inputs(32), False).integers).max() == 127
    # Better than 7-bit weights, the usual remedy, although no pair overflows.
    scale = np.abs(layer.weight).reshape(16, -1).max(1)[:, None, None, None] / 63
    seven_bits = np.square(np.rint(layer.weight / scale) * scale - layer.weight).sum()
    limited = quantized_weights(layer, make_inputs(32), True)
    assert np.square(dequantized(limited) - layer.weight).sum() < 0.6 * seven_bits


def test_input_channels_without_energy_do_not_determine_the_scale() -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (2, 8, 1, 1))
    weight[:, 0] = 5  # reads a channel that is always zero
    inputs = make_inputs(8)
    inputs.rows[:, 0] = 0
    weights = quantized_weights(make_layer(weight), inputs, limit_pairs=False)
    assert (weights.scales < 4 / 127).all()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_bias_correction_restores_the_mean_output(groups: int) -> None:
    rng = np.random.default_rng(1)
    layer = make_layer(rng.normal(0, 0.3, (8, 8 // groups, 1, 1)) + 0.2, groups)
    inputs = make_inputs(8)
    grid = make_grid(0, inputs.high / 2, False)  # clips, which shifts the mean
    clipped = grid.quantized(inputs.rows)

    def output(weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
        parts = np.split(rows, groups, axis=1)
        weights = np.split(weight[:, :, 0, 0], groups)
        return np.concatenate([part @ w.T for part, w in zip(parts, weights, strict=True)], axis=1)

    before = output(layer.weight, inputs.rows).mean(0) + layer.bias
    errors = []
    for correct_bias in (False, True):
        weights = quantize_weights(layer, inputs, grid, False, correct_bias)
        errors.append(np.abs(output(dequantized(weights), clipped).mean(0) + weights.bias - before).max())
    assert errors[1] < 1e-4 < errors[0]


def test_channels_of_zeros_stay_zero() -> None:
    weights = quantized_weights(make_layer(np.zeros((2, 3, 1, 1))), make_inputs(3), limit_pairs=True)
    assert not weights.integers.any()
    assert np.isfinite(weights.scales).all()
    assert (weights.scales > 0).all()


def test_bias_fits_int32_where_weights_are_almost_zero() -> None:
    layer = make_layer(np.full((2, 3, 1, 1), 1e-9))
    inputs = make_inputs(3)
    grid = make_grid(inputs.low, inputs.high, False)
    weights = quantize_weights(layer, inputs, grid, limit_pairs=True)
    assert (np.abs(weights.bias) / (weights.scales * grid.scale) < 2**31).all()
    np.testing.assert_allclose(weights.bias, layer.bias, atol=1e-6)


def outputs(model: onnx.ModelProto, images: list[np.ndarray]) -> np.ndarray:
    session = open_session(model, threads=1)
    return np.stack([np.stack(session.run(None, feed([image]))) for image in images])


def optimized_operators(model: onnx.ModelProto, folder: Path) -> collections.Counter[str]:
    """Number of nodes of each type after the optimizations of ONNX Runtime for the CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return collections.Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("target", TARGETS)
def test_int8_graph_computes_the_float32_graph(target: Target) -> None:
    model = small_graph()
    untouched = model.SerializeToString()
    quantized = quantize(model, small_plan(target, model))
    assert model.SerializeToString() == untouched
    assert [v.name for v in quantized.graph.output] == ["boxes", "points"]
    images = random_images(8, seed=9)
    before, after = outputs(model, images), outputs(quantized, images)
    assert not np.array_equal(before, after)
    assert np.abs(before - after).mean() < 0.05 * before.std()  # a graph of random weights, where errors grow


@pytest.mark.parametrize("target", TARGETS)
def test_all_layers_float32_is_the_float32_graph(target: Target) -> None:
    model = small_graph()
    plan = small_plan(target, model)
    unchanged = quantize(model, plan.with_float32_layers(layer.name for layer in plan.body.layers))
    assert not any(node.op_type in Q_AND_DQ for node in unchanged.graph.node)
    images = random_images(4, seed=9)
    np.testing.assert_array_equal(outputs(model, images), outputs(unchanged, images))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_quantized_from_the_prediction_convolutions_on(target: Target) -> None:
    model = small_graph()
    quantized = quantize(model, small_plan(target, model))
    behind = {output for node in prediction_convolutions(quantized.graph) for output in node.output}
    for node in quantized.graph.node:
        if node.op_type in Q_AND_DQ:
            assert not behind & set(node.input)
        if behind & set(node.input):
            behind.update(node.output)
    predictions = prediction_convolutions(quantized.graph)
    assert [node.input[1] for node in predictions] == ["predict_boxes.weight", "predict_points.weight"]


@pytest.mark.parametrize("target", TARGETS)
def test_float32_layers_compute_in_floating_point(target: Target) -> None:
    model = small_graph()
    plan = small_plan(target, model)
    quantized = quantize(model, plan.with_float32_layers(["inner"]))
    convolutions = {node.name: node for node in quantized.graph.node if node.op_type == "Conv"}
    assert convolutions["inner"].input[1] == "inner.weight"
    assert convolutions["stem"].input[1] == "stem.weight_rounded"
    quantized_tensors = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    assert "inner_out" not in quantized_tensors


def test_onnxruntime_fuses_all_layers_into_integer_kernels(tmp_path: Path) -> None:
    model = small_graph()
    found = optimized_operators(quantize(model, small_plan("cpu", model)), tmp_path)
    assert found["QLinearConv"] == 4
    assert found["QLinearSigmoid"] == 3
    assert found["QLinearMul"] == 3
    assert found["QLinearAdd"] == 1
    assert found["QLinearConcat"] == 1
    # Only the two prediction convolutions compute in floating point.
    assert sum(found[kind] for kind in ("Conv", "FusedConv")) == 2


def test_tensorrt_graph_has_symmetric_integers_and_float32_bias() -> None:
    model = small_graph()
    plan = small_plan("tensorrt", model)
    quantized = quantize(model, plan)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    for node in quantized.graph.node:
        if node.op_type in Q_AND_DQ:
            zero = constants[node.input[2]]
            assert zero.dtype == np.int8
            assert not zero.any()
    for node in quantized.graph.node:
        if node.op_type == "Conv":
            assert constants[node.input[2]].dtype == np.float32
            assert node.input[1].endswith("_rounded") == (not node.name.startswith("predict"))
    addition = next(node for node in quantized.graph.node if node.op_type == "Add")
    assert all(name.endswith("_rounded") for name in addition.input)
    around_concat = [plan.grid(name).scale for name in ("joined", "depthwise_out_silu") if name in plan.choices]
    assert len(set(around_concat)) == 1


def test_openvino_graph_quantizes_only_inputs_of_convolutions() -> None:
    model = small_graph()
    quantized = quantize(model, small_plan("openvino", model))
    readers = collections.defaultdict(set)
    for node in quantized.graph.node:
        for name in node.input:
            readers[name].add(node.op_type)
    for node in quantized.graph.node:
        if node.op_type == "DequantizeLinear":
            assert readers[node.output[0]] == {"Conv"}


@pytest.mark.parametrize("target", TARGETS)
def test_shared_grid_has_the_widest_range(target: Target) -> None:
    """After MaxPool small negative values are gone; the grid of its output would clip them in its input."""
    model = small_graph()
    plan = small_plan(target, model)
    names = [name for name in ("depthwise_out_silu", "pooled") if name in plan.choices]
    grids = {plan.grid(name) for name in names}
    assert len(grids) <= 1
    if target == "cpu":
        low, high = grids.pop().range
        assert low < -0.1
        assert high > 0.1


@pytest.mark.parametrize("target", TARGETS)
def test_relu_is_included_in_the_quantization_after_it(target: Target, tmp_path: Path) -> None:
    model = chain("Relu")
    quantized = quantize(model, small_plan(target, model))
    quantized_tensors = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    assert not quantized_tensors & {"y0", "y1"}
    assert "x1" in quantized_tensors
    images = random_images(8, seed=9)
    before, after = outputs(model, images), outputs(quantized, images)
    assert np.abs(before - after).mean() < 0.05 * before.std()
    if target == "cpu":
        found = optimized_operators(quantized, tmp_path)
        assert found["QLinearConv"] == 2
        assert found["Relu"] == 0


@pytest.mark.parametrize("target", TARGETS)
def test_error_is_measured_behind_leaky_relu(target: Target) -> None:
    model = chain("LeakyRelu")
    plan = small_plan(target, model)
    images = random_images(8, seed=9)
    before, after = outputs(model, images), outputs(quantize(model, plan), images)
    assert np.abs(before - after).mean() < 0.05 * before.std()
    if target == "cpu":  # clipping most negative values costs nothing before a slope of 0.01
        low, high = plan.grid("y0").range
        assert -low < high


@pytest.mark.parametrize("target", TARGETS)
def test_layers_that_share_weights_are_quantized_separately(target: Target) -> None:
    model = chain("Relu", shared=True)
    plan = small_plan(target, model)
    images = random_images(8, seed=9)
    for float32_layers in ([], ["w0"], ["w0 (2)"]):
        quantized = quantize(model, plan.with_float32_layers(float32_layers))
        onnx.checker.check_model(quantized, full_check=True)
        before, after = outputs(model, images), outputs(quantized, images)
        assert 0 < np.abs(before - after).mean() < 0.05 * before.std()


def test_equal_inputs_give_equal_bytes() -> None:
    made = [quantize(small_graph(), small_plan("cpu")).SerializeToString() for _ in range(2)]
    assert made[0] == made[1]


def test_nodes_without_names_are_quantized_alike() -> None:
    named, unnamed = small_graph(), small_graph(name_nodes=False)
    images = random_images(2, seed=9)
    first, second = (outputs(quantize(model, small_plan("cpu", model)), images) for model in (named, unnamed))
    np.testing.assert_array_equal(first, second)
