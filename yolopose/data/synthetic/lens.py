"""What a camera adds to a picture: exposure, colour cast, blur and grain."""

from __future__ import annotations

import cv2
import numpy as np

from .dice import Dice


def photographed(image: np.ndarray, dice: Dice) -> np.ndarray:
    """The picture (H, W, 3) uint8 as some camera would have taken it."""
    if dice.chance(0.3):
        image = cv2.GaussianBlur(image, (3, 3), 0) if dice.chance(0.75) else cv2.GaussianBlur(image, (5, 5), 0)
    image = cv2.LUT(image, _tone_table(dice))
    if dice.chance(0.04):
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    grain = dice.integer(0, 11)
    if grain > 1:
        noise = dice.noise(image.shape[:2]).astype(np.int16) - 128
        noise += dice.noise(image.shape[:2]).astype(np.int16) - 128  # two dice are rounder than one
        spread = (noise * grain) >> 7
        image = np.clip(image.astype(np.int16) + spread[..., None], 0, 255).astype(np.uint8)
    return image


def _tone_table(dice: Dice) -> np.ndarray:
    """(1, 256, 3) uint8: brightness, contrast, a curve and a colour cast."""
    level = np.arange(256) / 255.0
    curve = dice.uniform(-0.35, 0.35)
    level = level + curve * level * (1 - level)
    level = (level - 0.5) * dice.uniform(0.72, 1.15) + 0.5 + dice.uniform(-0.06, 0.06)
    cast = np.array([dice.bell(1, 0.035), dice.bell(1, 0.012), dice.bell(1, 0.035)])
    return np.clip(np.round(level[:, None] * cast * 255), 0, 255).astype(np.uint8)[None]
