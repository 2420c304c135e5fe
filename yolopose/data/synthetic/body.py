"""An articulated figure in three dimensions: proportions, joint angles, forward kinematics, and the camera.

Lengths are fractions of the stature (Drillis and Contini 1966, as in Winter, Biomechanics and Motor Control). Axes: x
to the right of the image, y down, z away from the camera. A figure with yaw 0 looks into the camera; its left is +x.
`View` projects them to pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from .dice import Dice

Frame = np.ndarray  # (3, 3) float64; columns are the left, down and back directions of a body part in the world
UP, LEFT, FRONT = np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0])
MIRROR = np.diag([-1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Limb:
    """Joint angles of an arm or a leg in degrees; all zero: the limb hangs straight down."""

    flex: float = 0.0  # forward at shoulder or hip; negative is backward
    abduct: float = 0.0  # outward, away from the middle of the body
    twist: float = 0.0  # inward rotation about the axis of the limb
    bend: float = 0.0  # elbow or knee
    end: float = 0.0  # wrist flexion, or ankle: toes down


@dataclass(frozen=True)
class Pose:
    """All joint angles in degrees, and the tilt of the whole figure, which is applied before the yaw."""

    left_arm: Limb = field(default_factory=Limb)
    right_arm: Limb = field(default_factory=Limb)
    left_leg: Limb = field(default_factory=Limb)
    right_leg: Limb = field(default_factory=Limb)
    spine: tuple[float, float, float] = (0.0, 0.0, 0.0)  # bend forward, lean to the left, turn to the left
    neck: tuple[float, float, float] = (0.0, 0.0, 0.0)  # the same for the head relative to the chest
    tilt: tuple[float, float] = (0.0, 0.0)  # whole figure: fall forward, fall to the left
    support: str = "ground"  # "ground", "seat" (the scene adds something to sit on) or "air"


# (lowest, highest) degrees that the joints of a healthy adult allow, slightly more for gymnasts.
ARM_LIMITS = {"flex": (-60, 185), "abduct": (-25, 175), "twist": (-90, 90), "bend": (0, 150), "end": (-50, 60)}
LEG_LIMITS = {"flex": (-35, 135), "abduct": (-15, 80), "twist": (-45, 35), "bend": (0, 150), "end": (-20, 60)}
SPINE_LIMITS = ((-35, 80), (-35, 35), (-45, 45))
NECK_LIMITS = ((-45, 45), (-30, 30), (-70, 70))


@dataclass(frozen=True)
class Build:
    """Proportions of one figure; lengths and radii are fractions of the stature."""

    head: float = 0.130  # chin to top of the head
    neck: float = 0.042
    trunk: float = 0.290  # hip joints to the base of the neck
    shoulder: float = 0.112  # half the distance between the shoulder joints
    hip: float = 0.054  # half the distance between the hip joints
    upper_arm: float = 0.178
    forearm: float = 0.146
    hand: float = 0.085
    thigh: float = 0.243
    shank: float = 0.243
    foot: float = 0.135
    girth: float = 1.0  # factor of all thicknesses
    belly: float = 1.0
    waist: float = 0.86  # width relative to the ribs


def random_build(dice: Dice) -> Build:
    """Proportions of a random woman, man or child, thin to heavy."""
    child = dice.chance(0.15)
    woman = dice.chance(0.5)
    legs = dice.bell(0.93 if child else 1.0, 0.03)
    arms = dice.bell(0.95 if child else 1.0, 0.03)
    girth = max(0.8, dice.bell(1.1 if child else 0.95 if woman else 1.06, 0.11))
    return Build(
        head=dice.bell(0.172 if child else 0.132, 0.006),
        neck=dice.bell(0.034 if child else 0.042, 0.004),
        trunk=dice.bell(0.290, 0.010),
        shoulder=dice.bell(0.102 if woman or child else 0.118, 0.005),
        hip=dice.bell(0.056 if woman else 0.053, 0.003),
        upper_arm=0.178 * arms,
        forearm=0.146 * arms,
        thigh=0.243 * legs,
        shank=0.243 * legs,
        girth=girth,
        belly=max(0.9, dice.bell(0.8 + 0.25 * girth, 0.08)),
        waist=dice.bell(0.80 if woman and not child else 0.90, 0.04),
    )


def _limited(limb: Limb, limits: dict[str, tuple[int, int]]) -> Limb:
    return Limb(**{name: min(max(getattr(limb, name), low), high) for name, (low, high) in limits.items()})


def within_limits(pose: Pose) -> Pose:
    """The pose with every angle clipped to the limits of its joint."""

    def clip(angles: tuple[float, float, float], limits: tuple[tuple[int, int], ...]) -> tuple[float, float, float]:
        a, b, c = (min(max(angle, low), high) for angle, (low, high) in zip(angles, limits, strict=True))
        return a, b, c

    return replace(
        pose,
        left_arm=_limited(pose.left_arm, ARM_LIMITS),
        right_arm=_limited(pose.right_arm, ARM_LIMITS),
        left_leg=_limited(pose.left_leg, LEG_LIMITS),
        right_leg=_limited(pose.right_leg, LEG_LIMITS),
        spine=clip(pose.spine, SPINE_LIMITS),
        neck=clip(pose.neck, NECK_LIMITS),
    )


def mirrored(pose: Pose) -> Pose:
    """The same pose with left and right exchanged."""
    return replace(
        pose,
        left_arm=pose.right_arm,
        right_arm=pose.left_arm,
        left_leg=pose.right_leg,
        right_leg=pose.left_leg,
        spine=(pose.spine[0], -pose.spine[1], -pose.spine[2]),
        neck=(pose.neck[0], -pose.neck[1], -pose.neck[2]),
        tilt=(pose.tilt[0], -pose.tilt[1]),
    )


def rotation_x(degrees: float) -> np.ndarray:
    """(3, 3) that turns up towards the front, as in a bow."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rotation_y(degrees: float) -> np.ndarray:
    """(3, 3) that turns the front towards the left."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def rotation_z(degrees: float) -> np.ndarray:
    """(3, 3) that turns up towards the left."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Posture:
    """The joints of a posed figure by name: points (3,) in statures and frames (3, 3)."""

    points: dict[str, np.ndarray]
    frames: dict[str, Frame]


