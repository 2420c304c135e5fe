"""What people do less often: kicks, throws, jumps, gymnastics, and whatever joints allow."""

from __future__ import annotations

from dataclasses import replace

from .body import Limb, Pose, mirrored
from .dice import Dice
from .poses import calm_neck, standing_leg


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
    """A racket or a ball above and behind the head, the other arm in front."""
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
    """Anything the joints allow, so that no pose is quite unheard of."""

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
