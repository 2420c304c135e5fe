"""The look of a figure (skin, hair, clothes, patterns) and the painting of its dressed body below the head.

A `Look` is drawn at random; `paint_body` paints trunk, arms and legs as swept shapes, clothes over skin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from .body import Build, Posture, View
from .dice import Dice
from .painter import Canvas, Loft, Shader, Surface

Color = tuple[float, float, float]  # BGR, 0..255

SKIN: list[Color] = [
    (196, 214, 240), (168, 192, 232), (150, 180, 222), (128, 162, 208), (104, 142, 192), (84, 120, 172), (66, 96, 146),
    (52, 76, 118), (42, 60, 94), (34, 46, 70),
]  # fmt: skip
HAIR: list[Color] = [
    (22, 22, 26), (30, 32, 40), (36, 48, 70), (48, 72, 108), (70, 108, 150), (110, 168, 206), (150, 200, 224),
    (36, 62, 140), (150, 152, 156), (206, 208, 210),
]  # fmt: skip
MUTED: list[Color] = [
    (40, 38, 36), (70, 62, 54), (96, 78, 58), (120, 92, 56), (140, 138, 134), (186, 190, 192), (110, 128, 146),
    (84, 112, 132), (58, 84, 70), (64, 58, 92), (224, 226, 228), (150, 170, 190),
]  # fmt: skip
BRIGHT: list[Color] = [
    (50, 50, 200), (40, 120, 230), (60, 200, 240), (80, 170, 60), (200, 140, 40), (190, 70, 60), (150, 60, 160),
    (180, 130, 230), (200, 200, 60), (240, 240, 240), (30, 30, 34), (130, 60, 30),
]  # fmt: skip


@cache
def noise_tile() -> np.ndarray:
    """(256, 256) float32 smooth noise that wraps around; mean 0, about -1..1. Used for folds, blotches and grass."""
    dice = Dice(20_22)
    total = np.zeros((256, 256), np.int32)
    for size, weight in ((8, 4), (16, 3), (32, 2), (64, 1)):
        small = np.pad(dice.noise((size, size)), 1, mode="wrap")
        step = 256 // size
        large = cv2.resize(small, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR_EXACT)
        total += weight * large[step : step + 256, step : step + 256].astype(np.int32)
    return ((total - 1275) / np.float32(450)).astype(np.float32)


def jittered(color: Color, dice: Dice, spread: float = 14.0) -> Color:
    """A random color near ``color``."""
    light = dice.bell(0, spread)
    b, g, r = (min(max(part + light + dice.bell(0, spread / 2), 4.0), 250.0) for part in color)
    return b, g, r


@dataclass(frozen=True)
class Cloth:
    """A material and its pattern; lengths in statures."""

    color: Color
    second: Color
    pattern: str = "plain"
    period: float = 0.06
    folds: float = 0.12  # contrast of the folds
    offset: int = 0  # position in the noise tile


PATTERNS = [
    ("plain", 5.0),
    ("hoops", 1.2),
    ("stripes", 1.0),
    ("plaid", 0.9),
    ("dots", 0.5),
    ("blotches", 0.6),
    ("halves", 0.5),
]


def random_cloth(dice: Dice, bright: float, plain: float = 0.0) -> Cloth:
    """A cloth; ``bright`` and ``plain`` are the probabilities of a vivid color and of no pattern."""
    palette = BRIGHT if dice.chance(bright) else MUTED
    pattern = "plain" if dice.chance(plain) else dice.pick_weighted(PATTERNS)
    second = jittered(dice.pick(BRIGHT + MUTED), dice)
    return Cloth(
        jittered(dice.pick(palette), dice),
        second,
        pattern,
        dice.uniform(0.022, 0.075),
        dice.uniform(0.06, 0.2),
        dice.integer(0, 255),
    )


@dataclass(frozen=True)
class Look:
    """The look of a figure, apart from its shape."""

    skin: Color
    hair: Color
    hair_style: str  # "short", "long", "bun", "tail", "bald", "cropped"
    hat: str  # "none", "cap", "beanie"
    hat_cloth: Cloth
    beard: bool
    glasses: str  # "none", "clear", "dark"
    top: Cloth
    sleeve: float  # length: 0 none .. 1 to the elbow .. 2 to the wrist
    jacket: Cloth | None  # worn open over the top
    tucked: bool  # the top ends at the waist
    bottom: Cloth
    legwear: str  # "trousers", "shorts", "skirt", "dress", "tights"
    leg_cut: float  # length of shorts, skirt and dress: 0 hip .. 1 knee .. 2 ankle
    shoes: Cloth
    socks: float  # height, 0..1 of the shank
    gloves: bool
    loose: float  # added to the radius of clothed limbs, statures


def _open_jacket(dice: Dice, top: Cloth) -> Cloth:
    return replace(random_cloth(dice, 0.35, 1.0), second=top.color, pattern="open", period=dice.uniform(0.12, 0.5))


def random_look(dice: Dice) -> Look:
    """A random look for the street, for sport or for winter."""
    style = dice.pick_weighted([("street", 5.0), ("sport", 2.5), ("winter", 1.5)])
    sport, winter = style == "sport", style == "winter"
    top = random_cloth(dice, 0.7 if sport else 0.45)
    legwear = dice.pick_weighted(
        [
            ("trousers", 2.0 if sport else 5.0),
            ("shorts", 0.0 if winter else 5.0 if sport else 1.6),
            ("tights", 2.0 if sport else 0.6),
            ("skirt", 0.0 if sport else 0.9),
            ("dress", 0.0 if sport else 0.8),
        ]
    )
    dark_bottom = dice.chance(0.25) and legwear != "dress"
    return Look(
        skin=jittered(dice.pick(SKIN), dice, 6),
        hair=jittered(dice.pick(HAIR), dice, 6),
        hair_style=dice.pick_weighted(
            [("short", 4.0), ("cropped", 2.0), ("long", 2.5), ("bun", 1.0), ("tail", 1.2), ("bald", 0.7)]
        ),
        hat=dice.pick_weighted([("none", 1.0 if winter else 7.0), ("cap", 1.0), ("beanie", 1.5 if winter else 0.3)]),
        hat_cloth=random_cloth(dice, 0.5, 0.7),
        beard=dice.chance(0.18),
        glasses=dice.pick_weighted([("none", 6.0), ("clear", 1.0), ("dark", 1.0)]),
        top=top,
        sleeve=2.0
        if winter
        else dice.pick_weighted([(0.0, 0.8), (dice.uniform(0.45, 0.95), 4.0), (dice.uniform(1.85, 2.0), 3.0)]),
        jacket=_open_jacket(dice, top) if dice.chance(0.6 if winter else 0.18) else None,
        tucked=dice.chance(0.45),
        bottom=top if legwear == "dress" else random_cloth(dice, 0.9 if dark_bottom else 0.15, 0.75),
        legwear=legwear,
        leg_cut=dice.uniform(0.5, 1.1) if legwear == "shorts" else dice.uniform(0.65, 1.35),
        shoes=random_cloth(dice, 0.45, 0.9),
        socks=dice.uniform(0.1, 0.5) if dice.chance(0.5) else 0.0,
        gloves=dice.chance(0.5) if winter else dice.chance(0.03),
        loose=dice.uniform(0.003, 0.008) if sport or legwear == "tights" else dice.uniform(0.005, 0.016),
    )


def plain_shader(color: Color) -> Shader:
    flat = np.array(color, np.float32)
    return lambda surface: np.broadcast_to(flat, (len(surface.along), 3))


def skin_shader(color: Color, scale: float) -> Shader:
    """Slightly uneven skin; ``scale`` is pixels per stature."""
    return cloth_shader(Cloth(color, color, folds=0.04), np.eye(3), 0.1, 0.0, scale)


def cloth_shader(cloth: Cloth, frame: np.ndarray, length: float, begin: float, scale: float) -> Shader:
    """Shader of a body part that is ``length`` statures long and starts ``begin`` statures along the garment.

    frame: (3, 3), columns are the left, down and back directions of the part; scale: pixels per stature.
    """
    left, front = frame[:, 0].astype(np.float32), -frame[:, 2].astype(np.float32)
    color, second = np.array(cloth.color, np.float32), np.array(cloth.second, np.float32)
    step = np.float32(420.0 / max(scale, 1.0))  # noise cells per pixel: folds keep their size relative to the body

    def shade(surface: Surface) -> np.ndarray:
        rows, columns = ((part.astype(np.float32) * step).astype(np.int64) for part in (surface.rows, surface.columns))
        noise = noise_tile()[(rows + 3 * cloth.offset) & 255, (columns + cloth.offset) & 255]
        down = surface.along * np.float32(length) + np.float32(begin)
        across = surface.normal[:, 0] * left[0] + surface.normal[:, 1] * left[1] + surface.normal[:, 2] * left[2]
        facing = surface.normal[:, 0] * front[0] + surface.normal[:, 1] * front[1] + surface.normal[:, 2] * front[2]
        other = _pattern(cloth, down, across, facing, noise)
        base = np.where(other[:, None], second, color)
        return base * (1 + np.float32(cloth.folds) * noise)[:, None]

    return shade


def _pattern(cloth: Cloth, down: np.ndarray, across: np.ndarray, facing: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """(n,) bool: where the second color shows, by position along, across (-1..1) and towards the front (-1..1)."""
    period = np.float32(cloth.period)
    rings = np.floor(down / period)
    bars = np.floor(across * np.float32(0.1) / period * 1.6 + 64.5)
    if cloth.pattern == "hoops":
        return rings % 2 == 1
    if cloth.pattern == "stripes":
        return bars % 2 == 1
    if cloth.pattern == "plaid":
        return (rings + bars) % 2 == 1
    if cloth.pattern == "dots":
        y, x = (
            down / period - rings - np.float32(0.5),
            across * np.float32(0.16) / period + 64.5 - bars - np.float32(0.5),
        )
        return y * y + x * x < 0.1
    if cloth.pattern == "blotches":
        return noise > 0.12
    if cloth.pattern == "open":
        return (facing > 0.3) & (np.abs(across) < period)
    if cloth.pattern == "halves":
        return facing < 0.1
    return np.zeros(len(down), bool)


# Start radius, end radius and bulge (statures) at girth 1.
ARM_RADII = {"upper": (0.030, 0.026, 0.003), "lower": (0.025, 0.0165, 0.004), "hand": (0.017, 0.013, 0.005)}
LEG_RADII = {"upper": (0.056, 0.037, 0.004), "lower": (0.035, 0.0215, 0.007), "foot": (0.023, 0.019, 0.003)}
# Half width and half depth of the trunk at the hips, waist, ribs and armpits.
TRUNK = {"pelvis": (0.094, 0.066), "waist": (0.084, 0.060), "ribs": (0.092, 0.066), "neck": (0.074, 0.052)}


class BodyPainter:
    """Collects the parts of one body with their depths and paints them from far to near."""

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
        """Add a round part between two points (3,) in statures; radii: start, end, bulge; cloth None: skin."""
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
        """Add a flattened part; sections: (half width, half depth) in statures at both ends; frames: at both ends."""
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
    """Paint everything below the head."""
    painter = BodyPainter(posture, build, look, view)
    _trunk(painter)
    for side in ("left", "right"):
        _arm(painter, side)
        _leg(painter, side)
    if look.legwear in ("skirt", "dress"):
        _skirt(painter)
    painter.paint(canvas)


def _scaled(radii: tuple[float, float, float], girth: float, loose: float = 0.0) -> tuple[float, float, float]:
    return radii[0] * girth + loose, radii[1] * girth + loose, radii[2] * girth


def _between(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    return start + (end - start) * share


def _trunk(painter: BodyPainter) -> None:
    points, frames, build, look = painter.posture.points, painter.posture.frames, painter.build, painter.look
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
    painter.trunk(seat, points["pelvis"], (hips, hips), (root, root), look.bottom, 0.30)
    if not look.tucked:
        sections[0] = (sections[0][0] + 0.004, sections[0][1] * 1.28)  # hangs over belt and thighs
    hem = _between(points["pelvis"], points["waist"], 0.45 if look.tucked else 0.0)
    painter.trunk(points["waist"], hem, (sections[1], sections[0]), (middle, root), cloth, 0.20, 0.012)
    painter.trunk(points["ribs"], points["waist"], (sections[2], sections[1]), (chest, middle), cloth, 0.11, 0.006)
    painter.trunk(armpits, points["ribs"], (sections[3], sections[2]), (chest, chest), cloth, 0.05, 0.006)
    thick = 0.0305 * girth + loose * 0.6
    across = _between(points["left_shoulder"], points["right_shoulder"], 0.5)
    for side in ("left", "right"):
        shoulder = points[f"{side}_shoulder"]
        painter.limb(shoulder, across, (thick, thick + 0.016, 0.0), chest, cloth, 0.0, 0.004)
        slope = points["neck"] + frames["neck"] @ np.array([0.0, -0.012, 0.004])
        painter.limb(_between(shoulder, slope, 0.1), slope, (thick * 0.8, 0.024, 0.0), chest, cloth, 0.0, 0.003)
    radius = 0.030 * (0.6 + 0.4 * girth)
    painter.limb(
        _between(across, points["neck"], 0.7), points["skull"], (radius * 1.15, radius, 0.0), frames["neck"], None
    )


def _arm(painter: BodyPainter, side: str) -> None:
    points, frames, look = painter.posture.points, painter.posture.frames, painter.look
    girth, cloth = painter.build.girth, replace(look.jacket, pattern="plain") if look.jacket else look.top
    sleeve = 2.0 if look.jacket is not None else look.sleeve
    loose = look.loose + (0.004 if look.jacket is not None else 0.0)
    shoulder, elbow, wrist = (points[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist"))
    upper, lower = frames[f"{side}_upper_arm"], frames[f"{side}_lower_arm"]
    radii = {name: _scaled(value, girth) for name, value in ARM_RADII.items()}
    covered = (radii["upper"][0] + loose, radii["upper"][1] + loose, radii["upper"][2])
    if sleeve < 1:
        painter.limb(shoulder, elbow, radii["upper"], upper, None)
    if sleeve > 0.05:
        share = min(sleeve, 1.0)
        painter.limb(
            shoulder,
            _between(shoulder, elbow, share),
            (covered[0], covered[1] + 0.004 * (share < 1), covered[2]),
            upper,
            cloth,
            0.0,
            0.002,
        )
    if sleeve < 1.95:
        painter.limb(elbow, wrist, radii["lower"], lower, None, 0.0, 0.003)
    if sleeve > 1:
        radii_sleeve = _scaled(ARM_RADII["lower"], girth, loose * 0.8)
        painter.limb(elbow, _between(elbow, wrist, sleeve - 1), radii_sleeve, lower, cloth, 0.16, 0.004)
    _hand(painter, side)


def _hand(painter: BodyPainter, side: str) -> None:
    """A palm, one shape for all fingers, and a thumb."""
    points, frame, look = painter.posture.points, painter.posture.frames[f"{side}_hand"], painter.look
    wrist, tips = points[f"{side}_wrist"], points[f"{side}_hand"]
    glove = look.hat_cloth if look.gloves else None
    wide, narrow, _ = _scaled(ARM_RADII["hand"], painter.build.girth)
    knuckles = _between(wrist, tips, 0.55)
    painter.limb(wrist, knuckles, (wide * 0.85, wide * 1.1, 0.003), frame, glove, nearer=0.004)
    painter.limb(knuckles, tips, (wide * 1.05, narrow * 0.75, 0.0), frame, glove, nearer=0.005)
    thumb = knuckles + frame @ np.array([0.0, 0.006, -0.026])
    painter.limb(_between(wrist, tips, 0.2), thumb, (0.010, 0.007, 0.0), frame, glove, nearer=0.004)


def _leg(painter: BodyPainter, side: str) -> None:
    points, frames, look, girth = painter.posture.points, painter.posture.frames, painter.look, painter.build.girth
    hip, knee, ankle = (points[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    upper, lower = frames[f"{side}_upper_leg"], frames[f"{side}_lower_leg"]
    if look.legwear in ("trousers", "tights"):
        loose = 0.002 if look.legwear == "tights" else look.loose
        painter.limb(hip, knee, _scaled(LEG_RADII["upper"], girth, loose), upper, look.bottom, 0.3)
        shank = _scaled(LEG_RADII["lower"], girth, loose * 1.1)
        painter.limb(knee, _between(knee, ankle, 0.97), shank, lower, look.bottom, 0.54, 0.002)
    else:
        _bare_leg(painter, side)
    _shoe(painter, side)


def _bare_leg(painter: BodyPainter, side: str) -> None:
    """Skin, socks and shorts, as the look has them."""
    points, frames, look, girth = painter.posture.points, painter.posture.frames, painter.look, painter.build.girth
    hip, knee, ankle = (points[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    upper, lower = frames[f"{side}_upper_leg"], frames[f"{side}_lower_leg"]
    thigh, shank = _scaled(LEG_RADII["upper"], girth), _scaled(LEG_RADII["lower"], girth)
    painter.limb(hip, knee, thigh, upper, None)
    painter.limb(knee, ankle, shank, lower, None, nearer=0.002)
    if look.socks:
        sock = (shank[1] + (shank[0] - shank[1]) * look.socks + 0.006, shank[1] + 0.002, 0.002)
        painter.limb(_between(ankle, knee, look.socks), ankle, sock, lower, look.shoes, nearer=0.004)
    if look.legwear == "shorts":
        share = min(look.leg_cut, 1.0)
        wide = thigh[0] + (thigh[1] - thigh[0]) * share + look.loose + 0.006
        radii = (thigh[0] + look.loose, wide, thigh[2])
        painter.limb(hip, _between(hip, knee, share), radii, upper, look.bottom, 0.3, 0.003)


def _shoe(painter: BodyPainter, side: str) -> None:
    points, frame, cloth = painter.posture.points, painter.posture.frames[f"{side}_toe"], painter.look.shoes
    ankle, toe, heel = (points[f"{side}_{name}"] for name in ("ankle", "toe", "heel"))
    foot = _scaled(LEG_RADII["foot"], 0.5 + 0.5 * painter.build.girth)
    painter.limb(heel, toe, foot, frame, cloth, 0.8, 0.003)
    upper = (LEG_RADII["lower"][1] * painter.build.girth + 0.002, foot[0], 0.0)
    painter.limb(ankle, _between(heel, toe, 0.25), upper, frame, cloth, 0.76, 0.002)


def _skirt(painter: BodyPainter) -> None:
    """A cone from the hips to the hem. The thighs are covered too, which is what a seated figure shows."""
    points, frames, look, girth = painter.posture.points, painter.posture.frames, painter.look, painter.build.girth
    ends = []
    for side in ("left", "right"):
        hip, knee, ankle = (points[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
        ends.append(
            _between(hip, knee, min(look.leg_cut, 1.0)) if look.leg_cut < 1 else _between(knee, ankle, look.leg_cut - 1)
        )
        thigh = _scaled(LEG_RADII["upper"], girth, look.loose + 0.006)
        painter.limb(
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
    if apart < 0.30:  # with legs further apart than cloth stretches, only the thighs are covered
        painter.trunk(points["pelvis"], middle, (waist, hem), (root, root), look.bottom, 0.3, 0.03)
