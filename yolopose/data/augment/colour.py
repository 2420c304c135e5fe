"""Hue, saturation and value by random factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolopose.runtime.opencv import cv2

_LUMA = np.array([0.114, 0.587, 0.299])  # of blue, green and red (ITU-R BT.601)
_ACROSS = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / np.sqrt(3)  # cross product with the axis of greys


def draw_colours(gains: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """(3, 3) for ``shift_colours``.

    gains: the largest turn of hue, in circles, and the largest relative changes of saturation and value. All three are
    one linear map of colours, which costs a tenth of going through HSV and back; greys only change in value.
    """
    hue, saturation, value = rng.uniform(-1, 1, 3) * gains
    return colour_matrix(hue, max(1 + saturation, 0), max(1 + value, 0))


def shift_colours(image: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """(H, W, 3) uint8 BGR under a map of colours, into another picture of the size."""
    cv2.transform(image, matrix, dst=out)


def colour_matrix(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3, 3) for BGR columns: a turn about the axis of greys by ``hue`` circles, then factors."""
    angle = 2 * np.pi * hue
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * _ACROSS
    return np.asarray(value * (saturation * np.eye(3) + (1 - saturation) * _LUMA) @ turn)
