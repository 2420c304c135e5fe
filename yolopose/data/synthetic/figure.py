"""One painted figure: its posture seen by a camera, body and head painted, and the positions of its keypoints.

The head has a skull, a jaw, hair, ears, a face on its front, and a hat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import LEFT, UP, Build, Posture, View
from .clothes import Look, cloth_shader, noise_tile, paint_body
from .dice import Dice
from .painter import Canvas, Light, Shader, Surface

# All keypoints of a figure. The value is the depth in statures below the visible surface down to which a keypoint
# counts as visible: about the thickness of the body there.
POINT_DEPTHS = {
    "nose": 0.035, "left_eye": 0.03, "right_eye": 0.03, "left_ear": 0.035, "right_ear": 0.035,
    "left_shoulder": 0.10, "right_shoulder": 0.10, "left_elbow": 0.065, "right_elbow": 0.065,
    "left_wrist": 0.055, "right_wrist": 0.055, "left_hip": 0.13, "right_hip": 0.13, "left_knee": 0.085,
    "right_knee": 0.085, "left_ankle": 0.065, "right_ankle": 0.065, "neck": 0.10, "head_top": 0.11,
}  # fmt: skip

# Positions in units of the head: half width to the left, half height up, half depth to the front.
NOSE, EYE, EAR = (0.0, -0.16, 1.10), (0.38, 0.08, 0.86), (1.0, -0.06, -0.06)
FACE_POINTS = {
    "nose": NOSE,
    "left_eye": EYE,
    "right_eye": (-EYE[0], EYE[1], EYE[2]),
    "left_ear": EAR,
    "right_ear": (-EAR[0], EAR[1], EAR[2]),
}
HALF_WIDTH, HALF_HEIGHT, HALF_DEPTH = 0.36, 0.5, 0.42  # fractions of the height of the head


@dataclass(frozen=True)
class Figure:
    """A figure ready to be painted."""

    posture: Posture
    build: Build
    look: Look
    view: View

    def head_place(self) -> HeadPlace:
        center = self.posture.points["head"]
        frame = self.view.directions(self.posture.frames["head"])
        size = self.build.head * self.view.factor(center)
        rows = np.stack([frame @ LEFT * HALF_WIDTH, frame @ UP * HALF_HEIGHT, -frame[:, 2] * HALF_DEPTH]) * size
        return HeadPlace(self.view.project(center), rows, self.view.scale)

    def keypoints(self) -> dict[str, np.ndarray]:
        """Every keypoint of POINT_DEPTHS: (3,) px, z is depth."""
        place = self.head_place()
        points = {name: place.at(*at) for name, at in FACE_POINTS.items()}
        points.update(
            (name, self.view.project(self.posture.points[name])) for name in POINT_DEPTHS if name not in points
        )
        points["head_top"] = place.at(0, 1, 0)
        return {name: points[name] for name in POINT_DEPTHS}

    def extent(self) -> tuple[float, float, float, float]:
        """xyxy px of a box around the whole figure, clothes included."""
        points = np.stack([self.view.project(point)[:2] for point in self.posture.points.values()])
        reach = 0.09 * self.view.scale + 2
        low, high = points.min(0) - reach, points.max(0) + reach
        return float(low[0]), float(low[1]), float(high[0]), float(high[1])

    def ground(self) -> float:
        """y px of the lowest sole, hand or knee."""
        names = [
            name
            for name in self.posture.points
            if name.split("_")[-1] in ("toe", "heel", "hand", "knee", "pelvis", "hip")
        ]
        flesh = {"toe": 0.016, "heel": 0.018, "hand": 0.015, "knee": 0.03, "pelvis": 0.07, "hip": 0.06, "skull": 0.06}
        lowest = max(
            self.view.project(self.posture.points[name])[1] + flesh[name.split("_")[-1]] * self.view.scale
            for name in names
        )
        return float(lowest)


@dataclass(frozen=True)
class PaintedFigure:
    """A figure's part of the image: its window, pixels and keypoints."""

    left: int
    top: int
    color: np.ndarray  # (h, w, 3) float32, premultiplied
    alpha: np.ndarray  # (h, w) float32
    keypoints: dict[str, tuple[float, float, bool]]  # x, y px (pixel i covers i..i+1), hidden by the figure itself


