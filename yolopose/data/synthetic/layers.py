"""The layers of a scene from far to near: clutter, seats, people and what stands in front of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .brush import Brush
from .casting import Actor, Stage
from .dice import Dice
from .figure import PaintedFigure, paint_figure
from .objects import CLUTTER, OCCLUDERS, seat
from .painter import Light

Window = tuple[slice, slice]
STATURE_M = 1.7  # metres, to size things by the people beside them


@dataclass(frozen=True, eq=False)
class FigureLayer:
    """A painted figure; ``cover`` (h, w) bool says which pixels of ``window`` are its own."""

    painted: PaintedFigure
    picture_shape: tuple[int, int]
    window: Window
    cover: np.ndarray
    shadow: tuple[float, float, float]  # px: x, y and half width of its shadow on the ground

    def paint(self, image: np.ndarray) -> None:
        _cast_shadow(image, *self.shadow)
        part = image[self.window].astype(np.float32)
        part *= 1 - self.painted.alpha[..., None]
        part += self.painted.colour
        image[self.window] = np.clip(part + np.float32(0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ThingLayer:
    """Something drawn by ``draw``, which gives the same shapes each time."""

    draw: Callable[[Brush], None]
    window: Window
    cover: np.ndarray

    def paint(self, image: np.ndarray) -> None:
        self.draw(Brush(image))


def layers_of(actors: list[Actor], stage: Stage, light: Light, dice: Dice) -> list[FigureLayer | ThingLayer]:
    """Actors (far to near) with the things around them, in painting order."""
    size_wh = stage.size_wh
    placed: list[tuple[float, FigureLayer | ThingLayer]] = []
    for _ in range(dice.integer(0, 5)):
        placed.append(_clutter(stage, dice.fork()))
    for actor in actors:
        own = dice.fork()
        painted = paint_figure(actor.figure, size_wh, light, own.fork())
        if painted is None:
            continue
        if actor.pose.support == "seat":
            placed.append((actor.ground - 0.02, _seat(actor, size_wh, own.fork())))
        placed.append((actor.ground, _figure_layer(actor, painted, size_wh)))
        if own.chance(0.22):
            placed.append((actor.ground + 0.02, _occluder(actor, size_wh, own.fork())))
    return [layer for _, layer in sorted(placed, key=lambda pair: pair[0])]


def _figure_layer(actor: Actor, painted: PaintedFigure, size_wh: tuple[int, int]) -> FigureLayer:
    height, width = painted.alpha.shape
    window = (slice(painted.top, painted.top + height), slice(painted.left, painted.left + width))
    x0, _, x1, y1 = actor.figure.extent()
    shadow = ((x0 + x1) / 2, max(actor.ground, y1 - 0.1 * actor.figure.view.scale), (x1 - x0) * 0.5)
    return FigureLayer(painted, (size_wh[1], size_wh[0]), window, painted.alpha > 0.4, shadow)


def _thing(draw: Callable[[Brush], None], size_wh: tuple[int, int]) -> ThingLayer:
    scratch = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    cover = np.zeros(scratch.shape[:2], np.uint8)
    draw(Brush(scratch, cover))
    return ThingLayer(draw, (slice(None), slice(None)), cover > 0)


def _clutter(stage: Stage, dice: Dice) -> tuple[float, ThingLayer]:
    low, high = stage.sizes
    scale = stage.size_wh[1] * dice.uniform(low, min(high, 1.1))
    x, ground = stage.size_wh[0] * dice.uniform(-0.05, 1.05), stage.horizon + stage.eye * scale
    kind, word = dice.pick_weighted(CLUTTER), dice.integer(0, 2**31)
    return ground, _thing(lambda brush: kind(brush, Dice(word), x, ground, scale / STATURE_M), stage.size_wh)


def _occluder(actor: Actor, size_wh: tuple[int, int], dice: Dice) -> ThingLayer:
    """Something in front of an actor."""
    view = actor.figure.view
    x = view.offset[0] + view.scale * dice.uniform(-0.25, 0.25)
    ground = actor.ground + view.scale * dice.uniform(0.0, 0.12)
    kind, word = dice.pick_weighted(OCCLUDERS), dice.integer(0, 2**31)
    return _thing(lambda brush: kind(brush, Dice(word), x, ground, view.scale / STATURE_M), size_wh)


def _seat(actor: Actor, size_wh: tuple[int, int], dice: Dice) -> ThingLayer:
    """What a seated actor sits on: from the underside of the thighs to the ground."""
    view, word = actor.figure.view, dice.integer(0, 2**31)
    x, under = view.offset[0], view.offset[1] + 0.06 * view.scale
    high, wide = max(actor.ground - under, 2.0), view.scale * dice.uniform(0.13, 0.3)
    return _thing(lambda brush: seat(brush, Dice(word), x, actor.ground, view.scale / STATURE_M, high, wide), size_wh)


def _cast_shadow(image: np.ndarray, x: float, y: float, half: float) -> None:
    """Darken the ground in a soft ellipse."""
    height, width = image.shape[:2]
    flat = max(half * 0.22, 1.0)
    x0, x1 = max(0, int(x - half)), min(width, int(x + half) + 1)
    y0, y1 = max(0, int(y - flat)), min(height, int(y + flat) + 1)
    if x0 >= x1 or y0 >= y1:
        return
    across = (np.arange(x0, x1, dtype=np.float32)[None, :] - np.float32(x)) / np.float32(max(half, 1.0))
    down = (np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(y)) / np.float32(flat)
    shade = 1 - np.float32(0.5) * np.maximum(0, 1 - (across * across + down * down))
    image[y0:y1, x0:x1] = (image[y0:y1, x0:x1] * shade[..., None]).astype(np.uint8)
