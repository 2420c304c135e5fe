"""Flat shapes with soft edges for everything that is not a person, and where they cover what is behind them.

Things: furniture, plants, posts, cars, balls, and limb-like shapes that belong to nobody.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .clothes import BRIGHT, MUTED, SKIN, Colour, jittered, noise_tile
from .dice import Dice

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


Thing = Callable[[Brush, Dice, float, float, float], None]  # brush, dice, x of the middle, y of the ground, px a metre


def _colour(dice: Dice, bright: float = 0.3) -> Colour:
    return jittered(dice.pick(BRIGHT if dice.chance(bright) else MUTED), dice)


def table(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    half, high, colour = metre * dice.uniform(0.4, 0.8), metre * dice.uniform(0.6, 0.8), _colour(dice, 0.1)
    for leg in (-0.9, 0.9):
        brush.box(x + leg * half - 0.03 * metre, y - high, x + leg * half + 0.03 * metre, y, shaded(colour, 0.7))
    brush.crate(x - half, y - high, x + half, y - high + 0.06 * metre, 0.14 * metre, colour)
    for _ in range(dice.integer(0, 3)):
        at = x + dice.uniform(-0.7, 0.6) * half
        brush.box(
            at,
            y - high - dice.uniform(0.1, 0.28) * metre,
            at + dice.uniform(0.06, 0.16) * metre,
            y - high - 0.02 * metre,
            _colour(dice),
        )


def crate(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    half, high = metre * dice.uniform(0.2, 0.5), metre * dice.uniform(0.3, 0.95)
    colour = _colour(dice)
    brush.crate(x - half, y - high, x + half, y, metre * dice.uniform(0.05, 0.2), colour)
    for share in (0.2, 0.5, 0.8) if dice.chance(0.5) else ():
        brush.box(x - half, y - high * share, x + half, y - high * share + 0.02 * metre, shaded(colour, 0.7))


def seat(brush: Brush, dice: Dice, x: float, y: float, metre: float, high: float, wide: float) -> None:
    """Something ``high`` px above the ground ``y`` to sit on."""
    colour = _colour(dice, 0.25)
    if dice.chance(0.5):
        back = metre * dice.uniform(0.3, 0.5)
        brush.box(x - wide * 0.9, y - high - back, x + wide * 0.9, y - high, shaded(colour, 0.8))
    if dice.chance(0.5):
        brush.crate(x - wide, y - high, x + wide, y, metre * 0.08, colour)
        return
    for leg in (-0.85, 0.85):
        brush.box(x + leg * wide - 0.025 * metre, y - high, x + leg * wide + 0.025 * metre, y, shaded(colour, 0.6))
    brush.crate(x - wide, y - high, x + wide, y - high + 0.07 * metre, metre * 0.08, colour)


def plant(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    high = metre * dice.uniform(0.5, 1.2)
    brush.polygon(
        [
            (x - 0.12 * metre, y - 0.28 * metre),
            (x + 0.12 * metre, y - 0.28 * metre),
            (x + 0.08 * metre, y),
            (x - 0.08 * metre, y),
        ],
        _colour(dice),
    )
    green = jittered((50.0, 120.0, 60.0), dice, 20)
    for _ in range(dice.integer(9, 18)):
        away, up = dice.bell(0, 0.2) * metre, dice.uniform(0.35, 1.0) * high
        leaf = shaded(green, dice.uniform(0.6, 1.35))
        brush.ellipse(
            x + away,
            y - up,
            metre * dice.uniform(0.03, 0.07),
            metre * dice.uniform(0.10, 0.2),
            leaf,
            dice.integer(-70, 70),
        )


def post(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    high, wide = metre * dice.uniform(1.1, 3.2), metre * dice.uniform(0.05, 0.16)
    colour = _colour(dice, 0.15)
    brush.tube((x, y - high), (x, y), wide, colour)
    if dice.chance(0.5):
        sign = _colour(dice, 0.9)
        if dice.chance(0.5):
            brush.ellipse(x, y - high, 0.26 * metre, 0.26 * metre, sign)
            brush.ellipse(x, y - high, 0.19 * metre, 0.19 * metre, _colour(dice, 0.5))
        else:
            brush.box(x - 0.34 * metre, y - high - 0.2 * metre, x + 0.34 * metre, y - high + 0.2 * metre, sign)


def fence(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    half, high, colour = metre * dice.uniform(0.7, 1.8), metre * dice.uniform(0.6, 1.1), _colour(dice, 0.2)
    step = metre * dice.uniform(0.13, 0.3)
    at = x - half
    while at < x + half:
        brush.box(at, y - high, at + 0.05 * metre, y, shaded(colour, dice.uniform(0.85, 1.1)))
        at += step
    for share in (0.35, 0.92):
        brush.box(x - half, y - high * share, x + half, y - high * share + 0.05 * metre, shaded(colour, 0.9))


def car(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    long, colour = 4.2 * metre, _colour(dice, 0.6)
    x0, roof, belt = x - long / 2, y - 1.45 * metre, y - 0.85 * metre
    brush.polygon(
        [(x0 + 0.9 * metre, belt), (x0 + 1.4 * metre, roof), (x0 + 3.0 * metre, roof), (x0 + 3.7 * metre, belt)],
        shaded(colour, 0.85),
    )
    glass = (90.0, 80.0, 70.0)
    for a, b, c, d in ((1.1, 1.5, 2.15, 2.15), (2.25, 2.25, 2.95, 3.45)):
        corners = ((a, belt), (b, roof + 0.1 * metre), (c, roof + 0.1 * metre), (d, belt))
        brush.polygon([(x0 + at * metre, high) for at, high in corners], glass)
    brush.box(x0, belt, x0 + long, y - 0.25 * metre, colour)
    brush.box(x0, y - 0.5 * metre, x0 + long, y - 0.25 * metre, shaded(colour, 0.75))
    for at in (0.85, 3.35):
        brush.ellipse(x0 + at * metre, y - 0.3 * metre, 0.34 * metre, 0.34 * metre, (30.0, 28.0, 28.0))
        brush.ellipse(x0 + at * metre, y - 0.3 * metre, 0.18 * metre, 0.18 * metre, (150.0, 150.0, 152.0))


def ball(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    radius, colour = metre * dice.uniform(0.08, 0.3), _colour(dice, 0.8)
    for share, factor in ((1.0, 0.75), (0.8, 0.95), (0.45, 1.15)):
        brush.ellipse(
            x - (1 - share) * 0.3 * radius,
            y - radius - (1 - share) * 0.4 * radius,
            radius * share,
            radius * share,
            shaded(colour, factor),
        )


def stray_limbs(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    """Pipes, branches and skin-coloured bars: what a network should not take for an arm."""
    colour = jittered(dice.pick(SKIN + MUTED), dice)
    point = (x, y - metre * dice.uniform(0.0, 0.6))
    for _ in range(dice.integer(1, 4)):
        reach = (point[0] + metre * dice.uniform(-0.5, 0.5), point[1] - metre * dice.uniform(-0.1, 0.6))
        brush.tube(point, reach, metre * dice.uniform(0.05, 0.14), colour)
        point = reach if dice.chance(0.7) else point


def lamp(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    """A standing lamp: about a person's outline with a head too large."""
    high = metre * dice.uniform(1.2, 1.8)
    brush.bar((x, y - high), (x, y), 0.05 * metre, (60.0, 60.0, 62.0))
    brush.ellipse(x, y, 0.16 * metre, 0.04 * metre, (50.0, 50.0, 52.0))
    top, low = 0.10 * metre, 0.22 * metre
    shade = jittered((150.0, 200.0, 230.0), dice)
    brush.polygon(
        [
            (x - top, y - high - 0.3 * metre),
            (x + top, y - high - 0.3 * metre),
            (x + low, y - high),
            (x - low, y - high),
        ],
        shade,
    )