def paint_figure(figure: Figure, size_wh: tuple[int, int], light: Light, dice: Dice) -> PaintedFigure | None:
    """Paint the part of the figure inside the image; None if there is none. Small figures are supersampled."""
    x0, y0, x1, y1 = figure.extent()
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(size_wh[0], int(np.ceil(x1))), min(size_wh[1], int(np.ceil(y1)))
    if left >= right or top >= bottom:
        return None
    fine = 4 if figure.view.scale < 28 else 3 if figure.view.scale < 50 else 2 if figure.view.scale < 95 else 1
    view = figure.view
    # The center of a fine pixel is (i + 0.5) / fine - 0.5 in coordinates of the image with pixel centers at integers.
    shift = (fine - 1) / 2
    offset = ((view.offset[0] - left) * fine + shift, (view.offset[1] - top) * fine + shift)
    close = Figure(
        figure.posture, figure.build, figure.look, View(view.scale * fine, view.pitch, view.distance, offset)
    )
    canvas = Canvas(left, top, right - left, bottom - top, fine, light, 0.016 * view.scale * fine)
    paint_body(canvas, close.posture, close.build, close.look, close.view)
    paint_head(canvas, close.head_place(), close.look, dice)
    points = {}
    for name, (x, y, depth) in close.keypoints().items():
        limit = depth - POINT_DEPTHS[name] * close.view.scale
        place = ((x - shift) / fine + left + 0.5, (y - shift) / fine + top + 0.5)
        points[name] = (*place, _hidden(canvas.depth, x, y, limit))
    color, alpha, _ = canvas.reduced()
    return PaintedFigure(left, top, color, alpha, points)


def _hidden(depth: np.ndarray, x: float, y: float, limit: float) -> bool:
    """Whether a surface nearer than ``limit`` is painted at x, y."""
    column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    if not (0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]):
        return False
    return bool(depth[row, column] < limit)


# The head


@dataclass(frozen=True)
class HeadPlace:
    """A head in the image: ``center`` (3,) px and ``axes`` (3, 3) px, whose rows point left, up and to the front."""

    center: np.ndarray
    axes: np.ndarray
    scale: float  # px per stature

    def at(self, left: float, up: float, front: float) -> np.ndarray:
        return self.center + left * self.axes[0] + up * self.axes[1] + front * self.axes[2]

    def sized(self, left: float, up: float, front: float) -> np.ndarray:
        return self.axes * np.array([[left], [up], [front]])


def paint_head(canvas: Canvas, place: HeadPlace, look: Look, dice: Dice) -> None:
    """Paint the head, its parts roughly from back to front."""
    skin = np.array(look.skin, np.float32)
    bare = _skin_and_hair(look, skin, dice.integer(0, 255), (0.0, 0.12, 0.0), (1.0, 0.88, 1.0))
    jaw = _skin_and_hair(look, skin, dice.integer(0, 255), (0.0, -0.34, 0.14), (0.80, 0.66, 0.80))
    # On a smaller head, features would be only noise.
    fine = float(np.abs(place.axes[1]).max() + np.abs(place.axes[0]).max()) > 9
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


def _tinted(color: np.ndarray, factor: float) -> Shader:
    flat = (color * np.float32(factor)).astype(np.float32)
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
    # Axes of the ellipsoids of the hat: columns left, down, back, for the pattern.
    frame = np.stack([place.axes[0], -place.axes[1], -place.axes[2]], 1)
    frame = frame / np.sqrt((frame * frame).sum(0, keepdims=True))
    cloth = cloth_shader(look.hat_cloth, frame, 0.1, 0.0, place.scale)
    if look.hat == "beanie":
        canvas.ellipsoid(place.at(0, 0.50, -0.10), place.sized(1.10, 0.66, 1.06), cloth)
        return
    canvas.ellipsoid(place.at(0, 0.46, -0.06), place.sized(1.08, 0.62, 1.06), cloth)
    canvas.ellipsoid(place.at(0, 0.40, 0.95), place.sized(0.80, 0.07, 0.72), cloth)


