"""Objects that are not people (furniture, plants, posts, cars, balls, stray limbs) and the `Brush` that draws them.

Objects are flat shapes with soft edges. The brush also records which pixels they cover.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .clothes import BRIGHT, MUTED, SKIN, Color, jittered, noise_tile
from .dice import Dice

# brush, dice, x of the middle (px), y of the ground (px), px per meter
Thing = Callable[["Brush", Dice, float, float, float], None]

_SHIFT = 4  # fractional bits of coordinates for cv2: sixteenths of a pixel


class Brush:
    """Draws on ``image`` (H, W, 3) uint8 and sets the covered pixels of ``cover`` (H, W) uint8, if given, to 255."""

    def __init__(self, image: np.ndarray, cover: np.ndarray | None = None) -> None:
        self.image, self.cover = image, cover

    @property
    def size_wh(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    def polygon(self, points: list[tuple[float, float]], color: Color) -> None:
        """Fill a polygon of (x, y) corners."""
        corners = np.round(np.clip(np.array(points), -4000, 4000) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(self.image, [corners], color, cv2.LINE_AA, _SHIFT)
        if self.cover is not None:
            cv2.fillPoly(self.cover, [corners], 255, cv2.LINE_8, _SHIFT)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], color)

    def ellipse(self, x: float, y: float, half_w: float, half_h: float, color: Color, angle: int = 0) -> None:
        """Fill an ellipse rotated by an integer number of degrees."""
        center = (round(x * 16), round(y * 16))
        axes = (max(1, round(half_w * 16)), max(1, round(half_h * 16)))
        cv2.ellipse(self.image, center, axes, angle, 0, 360, color, -1, cv2.LINE_AA, _SHIFT)
        if self.cover is not None:
            cv2.ellipse(self.cover, center, axes, angle, 0, 360, 255, -1, cv2.LINE_8, _SHIFT)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, color: Color) -> None:
        """A straight bar with square ends."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = max(float(np.sqrt(dx * dx + dy * dy)), 1e-6)
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        (ax, ay), (bx, by) = start, end
        self.polygon([(ax + nx, ay + ny), (bx + nx, by + ny), (bx - nx, by - ny), (ax - nx, ay - ny)], color)

    def tube(self, start: tuple[float, float], end: tuple[float, float], width: float, color: Color) -> None:
        """A round bar, lit from one side: a pipe, a branch, or an arm without a body."""
        for share, factor, offset in ((1.0, 0.7, 0.0), (0.72, 0.9, -0.10), (0.36, 1.12, -0.18)):
            shade = shaded(color, factor)
            (ax, ay), (bx, by) = ((x + offset * width, y + offset * width) for x, y in (start, end))
            self.bar((ax, ay), (bx, by), width * share, shade)
            self.ellipse(ax, ay, width * share / 2, width * share / 2, shade)
            self.ellipse(bx, by, width * share / 2, width * share / 2, shade)

    def crate(self, x0: float, y0: float, x1: float, y1: float, top: float, color: Color) -> None:
        """A box seen from slightly above: front face (x0, y0, x1, y1) and a top face of height ``top``."""
        self.polygon([(x0, y0), (x0 + top * 0.6, y0 - top), (x1 - top * 0.6, y0 - top), (x1, y0)], shaded(color, 1.2))
        self.box(x0, y0, x1, y1, color)
        middle = (x0 + x1) / 2
        self.polygon([(middle, y0), (x1, y0), (x1, y1), (middle, y1)], shaded(color, 0.95))


def shaded(color: Color, factor: float) -> Color:
    b, g, r = (min(part * factor, 255.0) for part in color)
    return b, g, r


def gradient(image: np.ndarray, top: Color, bottom: Color) -> None:
    """Fill (H, W, 3) uint8 from one color to another."""
    rows = np.linspace(0.0, 1.0, image.shape[0])[:, None]
    column = np.array(top) * (1 - rows) + np.array(bottom) * rows
    image[:] = np.clip(np.round(column), 0, 255).astype(np.uint8)[:, None, :]


def roughen(image: np.ndarray, dice: Dice, strength: float, size: tuple[int, int]) -> None:
    """Multiply (H, W, 3) uint8 in place by smooth noise, whose tile is stretched to ``size`` (w, h) px."""
    if not image.size:
        return
    tile = np.clip(128 + noise_tile() * np.float32(strength), 0, 255).astype(np.uint8)
    stretched = cv2.resize(tile, size, interpolation=cv2.INTER_LINEAR_EXACT)
    height, width = image.shape[:2]
    shift_x, shift_y = dice.integer(0, size[0] - 1), dice.integer(0, size[1] - 1)
    rows, columns = (np.arange(height) + shift_y) % size[1], (np.arange(width) + shift_x) % size[0]
    wide = cv2.merge([stretched[rows][:, columns]] * 3)
    cv2.multiply(image, wide, image, 1 / 128)


