"""Heads: skull, jaw, hair, ears and a face that is on the side it should be on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .dice import Dice
from .painter import Canvas, Shader, Surface
from .wardrobe import Look, cloth_shader, noise_tile

# Positions and sizes in the head's own units: half width to the left, half height up, half depth to the front.
NOSE, EYE, EAR = (0.0, -0.16, 1.10), (0.38, 0.08, 0.86), (1.0, -0.06, -0.06)
FACE_POINTS = {
    "nose": NOSE,
    "left_eye": EYE,
    "right_eye": (-EYE[0], EYE[1], EYE[2]),
    "left_ear": EAR,
    "right_ear": (-EAR[0], EAR[1], EAR[2]),
}
HALF_WIDTH, HALF_HEIGHT, HALF_DEPTH = 0.36, 0.5, 0.42  # fractions of the head's height


@dataclass(frozen=True)
class HeadPlace:
    """A head in the picture: ``centre`` (3,) px and ``axes`` (3, 3) px, rows from it left, up and front."""

    centre: np.ndarray
    axes: np.ndarray
    scale: float  # px a stature

    def at(self, left: float, up: float, front: float) -> np.ndarray:
        return self.centre + left * self.axes[0] + up * self.axes[1] + front * self.axes[2]

    def sized(self, left: float, up: float, front: float) -> np.ndarray:
        return self.axes * np.array([[left], [up], [front]])


def paint_head(canvas: Canvas, place: HeadPlace, look: Look, dice: Dice) -> None:
    """Paint the head, back to front as far as that is known beforehand."""
    skin = np.array(look.skin, np.float32)
    bare = _skin_and_hair(look, skin, dice.integer(0, 255), (0.0, 0.12, 0.0), (1.0, 0.88, 1.0))
    jaw = _skin_and_hair(look, skin, dice.integer(0, 255), (0.0, -0.34, 0.14), (0.80, 0.66, 0.80))
    fine = float(np.abs(place.axes[1]).max() + np.abs(place.axes[0]).max()) > 9  # below that features are only noise
    _paint_loose_hair(canvas, place, look)
    canvas.ellipsoid(place.at(0, -0.34, 0.14), place.sized(0.80, 0.66, 0.80), jaw)
    canvas.ellipsoid(place.at(0, 0.12, 0), place.sized(1.0, 0.88, 1.0), bare)
    if look.hair_style != "long":
        for side in (-1, 1):
            canvas.ellipsoid(place.at(side * 0.97, -0.06, -0.06), place.sized(0.12, 0.20, 0.17), _tinted(skin, 0.9))
    if fine:
        canvas.ellipsoid(place.at(0, -0.08, 0.93), place.sized(0.12, 0.20, 0.13), _tinted(skin, 0.97))
        canvas.ellipsoid(place.at(0, -0.19, 0.97), place.sized(0.17, 0.10, 0.15), _tinted(skin, 0.97))
    _paint_hat(canvas, place, look)


def _tinted(colour: np.ndarray, factor: float) -> Shader:
    flat = (colour * np.float32(factor)).astype(np.float32)
    return lambda surface: np.broadcast_to(flat, (len(surface.along), 3))


def _paint_loose_hair(canvas: Canvas, place: HeadPlace, look: Look) -> None:
    hair = _strands(np.array(look.hair, np.float32))
    if look.hair_style == "long":
        canvas.ellipsoid(place.at(0, -0.25, -0.38), place.sized(1.12, 1.15, 0.74), hair)
        for side in (-1, 1):
            canvas.ellipsoid(place.at(side * 0.86, -0.45, -0.02), place.sized(0.30, 0.95, 0.50), hair)
    elif look.hair_style == "bun" and look.hat == "none":
        canvas.ellipsoid(place.at(0, 0.72, -0.72), place.sized(0.42, 0.34, 0.40), hair)
    elif look.hair_style == "tail":
        canvas.ellipsoid(place.at(0, -0.25, -1.18), place.sized(0.26, 0.80, 0.26), hair)
    if look.hair_style in ("short", "long", "bun", "tail") and look.hat == "none":
        canvas.ellipsoid(place.at(0, 0.26, -0.10), place.sized(1.06, 0.82, 1.0), hair)


def _paint_hat(canvas: Canvas, place: HeadPlace, look: Look) -> None:
    if look.hat == "none":
        return
    # Local axes of the hat's ellipsoids: its columns left, down, back for the pattern.
    frame = np.stack([place.axes[0], -place.axes[1], -place.axes[2]], 1)
    frame = frame / np.sqrt((frame * frame).sum(0, keepdims=True))
    cloth = cloth_shader(look.hat_cloth, frame, 0.1, 0.0, place.scale)
    if look.hat == "beanie":
        canvas.ellipsoid(place.at(0, 0.50, -0.10), place.sized(1.10, 0.66, 1.06), cloth)
        return
    canvas.ellipsoid(place.at(0, 0.46, -0.06), place.sized(1.08, 0.62, 1.06), cloth)
    canvas.ellipsoid(place.at(0, 0.40, 0.95), place.sized(0.80, 0.07, 0.72), cloth)


def _strands(colour: np.ndarray) -> Shader:
    def shade(surface: Surface) -> np.ndarray:
        noise = noise_tile()[
            (surface.local[:, 1] * 30).astype(np.int64) & 255, (surface.local[:, 0] * 90).astype(np.int64) & 255
        ]
        return colour * (1 + np.float32(0.25) * noise)[:, None]

    return shade


def _skin_and_hair(
    look: Look,
    skin: np.ndarray,
    offset: int,
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
) -> Shader:
    """Shader of the skull or the jaw, an ellipsoid at ``centre`` of half axes ``size`` in head units."""
    hair = np.array(look.hair, np.float32)

    def shade(surface: Surface) -> np.ndarray:
        left, up, front = (surface.local[:, i] * np.float32(size[i]) + np.float32(centre[i]) for i in range(3))
        noise = noise_tile()[((up * 40).astype(np.int64) + offset) & 255, ((left * 40).astype(np.int64) + offset) & 255]
        colour = skin * (1 + np.float32(0.05) * noise)[:, None]
        cheeks = (np.abs(left) - np.float32(0.5)) ** 2 + (up + np.float32(0.25)) ** 2 < 0.05
        colour[cheeks & (front > 0)] *= np.array([0.95, 0.96, 1.02], np.float32)
        _draw_face(colour, left, up, front, look)
        if look.beard:
            bearded = (
                (up < -0.30 + 0.12 * noise) & (front > -0.1) & ~((np.abs(left) < 0.26) & (np.abs(up + 0.52) < 0.07))
            )
            colour[bearded] = hair * np.float32(0.9) + colour[bearded] * np.float32(0.1)
        if look.hair_style != "bald":
            line = -0.42 + 0.95 * np.clip((front + np.float32(0.25)) / np.float32(0.7), 0, 1) + 0.10 * noise
            haired = up > line
            colour[haired] = hair * (1 + np.float32(0.3) * noise[haired])[:, None]
        return colour

    return shade


def _draw_face(colour: np.ndarray, left: np.ndarray, up: np.ndarray, front: np.ndarray, look: Look) -> None:
    """Eyes, brows, mouth and glasses, in place on colour (n, 3)."""
    ahead = front > 0.25
    side = np.abs(left) - np.float32(EYE[0])
    high = up - np.float32(EYE[1])
    eye = ahead & ((side / 0.19) ** 2 + (high / 0.095) ** 2 < 1)
    colour[ahead & ((side / 0.27) ** 2 + (high / 0.16) ** 2 < 1)] *= np.float32(0.86)  # the socket
    colour[eye] = (225, 228, 230)
    colour[eye & (side * side + high * high < 0.0085)] = (50, 44, 38)
    colour[ahead & (np.abs(high - 0.21 + 0.12 * side * side) < 0.045) & (np.abs(side) < 0.22)] = (
        np.array(look.hair, np.float32) * 0.8
    )
    lips = ahead & ((left / 0.30) ** 2 + ((up + np.float32(0.52)) / 0.075) ** 2 < 1)
    colour[lips] = colour[lips] * np.array([0.62, 0.58, 0.88], np.float32)
    colour[lips & (np.abs(up + np.float32(0.52)) < 0.016)] *= np.float32(0.6)
    if look.glasses == "none":
        return
    ring = (side / 0.30) ** 2 + (high / 0.20) ** 2
    temple = (np.abs(left) > 0.62) & (np.abs(high) < 0.035) & (front > -0.1)
    bridge = ahead & (np.abs(left) < 0.12) & (np.abs(high - 0.03) < 0.03)
    dark = ring < 1 if look.glasses == "dark" else np.abs(ring - 0.9) < 0.16
    colour[(ahead & dark) | temple | bridge] = (34, 30, 28)
