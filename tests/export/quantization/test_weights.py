"""Weights as integers: products that fit 16 bits in pairs, least error, and a bias that restores the mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.export.int8.layers import Layer
from yolopose.export.int8.quantize import RoundedWeights, round_weights
from yolopose.export.int8.ranges import Samples, grid_of


def layer(weight: np.ndarray, groups: int = 1) -> Layer:
    bias = np.linspace(-1, 1, len(weight)).astype(np.float32)
    return Layer("layer", ("conv",), "in", "out", "out", weight.astype(np.float32), bias, groups)


def inputs(channels: int, seed: int = 0) -> Samples:
    rows = np.abs(np.random.default_rng(seed).normal(0, 1, (800, channels))).astype(np.float32)
    return Samples(float(rows.min()), float(rows.max()), rows)


def made(one: Layer, given_inputs: Samples, pairs: bool, correct_bias: bool = True) -> RoundedWeights:
    return round_weights(one, given_inputs, grid_of(given_inputs.low, given_inputs.high, False), pairs, correct_bias)


def dequantized(rounded: RoundedWeights) -> np.ndarray:
    return rounded.integers * rounded.scales[:, None, None, None]


@given(st.integers(0, 1000), st.sampled_from([(4, 6, 1, 1), (3, 4, 3, 3), (5, 1, 3, 3)]))
def test_two_products_never_leave_16_bits(seed: int, shape: tuple[int, int, int, int]) -> None:
    """What ``vpmaddubsw`` adds: uint8 x int8 of neighbours, whichever order of channels and taps the kernel has."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(2, shape)  # long tails
    integers = made(layer(weight), inputs(shape[1]), pairs=True).integers.astype(int)
    for order in (integers, integers.transpose(0, 2, 3, 1)):
        flat = order.reshape(len(order), -1)
        for sign in (1, -1):
            one = np.maximum(sign * flat, 0) * 255
            assert (one[:, 1:] + one[:, :-1]).max(initial=0) < 2**15
            assert one.max() < 2**15


def test_rounding_is_close_and_full_range_is_used_where_it_may_be() -> None:
    rng = np.random.default_rng(0)
    one = layer(rng.normal(0, 0.1, (16, 32, 3, 3)))
    for pairs in (False, True):
        rounded = made(one, inputs(32), pairs)
        relative = np.square(dequantized(rounded) - one.weight).sum() / np.square(one.weight).sum()
        assert relative < 1e-3
    assert np.abs(made(one, inputs(32), False).integers).max() == 127
    # Better than 7 bits, the usual remedy, although no pair overflows.
    seven = np.abs(one.weight).reshape(16, -1).max(1)[:, None, None, None] / 63
    usual = np.square(np.rint(one.weight / seven) * seven - one.weight).sum()
    assert np.square(dequantized(made(one, inputs(32), True)) - one.weight).sum() < 0.6 * usual


def test_channels_without_energy_do_not_decide_the_scale() -> None:
    weight = np.random.default_rng(0).normal(0, 0.1, (2, 8, 1, 1))
    weight[:, 0] = 5  # reads a channel that is always zero
    given_inputs = inputs(8)
    given_inputs.rows[:, 0] = 0
    rounded = made(layer(weight), given_inputs, pairs=False)
    assert (rounded.scales < 4 / 127).all()


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_bias_restores_the_mean_output(groups: int) -> None:
    rng = np.random.default_rng(1)
    one = layer(rng.normal(0, 0.3, (8, 8 // groups, 1, 1)) + 0.2, groups)
    given_inputs = inputs(8)
    grid = grid_of(0, given_inputs.high / 2, False)  # cuts, which shifts the mean
    seen = grid.rounded(given_inputs.rows)

    def output(weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
        parts = np.split(rows, groups, axis=1)
        weights = np.split(weight[:, :, 0, 0], groups)
        return np.concatenate([part @ w.T for part, w in zip(parts, weights, strict=True)], axis=1)

    before = output(one.weight, given_inputs.rows).mean(0) + one.bias
    errors = []
    for correct in (False, True):
        rounded = round_weights(one, given_inputs, grid, False, correct)
        errors.append(np.abs(output(dequantized(rounded), seen).mean(0) + rounded.bias - before).max())
    assert errors[1] < 1e-4 < errors[0]


def test_a_channel_of_zeros_stays_zero() -> None:
    rounded = made(layer(np.zeros((2, 3, 1, 1))), inputs(3), pairs=True)
    assert not rounded.integers.any()
    assert np.isfinite(rounded.scales).all()
    assert (rounded.scales > 0).all()


def test_the_bias_fits_an_int32_of_its_scale_where_weights_are_next_to_nothing() -> None:
    one = layer(np.full((2, 3, 1, 1), 1e-9))
    given_inputs = inputs(3)
    grid = grid_of(given_inputs.low, given_inputs.high, False)
    rounded = round_weights(one, given_inputs, grid, pairs=True)
    assert (np.abs(rounded.bias) / (rounded.scales * grid.scale) < 2**31).all()
    np.testing.assert_allclose(rounded.bias, one.bias, atol=1e-6)
