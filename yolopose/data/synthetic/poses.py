"""Random poses: a function for each kind of pose, and how often each kind appears in a kind of scene.

Every function draws one pose of its kind with random joint angles: everyday poses first, then sport and gymnastics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .body import Limb, Pose, mirrored, within_limits
from .dice import Dice


def idle_arm(dice: Dice) -> Limb:
    """An arm that takes no part in the pose."""
    return dice.pick_weighted(
        [
            (Limb(dice.bell(0, 10), dice.bell(9, 4), dice.bell(10, 15), dice.uniform(5, 30)), 5.0),
            (Limb(dice.bell(-12, 8), dice.bell(42, 6), dice.bell(65, 8), dice.bell(95, 8)), 1.0),  # hand on the hip
            (Limb(dice.bell(38, 10), dice.bell(12, 5), dice.bell(48, 10), dice.bell(85, 12)), 1.2),  # in front
            (Limb(dice.bell(55, 12), dice.bell(20, 8), dice.bell(35, 12), dice.bell(138, 6)), 0.8),  # at the ear
            (Limb(dice.bell(-22, 6), dice.bell(10, 5), dice.bell(40, 12), dice.bell(35, 10)), 0.8),  # behind
            (Limb(dice.bell(85, 12), dice.bell(5, 12), dice.bell(0, 20), dice.bell(15, 10)), 0.5),  # pointing
        ]
    )


def standing_leg(dice: Dice) -> Limb:
    bend = max(0.0, dice.bell(6, 5))
    return Limb(bend * 0.6 + dice.bell(0, 3), dice.bell(4, 3), dice.bell(-8, 6), bend)


def calm_neck(dice: Dice) -> tuple[float, float, float]:
    return dice.bell(4, 9), dice.bell(0, 6), dice.bell(0, 22)


def stand(dice: Dice) -> Pose:
    return Pose(
        left_arm=idle_arm(dice),
        right_arm=idle_arm(dice),
        left_leg=standing_leg(dice),
        right_leg=standing_leg(dice),
        spine=(dice.bell(4, 5), dice.bell(0, 4), dice.bell(0, 7)),
        neck=calm_neck(dice),
    )


def _stride(dice: Dice, phase: float, swing: float, lift: float, elbow: float) -> tuple[Limb, Limb]:
    """Arm and leg of one side at ``phase`` of a step: 0 both under the body, pi/2 the leg in front."""
    forward, rising = float(np.sin(phase)), max(0.0, float(np.cos(phase)))
    leg = Limb(
        swing * forward + 6, dice.bell(2, 2), dice.bell(-5, 4), 8 + lift * rising + 0.2 * lift * max(0, -forward)
    )
    arm = Limb(-0.8 * swing * forward, dice.bell(8, 4), dice.bell(15, 8), max(5.0, elbow - 12 * forward))
    return arm, leg


def walk(dice: Dice) -> Pose:
    phase, swing = dice.uniform(0, 6.283), dice.bell(26, 5)
    left_arm, left_leg = _stride(dice, phase, swing, 42, 22)
    right_arm, right_leg = _stride(dice, phase + 3.1416, swing, 42, 22)
    return Pose(left_arm, right_arm, left_leg, right_leg, (dice.bell(5, 4), 0.0, dice.bell(0, 6)), calm_neck(dice))


def run(dice: Dice) -> Pose:
    phase, swing = dice.uniform(0, 6.283), dice.bell(48, 8)
    left_arm, left_leg = _stride(dice, phase, swing, 88, dice.bell(88, 10))
    right_arm, right_leg = _stride(dice, phase + 3.1416, swing, 88, dice.bell(88, 10))
    neck = (dice.bell(-6, 6), 0.0, dice.bell(0, 12))
    return Pose(left_arm, right_arm, left_leg, right_leg, (dice.bell(12, 6), 0.0, 0.0), neck, (dice.bell(8, 4), 0.0))


def sit(dice: Dice) -> Pose:
    lean = dice.bell(4, 11)

    def leg() -> Limb:
        return Limb(dice.bell(86, 6), dice.bell(9, 6), dice.bell(0, 8), dice.bell(84, 14), dice.bell(0, 6))

    def arm() -> Limb:
        on_lap = Limb(dice.bell(28, 8), dice.bell(8, 4), dice.bell(22, 10), dice.bell(50, 14))
        return on_lap if dice.chance(0.65) else idle_arm(dice)

    spine = (lean + dice.bell(8, 5), dice.bell(0, 4), dice.bell(0, 8))
    return Pose(arm(), arm(), leg(), leg(), spine, calm_neck(dice), support="seat")


def sit_on_ground(dice: Dice) -> Pose:
    crossed = dice.chance(0.4)

    def leg() -> Limb:
        if crossed:
            return Limb(dice.bell(80, 5), dice.bell(45, 5), dice.bell(-35, 5), dice.bell(130, 6), 20)
        bend = dice.uniform(0, 110)
        return Limb(80 + bend * 0.35, dice.bell(8, 5), 0, bend, 15)

    back = dice.bell(-10, 8)
    behind = Limb(-45, dice.bell(15, 5), 0, 8, -20)
    arms = (behind, behind) if back < -8 else (idle_arm(dice), idle_arm(dice))
    return Pose(*arms, leg(), leg(), (dice.bell(22, 8), 0.0, dice.bell(0, 8)), calm_neck(dice), (back, 0.0))


def squat(dice: Dice) -> Pose:
    depth = dice.uniform(0.5, 1.0)

    def leg() -> Limb:
        return Limb(118 * depth, dice.bell(14, 6), dice.bell(-12, 5), 130 * depth, -18 * depth)

    arm = Limb(dice.bell(70, 14), dice.bell(5, 8), dice.bell(20, 15), dice.uniform(5, 70))
    other = replace(arm, flex=arm.flex + dice.bell(0, 12), bend=dice.uniform(5, 70))
    return Pose(
        arm, other, leg(), leg(), (dice.bell(24, 8), 0.0, dice.bell(0, 6)), (-12, 0, dice.bell(0, 15)), (24 * depth, 0)
    )


def kneel(dice: Dice) -> Pose:
    down = Limb(dice.bell(0, 6), dice.bell(4, 3), 0, dice.bell(92, 5), 50)
    up = Limb(dice.bell(88, 6), dice.bell(8, 4), 0, dice.bell(88, 6))
    legs = [down, up] if dice.chance(0.6) else [down, down]
    if dice.chance(0.5):
        legs.reverse()
    return Pose(idle_arm(dice), idle_arm(dice), legs[0], legs[1], (dice.bell(8, 8), 0.0, 0.0), calm_neck(dice))


def arms_up(dice: Dice) -> Pose:
    def arm() -> Limb:
        if dice.chance(0.5):
            return Limb(dice.bell(162, 14), dice.bell(14, 10), dice.bell(0, 15), dice.uniform(0, 60))
        return Limb(dice.bell(0, 12), dice.bell(128, 22), dice.bell(-10, 15), dice.uniform(0, 60))

    base = dice.pick([stand, walk])(dice)
    return replace(base, left_arm=arm(), right_arm=arm() if dice.chance(0.7) else idle_arm(dice))


def arms_wide(dice: Dice) -> Pose:
    left = Limb(dice.bell(5, 8), dice.bell(86, 10), dice.bell(0, 10), dice.uniform(0, 25))
    right = replace(left, abduct=dice.bell(86, 12), bend=dice.uniform(0, 25))
    lunge = Limb(dice.bell(10, 6), dice.bell(38, 6), -35, dice.uniform(0, 60))
    straight = Limb(0, dice.bell(34, 6), -10, dice.uniform(0, 8))
    legs = (lunge, straight) if dice.chance(0.5) else (standing_leg(dice), standing_leg(dice))
    return Pose(left, right, *legs, (dice.bell(0, 5), dice.bell(0, 10), 0.0), calm_neck(dice))


def bend_over(dice: Dice) -> Pose:
    bow, spine = dice.uniform(25, 75), dice.uniform(15, 45)

    def leg() -> Limb:
        bend = dice.uniform(0, 45)
        return Limb(bow + bend * 0.5, dice.bell(8, 4), -6, bend)

    def arm() -> Limb:
        return Limb(dice.bell(bow, 12), dice.bell(8, 6), dice.bell(5, 12), dice.uniform(0, 35))

    return Pose(arm(), arm(), leg(), leg(), (spine, 0.0, dice.bell(0, 8)), (dice.bell(-15, 10), 0, 0), (bow, 0.0))


def lie(dice: Dice) -> Pose:
    """On the back, the front or a side."""
    fall = dice.pick([(-88.0, 0.0), (88.0, 0.0), (0.0, 88.0), (0.0, -88.0)])

    def arm() -> Limb:
        low = Limb(dice.bell(5, 8), dice.uniform(5, 70), 0, dice.uniform(0, 60))
        return low if dice.chance(0.6) else Limb(dice.bell(160, 15), dice.bell(20, 12), 0, dice.uniform(0, 100))

    def leg() -> Limb:
        bend = dice.uniform(0, 70)
        return Limb(bend * 0.55, dice.bell(10, 6), -10, bend, 25)

    return Pose(
        arm(),
        arm(),
        leg(),
        leg(),
        (dice.bell(2, 5), 0.0, dice.bell(0, 6)),
        (dice.bell(0, 8), 0, dice.bell(0, 20)),
        fall,
    )


def crawl(dice: Dice) -> Pose:
    reach = dice.bell(0, 14)
    arms = (Limb(88 + reach, 5, 0, dice.uniform(0, 20), -45), Limb(88 - reach, 5, 0, dice.uniform(0, 20), -45))
    legs = (Limb(85 + reach, 6, 0, 88, 45), Limb(85 - reach, 6, 0, 88, 45))
    return Pose(*arms, *legs, (dice.bell(4, 6), 0, 0), (-28, 0, dice.bell(0, 15)), (dice.bell(80, 5), 0.0))


def ride(dice: Dice) -> Pose:
    """On a bicycle, of which only the seat is painted."""
    bow = dice.bell(28, 8)
    pedal = dice.uniform(0, 6.283)

    def leg(phase: float) -> Limb:
        lifted = 0.5 + 0.5 * float(np.sin(phase))
        return Limb(35 + 45 * lifted + bow * 0.4, 4, 0, 35 + 60 * lifted, 8)

    arm = Limb(dice.bell(78, 6), 8, 10, dice.bell(20, 8))
    return Pose(arm, arm, leg(pedal), leg(pedal + 3.1416), (24, 0, 0), (-22, 0, dice.bell(0, 10)), (bow, 0), "seat")


def kick(dice: Dice) -> Pose:
    high = dice.uniform(35, 110)
    kicking = Limb(high, dice.bell(12, 8), -8, dice.uniform(0, 60), dice.uniform(0, 35))
    arms = (Limb(-30, dice.bell(45, 12), 0, 30), Limb(dice.bell(50, 15), dice.bell(35, 12), 0, 30))
    pose = Pose(
        *arms,
        kicking,
        standing_leg(dice),
        (dice.bell(0, 6), dice.bell(-6, 5), 0.0),
        calm_neck(dice),
        (-high * 0.14, 0),
    )
    return mirrored(pose) if dice.chance(0.5) else pose


def throw(dice: Dice) -> Pose:
    """One hand above and behind the head, as with a racket or a ball, the other arm in front."""
    back = Limb(dice.bell(30, 15), dice.bell(105, 15), dice.bell(-60, 15), dice.uniform(40, 105))
    front = Limb(dice.bell(75, 15), dice.bell(15, 10), 0, dice.uniform(5, 60))
    legs = (Limb(dice.bell(28, 8), 8, -8, dice.uniform(5, 35)), Limb(dice.bell(-16, 6), 8, -15, dice.uniform(5, 30)))
    pose = Pose(front, back, *legs, (dice.bell(-6, 6), dice.bell(5, 8), dice.bell(-22, 8)), (0, 0, dice.bell(18, 8)))
    return mirrored(pose) if dice.chance(0.5) else pose


def jump(dice: Dice) -> Pose:
    def arm() -> Limb:
        return Limb(dice.bell(60, 45), dice.bell(75, 35), dice.bell(0, 20), dice.uniform(0, 70))

    def leg() -> Limb:
        flex = dice.uniform(-20, 85)
        return Limb(flex, dice.bell(20, 14), dice.bell(-5, 8), dice.uniform(10, 110), dice.uniform(10, 45))

    tilt = (dice.bell(0, 10), dice.bell(0, 8))
    return Pose(
        arm(), arm(), leg(), leg(), (dice.bell(0, 12), dice.bell(0, 8), dice.bell(0, 10)), calm_neck(dice), tilt, "air"
    )


def handstand(dice: Dice) -> Pose:
    split = dice.uniform(0, 70)
    legs = [
        Limb(split * 0.6, dice.bell(4, 4), 0, dice.uniform(0, 50), 35),
        Limb(-split * 0.5, dice.bell(4, 4), 0, dice.uniform(0, 70), 35),
    ]
    if dice.chance(0.4):
        legs = [
            Limb(0, dice.uniform(20, 75), 0, dice.uniform(0, 15), 35),
            Limb(0, dice.uniform(20, 75), 0, dice.uniform(0, 15), 35),
        ]
    arm = Limb(dice.bell(174, 5), dice.bell(6, 5), 0, dice.uniform(0, 15), -45)
    other = replace(arm, abduct=dice.bell(6, 5), bend=dice.uniform(0, 15))
    return Pose(
        arm, other, legs[0], legs[1], (dice.bell(-8, 6), 0.0, 0.0), (-25, 0.0, 0.0), (0.0, 180 + dice.bell(0, 8))
    )


def cartwheel(dice: Dice) -> Pose:
    def arm() -> Limb:
        return Limb(dice.bell(172, 5), dice.bell(24, 6), 0, dice.uniform(0, 10))

    def leg() -> Limb:
        return Limb(dice.bell(4, 8), dice.bell(55, 10), 0, dice.uniform(0, 15), 30)

    return Pose(arm(), arm(), leg(), leg(), tilt=(0.0, dice.sign() * dice.uniform(60, 180)))


def free(dice: Dice) -> Pose:
    """Any angles that the joints allow, so that no pose is excluded."""

    def arm() -> Limb:
        return Limb(dice.uniform(-40, 175), dice.uniform(-5, 120), dice.uniform(-60, 70), dice.uniform(0, 130))

    def leg() -> Limb:
        return Limb(
            dice.uniform(-25, 100),
            dice.uniform(-5, 50),
            dice.uniform(-25, 10),
            dice.uniform(0, 120),
            dice.uniform(-10, 40),
        )

    spine = (dice.uniform(-20, 45), dice.bell(0, 12), dice.bell(0, 16))
    return Pose(arm(), arm(), leg(), leg(), spine, calm_neck(dice), (dice.bell(0, 16), dice.bell(0, 12)), "air")


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
    """A pose of one of these weighted kinds, within the limits of the joints."""
    return within_limits(dice.pick_weighted(kinds)(dice))