def _strands(color: np.ndarray) -> Shader:
    def shade(surface: Surface) -> np.ndarray:
        noise = noise_tile()[
            (surface.local[:, 1] * 30).astype(np.int64) & 255, (surface.local[:, 0] * 90).astype(np.int64) & 255
        ]
        return color * (1 + np.float32(0.25) * noise)[:, None]

    return shade


def _skin_and_hair(
    look: Look,
    skin: np.ndarray,
    offset: int,
    center: tuple[float, float, float],
    size: tuple[float, float, float],
) -> Shader:
    """Shader of the skull or the jaw, an ellipsoid at ``center`` of half axes ``size`` in head units."""
    hair = np.array(look.hair, np.float32)

    def shade(surface: Surface) -> np.ndarray:
        left, up, front = (surface.local[:, i] * np.float32(size[i]) + np.float32(center[i]) for i in range(3))
        noise = noise_tile()[((up * 40).astype(np.int64) + offset) & 255, ((left * 40).astype(np.int64) + offset) & 255]
        color = skin * (1 + np.float32(0.05) * noise)[:, None]
        cheeks = (np.abs(left) - np.float32(0.5)) ** 2 + (up + np.float32(0.25)) ** 2 < 0.05
        color[cheeks & (front > 0)] *= np.array([0.95, 0.96, 1.02], np.float32)
        _draw_face(color, left, up, front, look)
        if look.beard:
            bearded = (
                (up < -0.30 + 0.12 * noise) & (front > -0.1) & ~((np.abs(left) < 0.26) & (np.abs(up + 0.52) < 0.07))
            )
            color[bearded] = hair * np.float32(0.9) + color[bearded] * np.float32(0.1)
        if look.hair_style != "bald":
            line = -0.42 + 0.95 * np.clip((front + np.float32(0.25)) / np.float32(0.7), 0, 1) + 0.10 * noise
            haired = up > line
            color[haired] = hair * (1 + np.float32(0.3) * noise[haired])[:, None]
        return color

    return shade


def _draw_face(color: np.ndarray, left: np.ndarray, up: np.ndarray, front: np.ndarray, look: Look) -> None:
    """Draw eyes, brows, mouth and glasses in place on color (n, 3)."""
    ahead = front > 0.25
    side = np.abs(left) - np.float32(EYE[0])
    high = up - np.float32(EYE[1])
    eye = ahead & ((side / 0.19) ** 2 + (high / 0.095) ** 2 < 1)
    color[ahead & ((side / 0.27) ** 2 + (high / 0.16) ** 2 < 1)] *= np.float32(0.86)  # the socket
    color[eye] = (225, 228, 230)
    color[eye & (side * side + high * high < 0.0085)] = (50, 44, 38)
    color[ahead & (np.abs(high - 0.21 + 0.12 * side * side) < 0.045) & (np.abs(side) < 0.22)] = (
        np.array(look.hair, np.float32) * 0.8
    )
    lips = ahead & ((left / 0.30) ** 2 + ((up + np.float32(0.52)) / 0.075) ** 2 < 1)
    color[lips] = color[lips] * np.array([0.62, 0.58, 0.88], np.float32)
    color[lips & (np.abs(up + np.float32(0.52)) < 0.016)] *= np.float32(0.6)
    if look.glasses == "none":
        return
    ring = (side / 0.30) ** 2 + (high / 0.20) ** 2
    temple = (np.abs(left) > 0.62) & (np.abs(high) < 0.035) & (front > -0.1)
    bridge = ahead & (np.abs(left) < 0.12) & (np.abs(high - 0.03) < 0.03)
    dark = ring < 1 if look.glasses == "dark" else np.abs(ring - 0.9) < 0.16
    color[(ahead & dark) | temple | bridge] = (34, 30, 28)
