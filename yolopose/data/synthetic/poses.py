"""What people do every day: each function draws one pose of a kind, all joints a little different every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .body import Limb, Pose
from .dice import Dice


def idle_arm(dice: Dice) -> Limb:
    """What an arm does while its owner does something else."""
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
    """An arm and the leg of the same side at ``phase`` of a step: 0 both under the body, a quarter leg in front."""
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
    """On a bicycle, of which the seat is painted and the rest left to the imagination."""
    bow = dice.bell(28, 8)
    pedal = dice.uniform(0, 6.283)

    def leg(phase: float) -> Limb:
        lifted = 0.5 + 0.5 * float(np.sin(phase))
        return Limb(35 + 45 * lifted + bow * 0.4, 4, 0, 35 + 60 * lifted, 8)

    arm = Limb(dice.bell(78, 6), 8, 10, dice.bell(20, 8))
    return Pose(arm, arm, leg(pedal), leg(pedal + 3.1416), (24, 0, 0), (-22, 0, dice.bell(0, 10)), (bow, 0), "seat")
