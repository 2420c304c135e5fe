"""Joint angles and poses: joints are where those of a person would be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.synthetic import poses
from yolopose.data.synthetic.body import Build, Limb, Pose, mirrored, posture_from, random_build, within_limits
from yolopose.data.synthetic.dice import Dice

X, Y, Z = 0, 1, 2  # right in the image, down, away from the camera
KINDS = sorted({kind for kind, _ in poses.EVERYDAY + poses.SPORT + poses.UPRIGHT}, key=lambda kind: kind.__name__)


def points(pose: Pose, yaw: float = 0.0) -> dict[str, np.ndarray]:
    return posture_from(pose, Build(), yaw).points


def test_standing_upright_and_facing_the_camera() -> None:
    at = points(Pose())
    assert (
        at["head_top"][Y]
        < at["neck"][Y]
        < at["left_shoulder"][Y]
        < at["left_hip"][Y]
        < at["left_knee"][Y]
        < at["left_ankle"][Y]
    )
    # The left side of a person who faces the camera is on the right of the image.
    assert at["left_shoulder"][X] > 0 > at["right_shoulder"][X]
    assert at["left_toe"][Z] < at["left_heel"][Z]
    stature = at["left_toe"][Y] - at["head_top"][Y]
    assert stature == pytest.approx(1.0, abs=0.06)


def test_seen_from_behind_left_is_left() -> None:
    at = points(Pose(), yaw=180)
    assert at["left_shoulder"][X] < 0 < at["right_shoulder"][X]
    assert at["left_toe"][Z] > at["left_heel"][Z]


@pytest.mark.parametrize(
    ("limb", "check"),
    [
        (Limb(flex=90), lambda shoulder, elbow, wrist: elbow[Z] < shoulder[Z] - 0.1),  # forward
        (Limb(abduct=90), lambda shoulder, elbow, wrist: elbow[X] > shoulder[X] + 0.1),  # outward
        (Limb(flex=180), lambda shoulder, elbow, wrist: elbow[Y] < shoulder[Y] - 0.1),  # up
        (Limb(bend=90), lambda shoulder, elbow, wrist: wrist[Z] < elbow[Z] - 0.1),  # forearm forward
        (Limb(bend=90, twist=90), lambda shoulder, elbow, wrist: wrist[X] < elbow[X] - 0.1),  # across the belly
    ],
)
def test_arm_angles(limb: Limb, check: object) -> None:
    at = points(Pose(left_arm=limb))
    assert check(at["left_shoulder"], at["left_elbow"], at["left_wrist"])  # type: ignore[operator]


def test_knees_bend_backward_and_hips_forward() -> None:
    at = points(Pose(left_leg=Limb(flex=90, bend=90)))
    assert at["left_knee"][Z] < -0.2
    assert at["left_ankle"][Z] == pytest.approx(at["left_knee"][Z], abs=1e-9)
    assert at["left_ankle"][Y] > at["left_knee"][Y] + 0.2


@given(st.integers(0, 10**6), st.sampled_from(KINDS), st.floats(-180, 180))
def test_bones_keep_their_length_and_sides_mirror(seed: int, kind: poses.Draw, yaw: float) -> None:
    dice = Dice(seed)
    pose, build = within_limits(kind(dice)), random_build(dice)
    at = posture_from(pose, build, yaw).points
    for side in ("left", "right"):
        bones = (
            ("hip", "knee", build.thigh),
            ("knee", "ankle", build.shank),
            ("shoulder", "elbow", build.upper_arm),
            ("elbow", "wrist", build.forearm),
        )
        for a, b, length in bones:
            assert np.linalg.norm(at[f"{side}_{a}"] - at[f"{side}_{b}"]) == pytest.approx(length)
    other = posture_from(mirrored(pose), build, -yaw).points
    for name, point in at.items():
        twin = name.replace("left", "?").replace("right", "left").replace("?", "right")
        np.testing.assert_allclose(other[twin], point * (-1, 1, 1), atol=1e-9)


def test_angles_are_clipped_to_the_limits() -> None:
    wild = Pose(left_arm=Limb(400, -400, 400, -50, 300), spine=(200.0, 200.0, -200.0))
    tame = within_limits(wild)
    assert tame.left_arm == Limb(185, -25, 90, 0, 60)
    assert tame.spine == (80, 35, -45)
    assert within_limits(tame) == tame
