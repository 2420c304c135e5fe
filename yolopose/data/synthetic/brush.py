"""Flat shapes with soft edges for everything that is not a person, and where they cover what is behind them."""

from __future__ import annotations

import cv2
import numpy as np

from .dice import Dice
from .wardrobe import Colour, noise_tile

_SHIFT = 4  # cv2 takes coordinates as whole sixteenths of a pixel


class Brush:
    """Draws on ``image`` (H, W, 3) uint8; what it covers is set to 255 in ``cover`` (H, W) uint8 when given."""

    def __init__(self, image: np.ndarray, cover: np.ndarray | None = None) -> None:
        self.image, self.cover = image, cover

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Fill a polygon of (x, y) corners."""
        corners = np.round(np.clip(np.array(points), -4000, 4000) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(self.image, [corners], colour, cv2.LINE_AA, _SHIFT)
        if self.cover is not None:
            cv2.fillPoly(self.cover, [corners], 255, cv2.LINE_8, _SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(self, x: float, y: float, half_w: float, half_h: float, colour: Colour, angle: int = 0) -> None:
        """Fill an ellipse turned by whole degrees."""
        centre = (round(x * 16), round(y * 16))
        axes = (max(1, round(half_w * 16)), max(1, round(half_h * 16)))
        cv2.ellipse(self.image, centre, axes, angle, 0, 360, colour, -1, cv2.LINE_AA, _SHIFT)
        if self.cover is not None:
            cv2.ellipse(self.cover, centre, axes, angle, 0, 360, 255, -1, cv2.LINE_8, _SHIFT)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """A straight bar with square ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max(float(np.sqrt(dx * dx + dy * dy)), 1e-6)
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        (ax, ay), (bx, by) = start, end
        self.polygon([(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)], colour)

    def tube(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """A round bar, lit from one side: a pipe, a branch, or an arm that is nobody's."""
        for share, factor, offset in ((1.0, 0.7, 0.0), (0.72, 0.9, -0.10), (0.36, 1.12, -0.18)):
            shade = shaded(colour, factor)
            (ax, ay), (bx, by) = ((x + offset * width, y + offset * width) for x, y in (start, end))
            self.bar((ax, ay), (bx, by), width * share, shade)
            self.ellipse(ax, ay, width * share / 2, width * share / 2, shade)
            self.ellipse(bx, by, width * share / 2, width * share / 2, shade)

    def crate(self, x0: float, y0: float, x1: float, y1: float, top: float, colour: Colour) -> None:
        """A box seen from slightly above: front face x0..y1 and a top face of height ``top``."""
        self.polygon([(x0, y0), (x0 + top * 0.6, y0 - top), (x1 - top * 0.6, y0 - top), (x1, y0)], shaded(colour, 1.2))
        self.box(x0, y0, x1, y1, colour)
        middle = (x0 + x1) / 2
        self.polygon([(middle, y0), (x1, y0), (x1, y1), (middle, y1)], shaded(colour, 0.95))


def shaded(colour: Colour, factor: float) -> Colour:
    b, g, r = (min(part * factor, 255.0) for part in colour)
    return b, g, r


def gradient(image: np.ndarray, top: Colour, bottom: Colour) -> None:
    """Fill (H, W, 3) uint8 from one colour to another."""
    rows = np.linspace(0.0, 1.0, image.shape[0])[:, None]
    column = np.array(top) * (1 - rows) + np.array(bottom) * rows
    image[:] = np.clip(np.round(column), 0, 255).astype(np.uint8)[:, None, :]


def roughen(image: np.ndarray, dice: Dice, strength: float, size: tuple[int, int]) -> None:
    """Lighten and darken (H, W, 3) uint8 in place by smooth noise whose tile is stretched to ``size`` (w, h) px."""
    if not image.size:
        return
    tile = np.clip(128 + noise_tile() * np.float32(strength), 0, 255).astype(np.uint8)
    stretched = cv2.resize(tile, size, interpolation=cv2.INTER_LINEAR_EXACT)
    height, width = image.shape[:2]
    shift_x, shift_y = dice.integer(0, size[0] - 1), dice.integer(0, size[1] - 1)
    rows, columns = (np.arange(height) + shift_y) % size[1], (np.arange(width) + shift_x) % size[0]
    wide = cv2.merge([stretched[rows][:, columns]] * 3)
    cv2.multiply(image, wide, image, 1 / 128)