def posture_from(pose: Pose, build: Build, yaw: float) -> Posture:
    """Forward kinematics, starting at the middle of the hips."""
    root = rotation_y(yaw) @ rotation_z(pose.tilt[1]) @ rotation_x(pose.tilt[0])
    bend, lean, turn = (angle / 2 for angle in pose.spine)
    step = rotation_y(turn) @ rotation_z(lean) @ rotation_x(bend)
    middle = root @ step  # loins
    chest = middle @ step
    half_neck = chest @ rotation_y(pose.neck[2] / 2) @ rotation_z(pose.neck[1] / 2) @ rotation_x(pose.neck[0] / 2)
    head = half_neck @ rotation_y(pose.neck[2] / 2) @ rotation_z(pose.neck[1] / 2) @ rotation_x(pose.neck[0] / 2)
    points = {"pelvis": np.zeros(3)}
    points["waist"] = root @ UP * (0.36 * build.trunk)
    points["ribs"] = points["waist"] + middle @ UP * (0.30 * build.trunk)
    points["neck"] = points["ribs"] + chest @ UP * (0.34 * build.trunk)
    points["skull"] = points["neck"] + half_neck @ (UP * build.neck + FRONT * 0.012)
    points["head"] = points["skull"] + head @ (UP * (0.5 * build.head) + FRONT * 0.010)
    points["head_top"] = points["head"] + head @ UP * (0.5 * build.head)
    frames = {"pelvis": root, "waist": middle, "chest": chest, "neck": half_neck, "head": head}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        arm = pose.left_arm if sign > 0 else pose.right_arm
        raised = max(0.0, max(arm.flex, arm.abduct) - 60.0) / 120.0  # a raised arm lifts the shoulder
        socket = LEFT * sign * (build.shoulder - 0.022 * raised) - UP * (0.046 - 0.062 * raised)
        points[f"{side}_shoulder"] = points["neck"] + chest @ socket
        points[f"{side}_hip"] = root @ (LEFT * sign * build.hip)
        _hang_limb(points, frames, f"{side}_arm", chest, arm, sign, build)
        leg = pose.left_leg if sign > 0 else pose.right_leg
        _hang_limb(points, frames, f"{side}_leg", root, leg, sign, build)
    return Posture(points, frames)