def _color(dice: Dice, bright: float = 0.3) -> Color:
    return jittered(dice.pick(BRIGHT if dice.chance(bright) else MUTED), dice)


def table(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    half, high, color = meter * dice.uniform(0.4, 0.8), meter * dice.uniform(0.6, 0.8), _color(dice, 0.1)
    for leg in (-0.9, 0.9):
        brush.box(x + leg * half - 0.03 * meter, y - high, x + leg * half + 0.03 * meter, y, shaded(color, 0.7))
    brush.crate(x - half, y - high, x + half, y - high + 0.06 * meter, 0.14 * meter, color)
    for _ in range(dice.integer(0, 3)):
        at = x + dice.uniform(-0.7, 0.6) * half
        brush.box(
            at,
            y - high - dice.uniform(0.1, 0.28) * meter,
            at + dice.uniform(0.06, 0.16) * meter,
            y - high - 0.02 * meter,
            _color(dice),
        )


def crate(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    half, high = meter * dice.uniform(0.2, 0.5), meter * dice.uniform(0.3, 0.95)
    color = _color(dice)
    brush.crate(x - half, y - high, x + half, y, meter * dice.uniform(0.05, 0.2), color)
    for share in (0.2, 0.5, 0.8) if dice.chance(0.5) else ():
        brush.box(x - half, y - high * share, x + half, y - high * share + 0.02 * meter, shaded(color, 0.7))


def seat(brush: Brush, dice: Dice, x: float, y: float, meter: float, high: float, wide: float) -> None:
    """Something to sit on, ``high`` px above the ground ``y``."""
    color = _color(dice, 0.25)
    if dice.chance(0.5):
        back = meter * dice.uniform(0.3, 0.5)
        brush.box(x - wide * 0.9, y - high - back, x + wide * 0.9, y - high, shaded(color, 0.8))
    if dice.chance(0.5):
        brush.crate(x - wide, y - high, x + wide, y, meter * 0.08, color)
        return
    for leg in (-0.85, 0.85):
        brush.box(x + leg * wide - 0.025 * meter, y - high, x + leg * wide + 0.025 * meter, y, shaded(color, 0.6))
    brush.crate(x - wide, y - high, x + wide, y - high + 0.07 * meter, meter * 0.08, color)


def plant(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    high = meter * dice.uniform(0.5, 1.2)
    brush.polygon(
        [
            (x - 0.12 * meter, y - 0.28 * meter),
            (x + 0.12 * meter, y - 0.28 * meter),
            (x + 0.08 * meter, y),
            (x - 0.08 * meter, y),
        ],
        _color(dice),
    )
    green = jittered((50.0, 120.0, 60.0), dice, 20)
    for _ in range(dice.integer(9, 18)):
        away, up = dice.bell(0, 0.2) * meter, dice.uniform(0.35, 1.0) * high
        leaf = shaded(green, dice.uniform(0.6, 1.35))
        brush.ellipse(
            x + away,
            y - up,
            meter * dice.uniform(0.03, 0.07),
            meter * dice.uniform(0.10, 0.2),
            leaf,
            dice.integer(-70, 70),
        )


def post(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    high, wide = meter * dice.uniform(1.1, 3.2), meter * dice.uniform(0.05, 0.16)
    color = _color(dice, 0.15)
    brush.tube((x, y - high), (x, y), wide, color)
    if dice.chance(0.5):
        sign = _color(dice, 0.9)
        if dice.chance(0.5):
            brush.ellipse(x, y - high, 0.26 * meter, 0.26 * meter, sign)
            brush.ellipse(x, y - high, 0.19 * meter, 0.19 * meter, _color(dice, 0.5))
        else:
            brush.box(x - 0.34 * meter, y - high - 0.2 * meter, x + 0.34 * meter, y - high + 0.2 * meter, sign)


def fence(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    half, high, color = meter * dice.uniform(0.7, 1.8), meter * dice.uniform(0.6, 1.1), _color(dice, 0.2)
    step = meter * dice.uniform(0.13, 0.3)
    at = x - half
    while at < x + half:
        brush.box(at, y - high, at + 0.05 * meter, y, shaded(color, dice.uniform(0.85, 1.1)))
        at += step
    for share in (0.35, 0.92):
        brush.box(x - half, y - high * share, x + half, y - high * share + 0.05 * meter, shaded(color, 0.9))


def car(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    long, color = 4.2 * meter, _color(dice, 0.6)
    x0, roof, belt = x - long / 2, y - 1.45 * meter, y - 0.85 * meter
    brush.polygon(
        [(x0 + 0.9 * meter, belt), (x0 + 1.4 * meter, roof), (x0 + 3.0 * meter, roof), (x0 + 3.7 * meter, belt)],
        shaded(color, 0.85),
    )
    glass = (90.0, 80.0, 70.0)
    for a, b, c, d in ((1.1, 1.5, 2.15, 2.15), (2.25, 2.25, 2.95, 3.45)):
        corners = ((a, belt), (b, roof + 0.1 * meter), (c, roof + 0.1 * meter), (d, belt))
        brush.polygon([(x0 + at * meter, high) for at, high in corners], glass)
    brush.box(x0, belt, x0 + long, y - 0.25 * meter, color)
    brush.box(x0, y - 0.5 * meter, x0 + long, y - 0.25 * meter, shaded(color, 0.75))
    for at in (0.85, 3.35):
        brush.ellipse(x0 + at * meter, y - 0.3 * meter, 0.34 * meter, 0.34 * meter, (30.0, 28.0, 28.0))
        brush.ellipse(x0 + at * meter, y - 0.3 * meter, 0.18 * meter, 0.18 * meter, (150.0, 150.0, 152.0))


def ball(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    radius, color = meter * dice.uniform(0.08, 0.3), _color(dice, 0.8)
    for share, factor in ((1.0, 0.75), (0.8, 0.95), (0.45, 1.15)):
        brush.ellipse(
            x - (1 - share) * 0.3 * radius,
            y - radius - (1 - share) * 0.4 * radius,
            radius * share,
            radius * share,
            shaded(color, factor),
        )


def stray_limbs(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    """Pipes, branches and skin-colored bars, which a network should not mistake for arms."""
    color = jittered(dice.pick(SKIN + MUTED), dice)
    point = (x, y - meter * dice.uniform(0.0, 0.6))
    for _ in range(dice.integer(1, 4)):
        reach = (point[0] + meter * dice.uniform(-0.5, 0.5), point[1] - meter * dice.uniform(-0.1, 0.6))
        brush.tube(point, reach, meter * dice.uniform(0.05, 0.14), color)
        point = reach if dice.chance(0.7) else point


def lamp(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    """A standing lamp, whose outline resembles a person with a large head."""
    high = meter * dice.uniform(1.2, 1.8)
    brush.bar((x, y - high), (x, y), 0.05 * meter, (60.0, 60.0, 62.0))
    brush.ellipse(x, y, 0.16 * meter, 0.04 * meter, (50.0, 50.0, 52.0))
    top, low = 0.10 * meter, 0.22 * meter
    shade = jittered((150.0, 200.0, 230.0), dice)
    brush.polygon(
        [
            (x - top, y - high - 0.3 * meter),
            (x + top, y - high - 0.3 * meter),
            (x + low, y - high),
            (x - low, y - high),
        ],
        shade,
    )


def bag(brush: Brush, dice: Dice, x: float, y: float, meter: float) -> None:
    half, high, color = meter * dice.uniform(0.12, 0.28), meter * dice.uniform(0.25, 0.5), _color(dice, 0.5)
    brush.ellipse(x, y - high, half * 0.5, high * 0.3, shaded(color, 0.6))
    brush.ellipse(x, y - high, half * 0.35, high * 0.2, shaded(color, 1.5))
    brush.polygon([(x - half, y), (x - half * 0.85, y - high), (x + half * 0.85, y - high), (x + half, y)], color)
    brush.box(x - half * 0.6, y - high * 0.5, x + half * 0.6, y - high * 0.12, shaded(color, 0.85))


OCCLUDERS: list[tuple[Thing, float]] = [
    (table, 2.0), (crate, 2.0), (plant, 1.5), (post, 1.2), (fence, 1.0), (bag, 1.0), (stray_limbs, 0.8), (ball, 0.4),
    (car, 0.5),
]  # fmt: skip
CLUTTER: list[tuple[Thing, float]] = [
    (table, 1.0), (crate, 1.5), (plant, 1.5), (post, 1.5), (fence, 0.8), (bag, 1.0), (stray_limbs, 1.5), (ball, 1.0),
    (lamp, 1.0), (car, 0.6),
]  # fmt: skip
