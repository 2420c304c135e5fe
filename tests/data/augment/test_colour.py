"""Colours are shifted, never beyond their range, in a copy."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.augment.colour import shift_colours


def noise() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image.flags.writeable = False
    return image


@given(st.integers(0, 1000), st.tuples(*[st.floats(0, 2)] * 3))
def test_any_gains(seed: int, gains: tuple[float, float, float]) -> None:
    image = noise()
    shifted = shift_colours(image, gains, np.random.default_rng(seed))
    assert (shifted.shape, shifted.dtype) == (image.shape, np.uint8)
    assert not np.shares_memory(shifted, image)
    np.testing.assert_array_equal(image, noise())
    np.testing.assert_array_equal(shifted, shift_colours(image, gains, np.random.default_rng(seed)))


def test_no_gain_is_a_turn_through_hsv_alone() -> None:
    image = noise()
    same = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), cv2.COLOR_HSV2BGR)
    np.testing.assert_array_equal(shift_colours(image, (0, 0, 0), np.random.default_rng(0)), same)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_each_gain_has_its_channel(channel: int) -> None:
    """By hand: the factors are 1 + gain * what the generator gives."""
    image = np.array([[[60, 100, 140]]], np.uint8)
    gains = [0.3 if c == channel else 0.0 for c in range(3)]
    drawn = np.random.default_rng(5).uniform(-1, 1, 3)
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(float)[0, 0]
    hsv[channel] *= 1 + 0.3 * drawn[channel]
    expected = cv2.cvtColor(hsv.astype(np.uint8)[None, None], cv2.COLOR_HSV2BGR)
    np.testing.assert_array_equal(shift_colours(image, gains, np.random.default_rng(5)), expected)