def bag(brush: Brush, dice: Dice, x: float, y: float, metre: float) -> None:
    half, high, colour = metre * dice.uniform(0.12, 0.28), metre * dice.uniform(0.25, 0.5), _colour(dice, 0.5)
    brush.ellipse(x, y - high, half * 0.5, high * 0.3, shaded(colour, 0.6))
    brush.ellipse(x, y - high, half * 0.35, high * 0.2, shaded(colour, 1.5))
    brush.polygon([(x - half, y), (x - half * 0.85, y - high), (x + half * 0.85, y - high), (x + half, y)], colour)
    brush.box(x - half * 0.6, y - high * 0.5, x + half * 0.6, y - high * 0.12, shaded(colour, 0.85))


OCCLUDERS: list[tuple[Thing, float]] = [
    (table, 2.0), (crate, 2.0), (plant, 1.5), (post, 1.2), (fence, 1.0), (bag, 1.0), (stray_limbs, 0.8), (ball, 0.4),
    (car, 0.5),
]  # fmt: skip
CLUTTER: list[tuple[Thing, float]] = [
    (table, 1.0), (crate, 1.5), (plant, 1.5), (post, 1.5), (fence, 0.8), (bag, 1.0), (stray_limbs, 1.5), (ball, 1.0),
    (lamp, 1.0), (car, 0.6),
]  # fmt: skip
