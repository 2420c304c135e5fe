"""A dressed body without its head: trunk, arms and legs as swept shapes, clothes over skin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .body import Build, Posture
from .painter import Canvas, Loft, Shader
from .view import View
from .wardrobe import Cloth, Look, cloth_shader, skin_shader

# Half widths (statures) of a figure of girth 1.
ARM_RADII = {"upper": (0.030, 0.026, 0.003), "lower": (0.025, 0.0165, 0.004), "hand": (0.017, 0.013, 0.005)}
LEG_RADII = {"upper": (0.056, 0.037, 0.004), "lower": (0.035, 0.0215, 0.007), "foot": (0.023, 0.019, 0.003)}
# Cross sections of the trunk: half width, half depth, at hips, waist, ribs and the height of the arm pits.
TRUNK = {"pelvis": (0.094, 0.066), "waist": (0.084, 0.060), "ribs": (0.092, 0.066), "neck": (0.074, 0.052)}


class Tailor:
    """Paints parts of one body; a part is queued with its depth and all are painted from far to near."""

    def __init__(self, posture: Posture, build: Build, look: Look, view: View) -> None:
        self.posture, self.build, self.look, self.view = posture, build, look, view
        self.parts: list[tuple[float, Loft, Shader]] = []

    def limb(
        self,
        start: np.ndarray,
        end: np.ndarray,
        radii: tuple[float, float, float],
        frame: np.ndarray,
        cloth: Cloth | None,
        begin: float = 0.0,
        nearer: float = 0.0,
    ) -> None:
        """A round part between two points (3,) in statures; radii at start, end and bulge between; no cloth is skin."""
        a, b = self.view.project(start), self.view.project(end)
        first, last, bulge = (
            radii[0] * self.view.factor(start),
            radii[1] * self.view.factor(end),
            radii[2] * self.view.scale,
        )
        loft = Loft(a, b, np.eye(3) * first, np.eye(3) * last, bulge)
        self._queue(loft, frame, cloth, float(np.sqrt(((end - start) ** 2).sum())), begin, nearer)

    def trunk(
        self,
        start: np.ndarray,
        end: np.ndarray,
        sections: tuple[tuple[float, float], tuple[float, float]],
        frames: tuple[np.ndarray, np.ndarray],
        cloth: Cloth,
        begin: float,
        nearer: float = 0.0,
    ) -> None:
        """A flattened part; sections are (half width, half depth) in statures at both ends, frames likewise."""
        axes = []
        for (wide, deep), frame, at in zip(sections, frames, (start, end), strict=True):
            directions, factor = self.view.directions(frame), self.view.factor(at)
            axes.append(np.stack([directions[:, 0] * wide, directions[:, 1] * 0.045, directions[:, 2] * deep]) * factor)
        loft = Loft(self.view.project(start), self.view.project(end), axes[0], axes[1], flat=0.6)
        self._queue(loft, frames[0], cloth, float(np.sqrt(((end - start) ** 2).sum())), begin, nearer)

    def _queue(
        self, loft: Loft, frame: np.ndarray, cloth: Cloth | None, length: float, begin: float, nearer: float
    ) -> None:
        if cloth is None:
            shader = skin_shader(self.look.skin, self.view.scale)
        else:
            shader = cloth_shader(cloth, self.view.directions(frame), length, begin, self.view.scale)
        depth = (loft.start[2] + loft.end[2]) / 2 - nearer * self.view.scale
        self.parts.append((float(depth), loft, shader))

    def paint(self, canvas: Canvas) -> None:
        for _, loft, shader in sorted(self.parts, key=lambda part: -part[0]):
            canvas.loft(loft, shader)


def paint_body(canvas: Canvas, posture: Posture, build: Build, look: Look, view: View) -> None:
    """Everything from the neck down."""
    tailor = Tailor(posture, build, look, view)
    _trunk(tailor)
    for side in ("left", "right"):
        _arm(tailor, side)
        _leg(tailor, side)
    if look.legwear in ("skirt", "dress"):
        _skirt(tailor)
    tailor.paint(canvas)


def _scaled(radii: tuple[float, float, float], girth: float, loose: float = 0.0) -> tuple[float, float, float]:
    return radii[0] * girth + loose, radii[1] * girth + loose, radii[2] * girth


def _between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    return start + (end - start) * share


def _trunk(tailor: Tailor) -> None:
    points, frames, build, look = tailor.posture.points, tailor.posture.frames, tailor.build, tailor.look
    cloth = look.jacket or look.top
    girth = build.girth
    hips = (TRUNK["pelvis"][0] * (0.5 + 0.5 * girth) + 0.25 * (build.hip - 0.053), TRUNK["pelvis"][1] * girth)
    waist = (TRUNK["waist"][0] * girth * build.waist / 0.86, TRUNK["waist"][1] * girth * build.belly)
    ribs = (TRUNK["ribs"][0] * (0.4 + 0.6 * girth) * build.shoulder / 0.112, TRUNK["ribs"][1] * girth)
    top = (TRUNK["neck"][0] * build.shoulder / 0.112, TRUNK["neck"][1] * girth)
    loose = look.loose if look.jacket is None else look.loose + 0.008
    sections = [(wide + loose * 0.7, deep + loose * 0.7) for wide, deep in (hips, waist, ribs, top)]
    root, middle, chest = frames["pelvis"], frames["waist"], frames["chest"]
    seat = points["pelvis"] + root @ np.array([0.0, 0.018, 0.0])
    armpits = _between(points["ribs"], points["neck"], 0.55)
    tailor.trunk(seat, points["pelvis"], (hips, hips), (root, root), look.bottom, 0.30)
    if not look.tucked:
        sections[0] = (sections[0][0] + 0.004, sections[0][1] * 1.28)  # hangs over belt and thighs
    hem = _between(points["pelvis"], points["waist"], 0.45 if look.tucked else 0.0)
    tailor.trunk(points["waist"], hem, (sections[1], sections[0]), (middle, root), cloth, 0.20, 0.012)
    tailor.trunk(points["ribs"], points["waist"], (sections[2], sections[1]), (chest, middle), cloth, 0.11, 0.006)
    tailor.trunk(armpits, points["ribs"], (sections[3], sections[2]), (chest, chest), cloth, 0.05, 0.006)
    thick = 0.0305 * girth + loose * 0.6
    across = _between(points["left_shoulder"], points["right_shoulder"], 0.5)
    for side in ("left", "right"):
        shoulder = points[f"{side}_shoulder"]
        tailor.limb(shoulder, across, (thick, thick + 0.016, 0.0), chest, cloth, 0.0, 0.004)
        slope = points["neck"] + frames["neck"] @ np.array([0.0, -0.012, 0.004])
        tailor.limb(_between(shoulder, slope, 0.1), slope, (thick * 0.8, 0.024, 0.0), chest, cloth, 0.0, 0.003)
    radius = 0.030 * (0.6 + 0.4 * girth)
    tailor.limb(
        _between(across, points["neck"], 0.7), points["skull"], (radius * 1.15, radius, 0.0), frames["neck"], None
    )


def _arm(tailor: Tailor, side: str) -> None:
    points, frames, look = tailor.posture.points, tailor.posture.frames, tailor.look
    girth, cloth = tailor.build.girth, replace(look.jacket, pattern="plain") if look.jacket else look.top
    sleeve = 2.0 if look.jacket is not None else look.sleeve
    loose = look.loose + (0.004 if look.jacket is not None else 0.0)
    shoulder, elbow, wrist = (points[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    upper, lower = frames[f"{side}_upper_arm"], frames[f"{side}_lower_arm"]
    radii = {name: _scaled(value, girth) for name, value in ARM_RADII.items()}
    covered = (radii["upper"][0] + loose, radii["upper"][1] + loose, radii["upper"][2])
    if sleeve < 1:
        tailor.limb(shoulder, elbow, radii["upper"], upper, None)
    if sleeve > 0.05:
        share = min(sleeve, 1.0)
        tailor.limb(
            shoulder,
            _between(shoulder, elbow, share),
            (covered[0], covered[1] + 0.004 * (share < 1), covered[2]),
            upper,
            cloth,
            0.0,
            0.002,
        )
    if sleeve < 1.95:
        tailor.limb(elbow, wrist, radii["lower"], lower, None, 0.0, 0.003)
    if sleeve > 1:
        radii_sleeve = _scaled(ARM_RADII["lower"], girth, loose * 0.8)
        tailor.limb(elbow, _between(elbow, wrist, sleeve - 1), radii_sleeve, lower, cloth, 0.16, 0.004)
    _hand(tailor, side)


def _hand(tailor: Tailor, side: str) -> None:
    """A palm, fingers held together and a thumb."""
    points, frame, look = tailor.posture.points, tailor.posture.frames[f"{side}_hand"], tailor.look
    wrist, tips = points[f"{side}_wrist"], points[f"{side}_hand"]
    glove = look.hat_cloth if look.gloves else None
    wide, narrow, _ = _scaled(ARM_RADII["hand"], tailor.build.girth)
    knuckles = _between(wrist, tips, 0.55)
    tailor.limb(wrist, knuckles, (wide * 0.85, wide * 1.1, 0.003), frame, glove, nearer=0.004)
    tailor.limb(knuckles, tips, (wide * 1.05, narrow * 0.75, 0.0), frame, glove, nearer=0.005)
    thumb = knuckles + frame @ np.array([0.0, 0.006, -0.026])
    tailor.limb(_between(wrist, tips, 0.2), thumb, (0.010, 0.007, 0.0), frame, glove, nearer=0.004)


def _leg(tailor: Tailor, side: str) -> None:
    points, frames, look, girth = tailor.posture.points, tailor.posture.frames, tailor.look, tailor.build.girth
    hip, knee, ankle = (points[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    upper, lower = frames[f"{side}_upper_leg"], frames[f"{side}_lower_leg"]
    if look.legwear in ("trousers", "tights"):
        loose = 0.002 if look.legwear == "tights" else look.loose
        tailor.limb(hip, knee, _scaled(LEG_RADII["upper"], girth, loose), upper, look.bottom, 0.3)
        shank = _scaled(LEG_RADII["lower"], girth, loose * 1.1)
        tailor.limb(knee, _between(knee, ankle, 0.97), shank, lower, look.bottom, 0.54, 0.002)
    else:
        _bare_leg(tailor, side)
    _shoe(tailor, side)


def _bare_leg(tailor: Tailor, side: str) -> None:
    """Skin, socks and, when they are worn, shorts."""
    points, frames, look, girth = tailor.posture.points, tailor.posture.frames, tailor.look, tailor.build.girth
    hip, knee, ankle = (points[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    upper, lower = frames[f"{side}_upper_leg"], frames[f"{side}_lower_leg"]
    thigh, shank = _scaled(LEG_RADII["upper"], girth), _scaled(LEG_RADII["lower"], girth)
    tailor.limb(hip, knee, thigh, upper, None)
    tailor.limb(knee, ankle, shank, lower, None, nearer=0.002)
    if look.socks:
        sock = (shank[1] + (shank[0] - shank[1]) * look.socks + 0.006, shank[1] + 0.002, 0.002)
        tailor.limb(_between(ankle, knee, look.socks), ankle, sock, lower, look.shoes, nearer=0.004)
    if look.legwear == "shorts":
        share = min(look.leg_cut, 1.0)
        wide = thigh[0] + (thigh[1] - thigh[0]) * share + look.loose + 0.006
        radii = (thigh[0] + look.loose, wide, thigh[2])
        tailor.limb(hip, _between(hip, knee, share), radii, upper, look.bottom, 0.3, 0.003)


def _shoe(tailor: Tailor, side: str) -> None:
    points, frame, cloth = tailor.posture.points, tailor.posture.frames[f"{side}_toe"], tailor.look.shoes
    ankle, toe, heel = (points[f"{side}_{name}"] for name in ("ankle", "toe", "heel"))
    foot = _scaled(LEG_RADII["foot"], 0.5 + 0.5 * tailor.build.girth)
    tailor.limb(heel, toe, foot, frame, cloth, 0.8, 0.003)
    upper = (LEG_RADII["lower"][1] * tailor.build.girth + 0.002, foot[0], 0.0)
    tailor.limb(ankle, _between(heel, toe, 0.25), upper, frame, cloth, 0.76, 0.002)


def _skirt(tailor: Tailor) -> None:
    """A cone from the hips to where the legs are; thighs covered as well, so that it also works when seated."""
    points, frames, look, girth = tailor.posture.points, tailor.posture.frames, tailor.look, tailor.build.girth
    ends = []
    for side in ("left", "right"):
        hip, knee, ankle = (points[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        ends.append(
            _between(hip, knee, min(look.leg_cut, 1.0)) if look.leg_cut < 1 else _between(knee, ankle, look.leg_cut - 1)
        )
        thigh = _scaled(LEG_RADII["upper"], girth, look.loose + 0.006)
        tailor.limb(
            hip,
            _between(hip, knee, min(look.leg_cut, 0.98)),
            thigh,
            frames[f"{side}_upper_leg"],
            look.bottom,
            0.3,
            0.004,
        )
    apart = float(np.sqrt(((ends[0] - ends[1]) ** 2).sum()))
    hem = (apart / 2 + 0.062 * girth, min(apart / 2, 0.07) + 0.055 * girth)
    waist = (TRUNK["pelvis"][0] * girth + 0.004, TRUNK["pelvis"][1] * girth + 0.006)
    root = frames["pelvis"]
    middle = _between(ends[0], ends[1], 0.5)
    if apart < 0.30:  # legs further apart than cloth would stretch wear it as two covered thighs
        tailor.trunk(points["pelvis"], middle, (waist, hem), (root, root), look.bottom, 0.3, 0.03)