_LIMB_JOINTS = {"arm": ("shoulder", "elbow", "wrist", "hand"), "leg": ("hip", "knee", "ankle", "toe")}


def _hang_limb(
    points: dict[str, np.ndarray],
    frames: dict[str, Frame],
    name: str,
    parent: Frame,
    limb: Limb,
    sign: float,
    build: Build,
) -> None:
    """Add the joints of an arm or a leg; the right limb is the mirror image of the left."""
    side, kind = name.split("_")
    socket, joint, end, tip = (f"{side}_{part}" for part in _LIMB_JOINTS[kind])
    upper = rotation_x(-limb.flex) @ rotation_z(-limb.abduct) @ rotation_y(-limb.twist)
    lower = upper @ rotation_x(-limb.bend if kind == "arm" else limb.bend)
    last = lower @ rotation_x(-limb.end if kind == "arm" else limb.end)
    if sign < 0:
        upper, lower, last = (MIRROR @ frame @ MIRROR for frame in (upper, lower, last))
    upper, lower, last = parent @ upper, parent @ lower, parent @ last
    lengths = (build.upper_arm, build.forearm) if kind == "arm" else (build.thigh, build.shank)
    points[joint] = points[socket] - upper @ UP * lengths[0]
    points[end] = points[joint] - lower @ UP * lengths[1]
    if kind == "arm":
        points[tip] = points[end] - last @ UP * build.hand
    else:
        points[f"{side}_heel"] = points[end] + last @ (-UP * 0.024 - FRONT * 0.030)
        points[tip] = points[end] + last @ (-UP * 0.028 + FRONT * (build.foot - 0.035))
    frames[f"{side}_upper_{kind}"], frames[f"{side}_lower_{kind}"], frames[f"{side}_{tip[len(side) + 1 :]}"] = (
        upper,
        lower,
        last,
    )


@dataclass(frozen=True)
class View:
    """A camera: ``scale`` px per stature, ``distance`` statures away, looking down by ``pitch`` degrees."""

    scale: float
    pitch: float
    distance: float
    offset: tuple[float, float] = (0.0, 0.0)  # px: position of the middle of the hips

    @cached_property
    def _turn(self) -> np.ndarray:
        return rotation_x(self.pitch)

    @cached_property
    def _cosine_sine(self) -> tuple[float, float]:
        return float(self._turn[1, 1]), float(self._turn[2, 1])

    def project(self, point: np.ndarray) -> np.ndarray:
        """(3,) statures to (3,) px, z included. Rounded to 1/64 px, so that the last bits of sines do not matter."""
        x, y, z = point.tolist()
        cosine, sine = self._cosine_sine
        y, z = cosine * y - sine * z, sine * y + cosine * z
        near = self.distance / (self.distance + z) * self.scale
        placed = (x * near + self.offset[0], y * near + self.offset[1], z * self.scale)
        return np.array([round(value * 64) / 64 for value in placed])

    def directions(self, frame: np.ndarray) -> np.ndarray:
        """The frame of a body part (columns left, down, back) in camera axes, rounded to 2^-20."""
        return np.round(self._turn @ frame * 2**20) / 2**20

    def factor(self, point: np.ndarray) -> float:
        """px per stature at this point, rounded to 1/1024 of the scale."""
        cosine, sine = self._cosine_sine
        depth = sine * float(point[1]) + cosine * float(point[2])
        return self.scale * round(self.distance / (self.distance + depth) * 1024) / 1024
