"""What a figure looks like: skin, hair, clothes and their patterns."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np

from .dice import Dice
from .painter import Shader, Surface

Colour = tuple[float, float, float]  # BGR, 0..255

SKIN: list[Colour] = [
    (196, 214, 240), (168, 192, 232), (150, 180, 222), (128, 162, 208), (104, 142, 192), (84, 120, 172), (66, 96, 146),
    (52, 76, 118), (42, 60, 94), (34, 46, 70),
]  # fmt: skip
HAIR: list[Colour] = [
    (22, 22, 26), (30, 32, 40), (36, 48, 70), (48, 72, 108), (70, 108, 150), (110, 168, 206), (150, 200, 224),
    (36, 62, 140), (150, 152, 156), (206, 208, 210),
]  # fmt: skip
MUTED: list[Colour] = [
    (40, 38, 36), (70, 62, 54), (96, 78, 58), (120, 92, 56), (140, 138, 134), (186, 190, 192), (110, 128, 146),
    (84, 112, 132), (58, 84, 70), (64, 58, 92), (224, 226, 228), (150, 170, 190),
]  # fmt: skip
BRIGHT: list[Colour] = [
    (50, 50, 200), (40, 120, 230), (60, 200, 240), (80, 170, 60), (200, 140, 40), (190, 70, 60), (150, 60, 160),
    (180, 130, 230), (200, 200, 60), (240, 240, 240), (30, 30, 34), (130, 60, 30),
]  # fmt: skip


@cache
def noise_tile() -> np.ndarray:
    """(256, 256) float32 smooth noise, mean 0, about -1..1, that wraps around: folds in cloth, blotches, grass."""
    dice = Dice(20_22)
    total = np.zeros((256, 256), np.int32)
    for size, weight in ((8, 4), (16, 3), (32, 2), (64, 1)):
        small = np.pad(dice.noise((size, size)), 1, mode="wrap")
        step = 256 // size
        large = cv2.resize(small, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR_EXACT)
        total += weight * large[step : step + 256, step : step + 256].astype(np.int32)
    return ((total - 1275) / np.float32(450)).astype(np.float32)


def jittered(colour: Colour, dice: Dice, spread: float = 14.0) -> Colour:
    """A shade near ``colour``."""
    light = dice.bell(0, spread)
    b, g, r = (min(max(part + light + dice.bell(0, spread / 2), 4.0), 250.0) for part in colour)
    return b, g, r


@dataclass(frozen=True)
class Cloth:
    """A material with a pattern; lengths in statures."""

    colour: Colour
    second: Colour
    pattern: str = "plain"
    period: float = 0.06
    folds: float = 0.12  # how strongly folds lighten and darken it
    offset: int = 0  # where in the noise tile it is cut from


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
    """A cloth; ``bright`` and ``plain`` are the chances of a vivid colour and of no pattern whatever."""
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
    """Everything about a figure that is not its shape."""

    skin: Colour
    hair: Colour
    hair_style: str  # "short", "long", "bun", "tail", "bald", "cropped"
    hat: str  # "none", "cap", "beanie"
    hat_cloth: Cloth
    beard: bool
    glasses: str  # "none", "clear", "dark"
    top: Cloth
    sleeve: float  # 0 none .. 1 to the elbow .. 2 to the wrist
    jacket: Cloth | None  # worn open over the top
    tucked: bool  # the top ends at the waist
    bottom: Cloth
    legwear: str  # "trousers", "shorts", "skirt", "dress", "tights"
    leg_cut: float  # of shorts, skirt and dress: 0 hip .. 1 knee .. 2 ankle
    shoes: Cloth
    socks: float  # 0..1 of the shank
    gloves: bool
    loose: float  # added to the radius of clothed limbs, statures


def _open_jacket(dice: Dice, top: Cloth) -> Cloth:
    return replace(random_cloth(dice, 0.35, 1.0), second=top.colour, pattern="open", period=dice.uniform(0.12, 0.5))


def random_look(dice: Dice) -> Look:
    """Somebody dressed for the street, for sport or for winter."""
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


def plain_shader(colour: Colour) -> Shader:
    flat = np.array(colour, np.float32)
    return lambda surface: np.broadcast_to(flat, (len(surface.along), 3))


def skin_shader(colour: Colour, scale: float) -> Shader:
    """Skin, a little uneven; ``scale`` is pixels per stature."""
    return cloth_shader(Cloth(colour, colour, folds=0.04), np.eye(3), 0.1, 0.0, scale)


def cloth_shader(cloth: Cloth, frame: np.ndarray, length: float, begin: float, scale: float) -> Shader:
    """Shader of a part that is ``length`` statures long and starts ``begin`` statures along the garment.

    ``frame`` (3, 3) has the part's left, down and back directions as columns; ``scale`` is pixels per stature.
    """
    left, front = frame[:, 0].astype(np.float32), -frame[:, 2].astype(np.float32)
    colour, second = np.array(cloth.colour, np.float32), np.array(cloth.second, np.float32)
    step = np.float32(420.0 / max(scale, 1.0))  # noise cells a pixel: folds keep their size against the body

    def shade(surface: Surface) -> np.ndarray:
        rows, columns = ((part.astype(np.float32) * step).astype(np.int64) for part in (surface.rows, surface.columns))
        noise = noise_tile()[(rows + 3 * cloth.offset) & 255, (columns + cloth.offset) & 255]
        down = surface.along * np.float32(length) + np.float32(begin)
        across = surface.normal[:, 0] * left[0] + surface.normal[:, 1] * left[1] + surface.normal[:, 2] * left[2]
        facing = surface.normal[:, 0] * front[0] + surface.normal[:, 1] * front[1] + surface.normal[:, 2] * front[2]
        other = _pattern(cloth, down, across, facing, noise)
        base = np.where(other[:, None], second, colour)
        return base * (1 + np.float32(cloth.folds) * noise)[:, None]

    return shade


def _pattern(cloth: Cloth, down: np.ndarray, across: np.ndarray, facing: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Where the second colour shows: (n,) bool from position along, across (-1..1) and towards the front (-1..1)."""
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
