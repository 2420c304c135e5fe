"""One figure: its posture seen by a camera, painted part by part, and where its keypoints came to lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import LEFT, UP, Build, Posture
from .dice import Dice
from .head import FACE_POINTS, HALF_DEPTH, HALF_HEIGHT, HALF_WIDTH, HeadPlace, paint_head
from .outfit import paint_body
from .painter import Canvas, Light
from .view import View
from .wardrobe import Look

# Every point a figure knows, with how deep (statures) it may lie under the surface that is seen there and still count
# as visible: about the thickness of the body at that place.
POINT_DEPTHS = {
    "nose": 0.035, "left_eye": 0.03, "right_eye": 0.03, "left_ear": 0.035, "right_ear": 0.035,
    "left_shoulder": 0.10, "right_shoulder": 0.10, "left_elbow": 0.065, "right_elbow": 0.065,
    "left_wrist": 0.055, "right_wrist": 0.055, "left_hip": 0.13, "right_hip": 0.13, "left_knee": 0.085,
    "right_knee": 0.085, "left_ankle": 0.065, "right_ankle": 0.065, "neck": 0.10, "head_top": 0.11,
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A figure ready to be painted."""

    posture: Posture
    build: Build
    look: Look
    view: View

    def head_place(self) -> HeadPlace:
        centre = self.posture.points["head"]
        frame = self.view.directions(self.posture.frames["head"])
        size = self.build.head * self.view.factor(centre)
        rows = np.stack([frame @ LEFT * HALF_WIDTH, frame @ UP * HALF_HEIGHT, -frame[:, 2] * HALF_DEPTH]) * size
        return HeadPlace(self.view.project(centre), rows, self.view.scale)

    def keypoints(self) -> dict[str, np.ndarray]:
        """Every point of POINT_DEPTHS: (3,) px with depth."""
        place = self.head_place()
        points = {name: place.at(*at) for name, at in FACE_POINTS.items()}
        points.update(
            (name, self.view.project(self.posture.points[name])) for name in POINT_DEPTHS if name not in points
        )
        points["head_top"] = place.at(0, 1, 0)
        return {name: points[name] for name in POINT_DEPTHS}

    def extent(self) -> tuple[float, float, float, float]:
        """xyxy px of a box that holds the whole figure, flesh and clothes included."""
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
    """A figure's part of the picture: window (left, top), arrays over that window, and its points."""

    left: int
    top: int
    colour: np.ndarray  # (h, w, 3) float32, premultiplied
    alpha: np.ndarray  # (h, w) float32
    keypoints: dict[
        str, tuple[float, float, bool]
    ]  # x, y px (pixel i covers i..i+1), hidden by the figure itself or not


def paint_figure(figure: Figure, size_wh: tuple[int, int], light: Light, dice: Dice) -> PaintedFigure | None:
    """Paint what of the figure lies inside the picture; None when nothing does. Small figures are painted finer."""
    x0, y0, x1, y1 = figure.extent()
    left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
    right, bottom = min(size_wh[0], int(np.ceil(x1))), min(size_wh[1], int(np.ceil(y1)))
    if left >= right or top >= bottom:
        return None
    fine = 4 if figure.view.scale < 28 else 3 if figure.view.scale < 50 else 2 if figure.view.scale < 95 else 1
    view = figure.view
    # A fine pixel's centre (i + 0.5) / fine - 0.5 in the picture's coordinates, where pixel centres are whole numbers.
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
    colour, alpha, _ = canvas.reduced()
    return PaintedFigure(left, top, colour, alpha, points)


def _hidden(depth: np.ndarray, x: float, y: float, limit: float) -> bool:
    """Whether something nearer than ``limit`` is painted at x, y."""
    column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    if not (0 <= row < depth.shape[0] and 0 <= column < depth.shape[1]):
        return False
    return bool(depth[row, column] < limit)
