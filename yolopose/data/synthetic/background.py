"""Backgrounds without people: streets, rooms, parks, halls, and random shapes."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .clothes import BRIGHT, MUTED, Color, jittered, noise_tile
from .dice import Dice
from .objects import Brush, gradient, roughen, shaded

Place = Callable[[np.ndarray, Dice, int], None]  # image to fill, dice, row of the horizon


def _ground(image: np.ndarray, dice: Dice, horizon: int, color: Color, strength: float) -> None:
    """The ground up to the horizon, with texture that is coarse near the camera and fine and faint far away."""
    ground = image[horizon:]
    gradient(ground, shaded(color, dice.uniform(0.85, 1.1)), shaded(color, dice.uniform(0.8, 1.1)))
    height, width = ground.shape[:2]
    # 1 at the lower border
    far = np.float32(height) / (np.arange(height, dtype=np.float32) + np.float32(0.06 * height))
    cells = np.float32(dice.uniform(90, 420))  # of the noise tile, across one image height at the lower border
    across = (np.arange(width, dtype=np.float32) - np.float32(width / 2)) * (cells / np.float32(image.shape[0]))
    rows = (far * cells).astype(np.int64) + dice.integer(0, 255)
    columns = (across[None, :] * far[:, None]).astype(np.int64)
    fading = np.float32(strength / 128) / (1 + far * cells * np.float32(0.0006))
    grain = noise_tile()[rows[:, None] & 255, columns & 255] * fading[:, None]
    shade = np.clip(128 * (1 + grain) + np.float32(0.5), 0, 255).astype(np.uint8)
    cv2.multiply(ground, cv2.merge([shade] * 3), ground, 1 / 128)


def _sky(image: np.ndarray, dice: Dice, horizon: int) -> None:
    color = dice.pick(
        [(235.0, 190.0, 130.0), (225.0, 215.0, 200.0), (170.0, 165.0, 160.0), (170.0, 190.0, 235.0), (90.0, 70.0, 60.0)]
    )
    gradient(image[: max(horizon, 1)], jittered(color, dice), jittered(shaded(color, 1.15), dice))
    if dice.chance(0.6):
        roughen(image[:horizon], dice, dice.uniform(4, 22), (dice.integer(400, 900), dice.integer(120, 300)))


def street(image: np.ndarray, dice: Dice, horizon: int) -> None:
    height, width = image.shape[:2]
    _sky(image, dice, horizon)
    brush = Brush(image)
    at = -width * dice.uniform(0, 0.2)
    while at < width:
        wide = width * dice.uniform(0.12, 0.4)
        top = horizon - height * dice.uniform(0.1, 0.9)
        _building(brush, dice, at, top, at + wide, horizon)
        at += wide + (width * dice.uniform(0, 0.1) if dice.chance(0.3) else 0)
    _ground(image, dice, horizon, jittered((128.0, 130.0, 134.0), dice, 25), dice.uniform(6, 20))
    if dice.chance(0.5):
        for lane in range(dice.integer(1, 4)):
            x = width * dice.uniform(-0.5, 1.5)
            foot = x + (x - width / 2) * 2
            brush.polygon(
                [(x, horizon), (x + 2, horizon), (foot + 10 + 4 * lane, height), (foot, height)], (200.0, 205.0, 208.0)
            )


def _building(brush: Brush, dice: Dice, x0: float, y0: float, x1: float, y1: float) -> None:
    color = jittered(dice.pick(MUTED), dice, 22)
    brush.box(x0, y0, x1, y1, color)
    step_x, step_y = (brush.size_wh[1] * dice.uniform(0.05, 0.13) for _ in range(2))
    share_x, share_y = dice.uniform(0.35, 0.75), dice.uniform(0.4, 0.75)
    pane = jittered(dice.pick([(90.0, 80.0, 70.0), (190.0, 180.0, 160.0), (60.0, 50.0, 45.0)]), dice)
    y = y0 + step_y * 0.3
    while y + step_y < y1:
        x = x0 + step_x * 0.3
        while x + step_x * share_x < x1:
            brush.box(x, y, x + step_x * share_x, y + step_y * share_y, shaded(pane, dice.uniform(0.75, 1.3)))
            x += step_x
        y += step_y


def room(image: np.ndarray, dice: Dice, horizon: int) -> None:
    height, width = image.shape[:2]
    wall = jittered(dice.pick([*MUTED[3:], (210.0, 220.0, 226.0), (200.0, 205.0, 190.0)]), dice, 18)
    gradient(image[: max(horizon, 1)], shaded(wall, 1.05), shaded(wall, 0.9))
    roughen(image[:horizon], dice, dice.uniform(2, 9), (dice.integer(200, 600), dice.integer(200, 600)))
    brush = Brush(image)
    if dice.chance(0.25):  # wall paper
        step, tint = width * dice.uniform(0.02, 0.08), shaded(wall, dice.uniform(0.86, 0.95))
        for k in range(int(width / step) + 1):
            brush.box(k * step, 0, k * step + step / 2, horizon, tint)
    for _ in range(dice.integer(0, 4)):
        _wall_thing(
            brush,
            dice,
            width * dice.uniform(0, 0.9),
            max(horizon, 40) * dice.uniform(0.05, 0.5),
            height * dice.uniform(0.12, 0.4),
        )
    _ground(
        image,
        dice,
        horizon,
        jittered(
            dice.pick([(70.0, 100.0, 140.0), (120.0, 130.0, 140.0), (60.0, 66.0, 80.0), (150.0, 165.0, 180.0)]), dice
        ),
        10,
    )
    if dice.chance(0.6):  # boards or tiles towards the vanishing point
        step = width * dice.uniform(0.05, 0.14)
        for k in range(-12, 13):
            x = width / 2 + k * step
            brush.bar((x, horizon), (width / 2 + k * step * 4, height), 1.5, shaded(wall, 0.55))
    brush.box(0, horizon - 0.014 * height, width, horizon, shaded(wall, dice.pick([0.6, 1.25])))


def _wall_thing(brush: Brush, dice: Dice, x: float, y: float, size: float) -> None:
    """A painting, a window, a shelf with books or a clock."""
    kind, frame = dice.integer(0, 3), jittered(dice.pick(MUTED), dice)
    wide = size * dice.uniform(0.6, 1.4)
    if kind == 3:
        brush.ellipse(x, y + size / 2, size * 0.3, size * 0.3, frame)
        brush.ellipse(x, y + size / 2, size * 0.26, size * 0.26, (235.0, 235.0, 235.0))
        return
    brush.box(x, y, x + wide, y + size, frame)
    inner = jittered((230.0, 205.0, 170.0) if kind == 1 else dice.pick(BRIGHT + MUTED), dice)
    rim = size * 0.06
    brush.box(x + rim, y + rim, x + wide - rim, y + size - rim, inner if kind < 2 else shaded(frame, 0.6))
    if kind == 0:
        for _ in range(3):
            cx, cy = x + wide * dice.uniform(0.3, 0.7), y + size * dice.uniform(0.3, 0.7)
            brush.ellipse(
                cx,
                cy,
                wide * dice.uniform(0.05, 0.2),
                size * dice.uniform(0.05, 0.2),
                jittered(dice.pick(BRIGHT), dice),
                dice.integer(0, 90),
            )
    elif kind == 1:
        brush.box(x + wide / 2 - rim / 2, y, x + wide / 2 + rim / 2, y + size, frame)
    else:
        at = x + rim
        while at < x + wide - 2 * rim:
            thick = size * dice.uniform(0.03, 0.09)
            brush.box(
                at,
                y + size * dice.uniform(0.15, 0.45),
                at + thick,
                y + size - rim,
                jittered(dice.pick(BRIGHT + MUTED), dice),
            )
            at += thick * 1.05


def park(image: np.ndarray, dice: Dice, horizon: int) -> None:
    height, width = image.shape[:2]
    _sky(image, dice, horizon)
    brush = Brush(image)
    for layer in range(dice.integer(0, 3)):
        green = jittered((70.0 + 20 * layer, 105.0, 80.0), dice, 16)
        for _ in range(4):
            brush.ellipse(
                width * dice.unit(),
                horizon + 8,
                width * dice.uniform(0.2, 0.6),
                height * dice.uniform(0.04, 0.25),
                green,
            )
    grass = dice.pick(
        [(60.0, 130.0, 85.0), (70.0, 150.0, 120.0), (120.0, 165.0, 190.0), (225.0, 225.0, 222.0), (80.0, 110.0, 140.0)]
    )
    _ground(image, dice, horizon, jittered(grass, dice, 16), dice.uniform(10, 34))
    for _ in range(dice.integer(0, 5)):
        _tree(
            brush,
            dice,
            width * dice.uniform(-0.1, 1.1),
            horizon + height * dice.uniform(0.0, 0.08),
            height * dice.uniform(0.25, 0.8),
        )


def _tree(brush: Brush, dice: Dice, x: float, y: float, size: float) -> None:
    bark = jittered((48.0, 64.0, 84.0), dice)
    brush.tube((x, y - size * 0.6), (x, y), size * dice.uniform(0.05, 0.11), bark)
    for _ in range(3):
        brush.tube(
            (x, y - size * dice.uniform(0.3, 0.6)),
            (x + size * dice.uniform(-0.3, 0.3), y - size * dice.uniform(0.6, 0.9)),
            size * 0.035,
            bark,
        )
    green = jittered((46.0, 104.0, 62.0), dice, 22)
    for _ in range(dice.integer(10, 26)):
        cx, cy = x + size * dice.bell(0, 0.19), y - size * dice.bell(0.72, 0.13)
        radius = size * dice.uniform(0.05, 0.16)
        brush.ellipse(cx, cy, radius, radius * 0.8, shaded(green, dice.uniform(0.6, 1.3)))


def hall(image: np.ndarray, dice: Dice, horizon: int) -> None:
    """A sports hall or a pitch with painted lines."""
    height, width = image.shape[:2]
    wall = jittered(dice.pick(MUTED), dice, 20)
    gradient(image[: max(horizon, 1)], shaded(wall, 0.8), shaded(wall, 1.05))
    # rows of seats, or a blurred crowd
    roughen(image[:horizon], dice, 30, (dice.integer(60, 140), dice.integer(40, 100)))
    brush = Brush(image)
    for k in range(dice.integer(0, 6)):
        brush.box(
            width * (k / 5 - 0.1),
            horizon - 0.1 * height,
            width * (k / 5 + 0.08),
            horizon,
            jittered(dice.pick(BRIGHT), dice),
        )
    floor = dice.pick([(70.0, 120.0, 175.0), (60.0, 120.0, 60.0), (150.0, 90.0, 50.0), (60.0, 70.0, 160.0)])
    _ground(image, dice, horizon, jittered(floor, dice, 18), 8)
    for _ in range(dice.integer(1, 5)):
        line = jittered(dice.pick([(235.0, 235.0, 235.0), (60.0, 200.0, 230.0), (60.0, 60.0, 200.0)]), dice)
        a = (width * dice.uniform(-0.3, 1.3), horizon + (height - horizon) * dice.unit())
        b = (width * dice.uniform(-0.3, 1.3), a[1] if dice.chance(0.5) else horizon + (height - horizon) * dice.unit())
        brush.bar(a, b, max(1.5, height * dice.uniform(0.004, 0.012)), line)


def nonsense(image: np.ndarray, dice: Dice, horizon: int) -> None:
    """Random shapes, bars and noise."""
    height, width = image.shape[:2]
    gradient(image, jittered(dice.pick(MUTED + BRIGHT), dice), jittered(dice.pick(MUTED + BRIGHT), dice))
    brush = Brush(image)
    for _ in range(dice.integer(4, 26)):
        x, y, size = width * dice.unit(), height * dice.unit(), height * dice.uniform(0.03, 0.35)
        color = jittered(dice.pick(MUTED + BRIGHT), dice, 20)
        kind = dice.integer(0, 3)
        if kind == 0:
            brush.ellipse(x, y, size * dice.uniform(0.3, 1), size * dice.uniform(0.3, 1), color, dice.integer(0, 179))
        elif kind == 1:
            brush.polygon(
                [(x + size * dice.bell(0, 0.5), y + size * dice.bell(0, 0.5)) for _ in range(dice.integer(3, 5))],
                color,
            )
        else:
            end = (x + size * dice.uniform(-2, 2), y + size * dice.uniform(-2, 2))
            (brush.tube if kind == 2 else brush.bar)((x, y), end, size * dice.uniform(0.05, 0.3), color)
    roughen(image, dice, dice.uniform(0, 40), (dice.integer(80, 500), dice.integer(80, 500)))


PLACES: list[tuple[Place, float]] = [(street, 3.0), (room, 3.0), (park, 3.0), (hall, 1.6), (nonsense, 1.2)]


def paint_background(size_wh: tuple[int, int], dice: Dice, horizon: int) -> np.ndarray:
    """An image (H, W, 3) uint8 BGR of a place with the horizon at this row (which may lie outside the image)."""
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    place = dice.pick_weighted(PLACES)
    place(image, dice, min(max(horizon, 8), size_wh[1] - 8))
    return image
