"""Which poses go together in a scene, and how often."""

from __future__ import annotations

from collections.abc import Callable

from .body import Pose, within_limits
from .dice import Dice
from .poses import (
    arms_up,
    arms_wide,
    bend_over,
    crawl,
    kneel,
    lie,
    ride,
    run,
    sit,
    sit_on_ground,
    squat,
    stand,
    walk,
)
from .sport_poses import cartwheel, free, handstand, jump, kick, throw

Draw = Callable[[Dice], Pose]

EVERYDAY: list[tuple[Draw, float]] = [
    (stand, 6.0), (walk, 5.0), (run, 2.0), (sit, 3.0), (arms_up, 1.5), (squat, 0.8), (kneel, 0.7), (bend_over, 0.8),
    (sit_on_ground, 0.7), (kick, 0.6), (throw, 0.8), (arms_wide, 0.6), (ride, 0.4), (jump, 0.4), (lie, 0.5),
    (crawl, 0.3), (free, 0.5), (handstand, 0.15), (cartwheel, 0.15),
]  # fmt: skip
SPORT: list[tuple[Draw, float]] = [
    (run, 3.0), (kick, 2.0), (throw, 2.0), (arms_wide, 1.5), (arms_up, 1.0), (jump, 2.0), (handstand, 1.2),
    (cartwheel, 1.2), (squat, 1.0), (lie, 0.8), (crawl, 0.6), (free, 1.5), (bend_over, 0.8), (ride, 0.5),
]  # fmt: skip
UPRIGHT: list[tuple[Draw, float]] = [(stand, 5.0), (walk, 5.0), (run, 0.7), (arms_up, 0.7)]


def draw_pose(dice: Dice, kinds: list[tuple[Draw, float]]) -> Pose:
    """A pose of one of these kinds, within what joints allow."""
    return within_limits(dice.pick_weighted(kinds)(dice))
