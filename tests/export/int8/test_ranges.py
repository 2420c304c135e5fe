"""Calibration samples, grids, and the range chosen by measured error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.export.graph import feed
from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import tensors_to_sample
from yolopose.export.int8.ranges import (
    METHODS,
    Samples,
    choose_range,
    collect_samples,
    convolution_error,
    make_grid,
    silu,
    value_error,
)

from .graphs import SIZE, random_images, small_graph

ends = st.floats(-1e4, 1e4, width=32)


def make_samples(rows: np.ndarray) -> Samples:
    return Samples(float(rows.min()), float(rows.max()), rows.astype(np.float32))


def test_fixed_batch_is_filled_and_gives_the_same_samples() -> None:
    model = small_graph()
    tensors = tensors_to_sample(find_body(model), "cpu")
    one, two = (collect_samples(model, tensors, random_images(5), rows=rows) for rows in (1, 2))
    for name in tensors:
        assert (one[name].low, one[name].high) == pytest.approx((two[name].low, two[name].high), abs=1e-5)
        assert one[name].rows.shape == two[name].rows.shape
    shapes = [array.shape for array in feed(random_images(3), rows=4).values()]
    assert shapes == [(4, SIZE, SIZE, 3), (4, 1), (4, 1)]


@given(ends, ends, st.booleans())
def test_grid_represents_zero_exactly_and_values_to_half_a_step(a: float, b: float, symmetric: bool) -> None:
    low, high = min(a, b), max(a, b)
    grid = make_grid(low, high, symmetric)
    assert grid.quantized(np.zeros(1, np.float32))[0] == 0
    assert grid.low <= grid.zero_point <= grid.high
    assert grid.scale > 0
    values = np.linspace(low, high, 50, dtype=np.float32)
    slack = 1.01 if symmetric else 1.51  # the zero point is rounded too
    assert np.abs(grid.quantized(values) - values).max() <= slack * grid.scale / 2 + 1e-6 * max(abs(low), abs(high))


@given(ends, ends, st.booleans())
def test_quantizing_twice_is_quantizing_once(a: float, b: float, symmetric: bool) -> None:
    grid = make_grid(min(a, b), max(a, b), symmetric)
    once = grid.quantized(np.linspace(a, b, 31, dtype=np.float32))
    np.testing.assert_array_equal(grid.quantized(once), once)


@given(ends, ends, st.booleans())
def test_range_of_a_grid_makes_the_same_grid(a: float, b: float, symmetric: bool) -> None:
    grid = make_grid(min(a, b), max(a, b), symmetric)
    low, high = grid.range
    assert low <= 0 <= high
    again = make_grid(low, high, symmetric)
    assert again.zero_point == grid.zero_point
    assert again.scale == pytest.approx(grid.scale, rel=1e-6)


def test_symmetric_grid_is_int8_with_zero_point_0() -> None:
    grid = make_grid(-3, 1, symmetric=True)
    assert (grid.zero_point, grid.low, grid.high, grid.signed) == (0, -128, 127, True)
    assert grid.scale == np.float32(3 / 127)


def test_pixels_are_exact() -> None:
    rows = np.arange(256, dtype=np.float32)[:, None].repeat(3, 1)
    choice = choose_range(make_samples(rows), value_error, symmetric=False)
    assert choice.grid == make_grid(0, 255, symmetric=False)
    assert choice.grid.scale == 1
    assert choice.errors[choice.method] == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_outliers_without_weight_are_clipped(symmetric: bool) -> None:
    """The channel with the outlier has weight 0: only a range that clips it is good for the others."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (4000, 4)).astype(np.float32)
    rows[7, 3] = 400
    weight = np.ones((2, 4, 1, 1), np.float32)
    weight[:, 3] = 0
    choice = choose_range(make_samples(rows), convolution_error(weight, 1), symmetric)
    assert choice.grid.scale * 127 < 10
    assert choice.errors[choice.method] == min(choice.errors.values())
    assert choice.errors[choice.method] < choice.errors["min-max"] / 100
    assert set(choice.errors) == set(METHODS)


def test_values_that_silu_flattens_are_clipped() -> None:
    rows = np.random.default_rng(0).normal(-20, 12, (4000, 2)).astype(np.float32)
    plain = choose_range(make_samples(rows), value_error, symmetric=False)
    before_silu = choose_range(make_samples(rows), lambda x, y: value_error(silu(x), silu(y)), symmetric=False)
    assert before_silu.grid.scale < 0.8 * plain.grid.scale


def test_convolution_error_is_the_error_of_its_output() -> None:
    rng = np.random.default_rng(3)
    rows, noise = (rng.normal(0, 1, (500, 6)).astype(np.float32) for _ in range(2))
    weight = rng.normal(0, 1, (5, 6, 1, 1)).astype(np.float32)
    expected = np.square(noise @ weight[:, :, 0, 0].T).mean()
    assert convolution_error(weight, 1)(rows, rows + noise) == pytest.approx(expected, rel=1e-4)
    depthwise = rng.normal(0, 1, (6, 1, 3, 3)).astype(np.float32)
    expected = (np.square(noise).mean(0) * np.square(depthwise).sum((1, 2, 3))).mean()
    assert convolution_error(depthwise, 6)(rows, rows + noise) == pytest.approx(expected, rel=1e-4)


def test_tensor_of_zeros_has_a_grid() -> None:
    choice = choose_range(make_samples(np.zeros((64, 3), np.float32)), value_error, symmetric=False)
    assert np.isfinite(choice.grid.scale)
    assert choice.grid.scale > 0
