"""The contents of a scene: camera, figures and objects, and their layers in painting order.

Figures stand on a common ground; near ones are larger and lower, and the border may cut them. Layers are ordered from
far to near: clutter, seats, people, and occluders in front of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .body import Pose, View, posture_from, random_build
from .clothes import random_look
from .dice import Dice
from .figure import Figure, PaintedFigure, paint_figure
from .objects import CLUTTER, OCCLUDERS, Brush, seat
from .painter import Light
from .poses import EVERYDAY, SPORT, UPRIGHT, Draw, draw_pose

SMALLEST = 15.0  # px of stature: smaller people are unrecognizable
STATURE_M = 1.7  # meters: sizes of objects relative to people

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Stage:
    """The camera and the kind of scene; lengths in pixels, sizes relative to the height of the image."""

    size_wh: tuple[int, int]
    horizon: float  # y px
    eye: float  # height of the camera in statures
    pitch: float  # degrees the camera looks down
    sizes: tuple[float, float]  # smallest and largest stature, relative to the height of the image
    poses: list[tuple[Draw, float]]
    togetherness: float  # probability that a figure stands next to the previous one


@dataclass(frozen=True)
class Actor:
    """A placed figure; ``ground`` is the y px on which it stands, by which the scene is ordered from far to near."""

    figure: Figure
    pose: Pose
    ground: float


def random_stage(size_wh: tuple[int, int], dice: Dice) -> Stage:
    """A random kind of scene: mixed, people close by, a crowd, sport, or people far away."""
    sizes, poses, together = dice.pick_weighted(
        [
            (((0.25, 0.9), EVERYDAY, 0.35), 5.0),
            (((0.75, 1.9), EVERYDAY, 0.45), 2.0),
            (((0.16, 0.5), UPRIGHT, 0.7), 1.6),
            (((0.3, 0.85), SPORT, 0.3), 2.2),
            (((0.03, 0.25), EVERYDAY, 0.4), 0.8),
        ]
    )
    from_above = dice.chance(0.12)
    pitch = dice.uniform(20, 42) if from_above else dice.uniform(-3, 14)
    eye = dice.uniform(1.8, 3.0) if from_above else dice.uniform(0.55, 1.5)
    horizon = size_wh[1] * (dice.uniform(-0.2, 0.15) if from_above else dice.uniform(0.18, 0.6))
    return Stage(size_wh, horizon, eye, pitch, sizes, poses, together)


def cast_actors(stage: Stage, count: int, dice: Dice) -> list[Actor]:
    """``count`` random figures, ordered from far to near."""
    actors: list[Actor] = []
    spot: tuple[float, float] | None = None  # x px and scale of the previous figure
    for _ in range(count):
        own = dice.fork()
        scale, x = _spot(stage, spot, own)
        spot = (x, scale)
        actors.append(_actor(stage, scale, x, own))
    return sorted(actors, key=lambda actor: actor.ground)


def _spot(stage: Stage, before: tuple[float, float] | None, dice: Dice) -> tuple[float, float]:
    """Scale (px per stature) and x px of the next figure."""
    width, height = stage.size_wh
    if before is not None and dice.chance(stage.togetherness):
        scale = before[1] * dice.uniform(0.86, 1.16)
        return max(scale, SMALLEST), before[0] + dice.sign() * scale * dice.uniform(0.08, 0.42)
    low, high = stage.sizes
    share = dice.unit()
    scale = height * low * high / (high + (low - high) * share)  # equally many in each doubling of the distance
    return max(scale, SMALLEST), width * dice.uniform(-0.02, 1.02)


def _actor(stage: Stage, scale: float, x: float, dice: Dice) -> Actor:
    pose, build, look = draw_pose(dice, stage.poses), random_build(dice), random_look(dice)
    yaw = dice.bell(0, 40) + dice.pick((0.0, 0.0, 180.0, 90.0, -90.0))
    posture = posture_from(pose, build, yaw)
    scale = round(scale * 16) / 16
    centered = Figure(posture, build, look, View(scale, stage.pitch, max(3.0, 900 / scale)))
    ground = stage.horizon + stage.eye * scale + dice.bell(0, 0.03) * scale
    head = centered.extent()[1] - centered.ground() + ground
    deepest = stage.size_wh[1] * dice.uniform(0.1, 0.72)
    if head > deepest:  # too near: hardly more than hair would be visible
        ground -= head - deepest
    lift = scale * dice.uniform(0.03, 0.3) if pose.support == "air" else 0.0
    left, _, right, _ = centered.extent()
    offset = (round(x - (left + right) / 2), round(ground - lift - centered.ground()))
    return Actor(replace(centered, view=replace(centered.view, offset=offset)), pose, ground)


@dataclass(frozen=True, eq=False)
class FigureLayer:
    """A painted figure; ``cover`` (h, w) bool: which pixels of ``window`` it covers."""

    painted: PaintedFigure
    image_shape: tuple[int, int]
    window: Window
    cover: np.ndarray
    shadow: tuple[float, float, float]  # px: x, y and half width of its shadow on the ground

    def paint(self, image: np.ndarray) -> None:
        _cast_shadow(image, *self.shadow)
        part = image[self.window].astype(np.float32)
        part *= 1 - self.painted.alpha[..., None]
        part += self.painted.color
        image[self.window] = np.clip(part + np.float32(0.5), 0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ThingLayer:
    """An object; ``draw`` draws the same shapes at every call, ``cover`` (h, w) bool is what it covers."""

    draw: Callable[[Brush], None]
    window: Window
    cover: np.ndarray

    def paint(self, image: np.ndarray) -> None:
        self.draw(Brush(image))


def layers_of(actors: list[Actor], stage: Stage, light: Light, dice: Dice) -> list[FigureLayer | ThingLayer]:
    """The layers of the actors (far to near) and of the objects around them, in painting order."""
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
    """An object in front of an actor."""
    view = actor.figure.view
    x = view.offset[0] + view.scale * dice.uniform(-0.25, 0.25)
    ground = actor.ground + view.scale * dice.uniform(0.0, 0.12)
    kind, word = dice.pick_weighted(OCCLUDERS), dice.integer(0, 2**31)
    return _thing(lambda brush: kind(brush, Dice(word), x, ground, view.scale / STATURE_M), size_wh)


def _seat(actor: Actor, size_wh: tuple[int, int], dice: Dice) -> ThingLayer:
    """The seat of a seated actor, from the underside of the thighs to the ground."""
    view, word = actor.figure.view, dice.integer(0, 2**31)
    x, under = view.offset[0], view.offset[1] + 0.06 * view.scale
    high, wide = max(actor.ground - under, 2.0), view.scale * dice.uniform(0.13, 0.3)
    return _thing(lambda brush: seat(brush, Dice(word), x, actor.ground, view.scale / STATURE_M, high, wide), size_wh)


def _cast_shadow(image: np.ndarray, x: float, y: float, half: float) -> None:
    """Darken a soft ellipse on the ground."""
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
