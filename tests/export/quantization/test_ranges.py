"""Grids, and the method that is chosen by measured error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.export.int8.ranges import METHODS, Samples, choose, grid_of, reads_convolution, reads_values, silu

ends = st.floats(-1e4, 1e4, width=32)


def samples(rows: np.ndarray) -> Samples:
    return Samples(float(rows.min()), float(rows.max()), rows.astype(np.float32))


@given(ends, ends, st.booleans())
def test_a_grid_holds_zero_exactly_and_its_range_to_half_a_step(a: float, b: float, symmetric: bool) -> None:
    low, high = min(a, b), max(a, b)
    grid = grid_of(low, high, symmetric)
    assert grid.rounded(np.zeros(1, np.float32))[0] == 0
    assert grid.low <= grid.zero_point <= grid.high
    assert grid.scale > 0
    values = np.linspace(low, high, 50, dtype=np.float32)
    slack = 1.01 if symmetric else 1.51  # the zero point is rounded too
    assert np.abs(grid.rounded(values) - values).max() <= slack * grid.scale / 2 + 1e-6 * max(abs(low), abs(high))


@given(ends, ends, st.booleans())
def test_rounding_twice_is_rounding_once(a: float, b: float, symmetric: bool) -> None:
    grid = grid_of(min(a, b), max(a, b), symmetric)
    once = grid.rounded(np.linspace(a, b, 31, dtype=np.float32))
    np.testing.assert_array_equal(grid.rounded(once), once)


def test_symmetric_grids_are_what_tensorrt_wants() -> None:
    grid = grid_of(-3, 1, symmetric=True)
    assert (grid.zero_point, grid.low, grid.high, grid.signed) == (0, -128, 127, True)
    assert grid.scale == np.float32(3 / 127)


def test_pixels_are_exact() -> None:
    rows = np.arange(256, dtype=np.float32)[:, None].repeat(3, 1)
    choice = choose(samples(rows), reads_values, symmetric=False)
    assert choice.grid == grid_of(0, 255, symmetric=False)
    assert choice.grid.scale == 1
    assert choice.errors[choice.method] == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_outliers_that_nobody_reads_are_cut(symmetric: bool) -> None:
    """The channel with the outlier has no weight: only a range that cuts it serves the others."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (4000, 4)).astype(np.float32)
    rows[7, 3] = 400
    weight = np.ones((2, 4, 1, 1), np.float32)
    weight[:, 3] = 0
    choice = choose(samples(rows), reads_convolution(weight, 1), symmetric)
    assert choice.grid.scale * 127 < 10
    assert choice.errors[choice.method] == min(choice.errors.values())
    assert choice.errors[choice.method] < choice.errors["min-max"] / 100
    assert set(choice.errors) == set(METHODS)


def test_what_silu_flattens_is_cut() -> None:
    rows = np.random.default_rng(0).normal(-20, 12, (4000, 2)).astype(np.float32)
    plain = choose(samples(rows), reads_values, symmetric=False)
    before_silu = choose(samples(rows), lambda x, y: reads_values(silu(x), silu(y)), symmetric=False)
    assert before_silu.grid.scale < 0.8 * plain.grid.scale


def test_error_of_a_convolution_is_that_at_its_output() -> None:
    rng = np.random.default_rng(3)
    rows, noise = (rng.normal(0, 1, (500, 6)).astype(np.float32) for _ in range(2))
    weight = rng.normal(0, 1, (5, 6, 1, 1)).astype(np.float32)
    expected = np.square(noise @ weight[:, :, 0, 0].T).mean()
    assert reads_convolution(weight, 1)(rows, rows + noise) == pytest.approx(expected, rel=1e-4)
    depthwise = rng.normal(0, 1, (6, 1, 3, 3)).astype(np.float32)
    expected = (np.square(noise).mean(0) * np.square(depthwise).sum((1, 2, 3))).mean()
    assert reads_convolution(depthwise, 6)(rows, rows + noise) == pytest.approx(expected, rel=1e-4)


def test_a_tensor_of_zeros_has_a_grid() -> None:
    choice = choose(samples(np.zeros((64, 3), np.float32)), reads_values, symmetric=False)
    assert np.isfinite(choice.grid.scale)
    assert choice.grid.scale > 0


@given(ends, ends, st.booleans())
def test_the_range_of_a_grid_makes_the_same_grid(a: float, b: float, symmetric: bool) -> None:
    grid = grid_of(min(a, b), max(a, b), symmetric)
    low, high = grid.range
    assert low <= 0 <= high
    again = grid_of(low, high, symmetric)
    assert again.zero_point == grid.zero_point
    assert again.scale == pytest.approx(grid.scale, rel=1e-6)
