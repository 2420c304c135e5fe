"""Who is in a scene and where: figures on a common ground, near ones larger and lower, sometimes cut by the border."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .body import Pose, posture_from, random_build
from .dice import Dice
from .figure import Figure
from .repertoire import EVERYDAY, SPORT, UPRIGHT, Draw, draw_pose
from .view import View
from .wardrobe import random_look

SMALLEST = 15.0  # px of stature: below that a person is a smear


@dataclass(frozen=True)
class Stage:
    """The camera and the kind of scene; lengths in pixels, sizes as shares of the picture's height."""

    size_wh: tuple[int, int]
    horizon: float  # y px
    eye: float  # height of the camera in statures
    pitch: float  # degrees the camera looks down
    sizes: tuple[float, float]  # smallest and largest stature, share of the picture's height
    poses: list[tuple[Draw, float]]
    togetherness: float  # chance that a figure stands with the one before


@dataclass(frozen=True)
class Actor:
    """A placed figure; ``ground`` is the y px of what it stands on, which orders the scene from far to near."""

    figure: Figure
    pose: Pose
    ground: float


def random_stage(size_wh: tuple[int, int], dice: Dice) -> Stage:
    """A scene of one kind: a mixed one, people close by, a crowd, sport, or people far away."""
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
    """``count`` figures from far to near."""
    actors: list[Actor] = []
    spot: tuple[float, float] | None = None  # x px and scale of the figure before
    for _ in range(count):
        own = dice.fork()
        scale, x = _spot(stage, spot, own)
        spot = (x, scale)
        actors.append(_actor(stage, scale, x, own))
    return sorted(actors, key=lambda actor: actor.ground)


def _spot(stage: Stage, before: tuple[float, float] | None, dice: Dice) -> tuple[float, float]:
    """Scale (px a stature) and x px of the next figure."""
    width, height = stage.size_wh
    if before is not None and dice.chance(stage.togetherness):
        scale = before[1] * dice.uniform(0.86, 1.16)
        return max(scale, SMALLEST), before[0] + dice.sign() * scale * dice.uniform(0.08, 0.42)
    low, high = stage.sizes
    share = dice.unit()
    scale = height * low * high / (high + (low - high) * share)  # as many in each doubling of the distance
    return max(scale, SMALLEST), width * dice.uniform(-0.02, 1.02)


def _actor(stage: Stage, scale: float, x: float, dice: Dice) -> Actor:
    pose, build, look = draw_pose(dice, stage.poses), random_build(dice), random_look(dice)
    yaw = dice.bell(0, 40) + dice.pick((0.0, 0.0, 180.0, 90.0, -90.0))
    posture = posture_from(pose, build, yaw)
    scale = round(scale * 16) / 16
    centred = Figure(posture, build, look, View(scale, stage.pitch, max(3.0, 900 / scale)))
    ground = stage.horizon + stage.eye * scale + dice.bell(0, 0.03) * scale
    head = centred.extent()[1] - centred.ground() + ground
    deepest = stage.size_wh[1] * dice.uniform(0.1, 0.72)
    if head > deepest:  # too near: little more than hair would show
        ground -= head - deepest
    lift = scale * dice.uniform(0.03, 0.3) if pose.support == "air" else 0.0
    left, _, right, _ = centred.extent()
    offset = (round(x - (left + right) / 2), round(ground - lift - centred.ground()))
    return Actor(replace(centred, view=replace(centred.view, offset=offset)), pose, ground)
