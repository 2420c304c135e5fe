"""Colours are shifted, never beyond their range, in a copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.augment import colour_matrix, draw_colours, shift_colours


def shifted_by(image: np.ndarray, gains: Sequence[float], seed: int) -> np.ndarray:
    out = np.empty_like(image)
    shift_colours(image, draw_colours(gains, np.random.default_rng(seed)), out)
    return out


def noise() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image.flags.writeable = False
    return image


@given(st.integers(0, 1000), st.tuples(*[st.floats(0, 2)] * 3))
def test_any_gains(seed: int, gains: tuple[float, float, float]) -> None:
    image = noise()
    shifted = shifted_by(image, gains, seed)
    assert (shifted.shape, shifted.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, noise())
    np.testing.assert_array_equal(shifted, shifted_by(image, gains, seed))


def test_no_gain_changes_nothing() -> None:
    image = noise()
    np.testing.assert_array_equal(shifted_by(image, (0, 0, 0), 0), image)


def test_the_map_is_what_the_generator_draws() -> None:
    image, gains = noise(), np.array([0.05, 0.5, 0.3])
    drawn = np.random.default_rng(5).uniform(-1, 1, 3) * gains
    expected = image @ colour_matrix(drawn[0], 1 + drawn[1], 1 + drawn[2]).T
    found = shifted_by(image, gains.tolist(), 5).astype(int)
    assert np.abs(found - expected.clip(0, 255)).max() <= 1  # fixed point


@given(st.floats(-0.5, 0.5), st.floats(0, 2), st.floats(0, 2))
def test_greys_change_in_value_alone(hue: float, saturation: float, value: float) -> None:
    np.testing.assert_allclose(colour_matrix(hue, saturation, value) @ (1, 1, 1), (value,) * 3, atol=1e-12)


def test_each_factor_by_hand() -> None:
    colour = np.array([60.0, 100, 140])
    np.testing.assert_allclose(colour_matrix(1 / 3, 1, 1) @ colour, (100, 140, 60), atol=1e-9)  # red turns to green
    np.testing.assert_allclose(colour_matrix(0, 0, 1) @ colour, (0.114 * 60 + 0.587 * 100 + 0.299 * 140,) * 3)
    np.testing.assert_allclose(colour_matrix(0, 1, 1.5) @ colour, 1.5 * colour)
    small = np.linalg.norm(colour_matrix(0.015, 1, 1) @ colour - colour)
    assert 0 < small < 10
