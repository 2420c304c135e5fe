"""Hue, saturation and value by random factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from yolopose.runtime.opencv import cv2


def shift_colours(image: np.ndarray, gains: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> the same; ``gains`` are the largest relative changes of hue, saturation and value."""
    hue, saturation, value = 1 + rng.uniform(-1, 1, 3) * gains
    levels = np.arange(256)
    tables = (
        (levels * hue % 180).astype(np.uint8),  # OpenCV's hues are 0..179
        np.clip(levels * saturation, 0, 255).astype(np.uint8),
        np.clip(levels * value, 0, 255).astype(np.uint8),
    )
    table = np.stack(tables, axis=1)[None]
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)
