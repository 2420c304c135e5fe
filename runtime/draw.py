"""Draws people on an image: limbs colored by side, keypoints, boxes with scores."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .images import Image, as_bgr_image, cv2
from .skeleton import Skeleton

# Okabe and Ito's palette, which color-blind viewers can tell apart; BGR
LEFT, RIGHT, CENTER = (0, 159, 230), (233, 180, 86), (66, 228, 240)
BOX, EDGE, INK = (167, 121, 204), (40, 40, 40), (255, 255, 255)
_SUBPIXEL_BITS = 4  # OpenCV takes 1/16 pixels as integers
_FAR = 1e6  # px; keeps points far outside the image within OpenCV's 32 bits
_FONT = cv2.FONT_HERSHEY_SIMPLEX


class People(Protocol):
    """What is drawn of a PoseResult."""

    @property
    def boxes(self) -> npt.NDArray[np.float32]: ...
    @property
    def scores(self) -> npt.NDArray[np.float32]: ...
    @property
    def keypoints(self) -> npt.NDArray[np.float32]: ...
    @property
    def keypoint_scores(self) -> npt.NDArray[np.float32]: ...


def draw_people(
    image: npt.NDArray[Any],
    people: People,
    skeleton: Skeleton,
    keypoint_threshold: float = 0.3,
    boxes: bool = True,
) -> Image:
    """A copy of `image` (H, W, 3) BGR with `people` drawn on it; line widths follow the image and each person.

    A keypoint with a score below `keypoint_threshold` is not drawn, nor are its limbs. Boxes and keypoints may lie
    outside the image. Raises ValueError when the people do not have the skeleton's keypoints.
    """
    num_keypoints = people.keypoint_scores.shape[1]
    if num_keypoints != skeleton.num_keypoints:
        raise ValueError(
            f"people have {num_keypoints} keypoints, the skeleton {skeleton.name} has {skeleton.num_keypoints}"
        )
    canvas = as_bgr_image(image).copy()
    order = np.argsort(people.scores, kind="stable")  # the person with the highest score on top
    if boxes:
        _fill_boxes(canvas, people.boxes)
        for row in order:
            _draw_box(canvas, people.boxes[row], f"{people.scores[row]:.2f}")
    for row in order:
        shown = (people.keypoint_scores[row] >= keypoint_threshold) & np.isfinite(people.keypoints[row]).all(axis=1)
        width = _line_width(canvas, people.boxes[row])
        _draw_pose(canvas, people.keypoints[row], shown, skeleton, width)
    return canvas


def side_color(name: str) -> tuple[int, int, int]:
    """BGR of a keypoint, by the side with which its name begins."""
    return LEFT if name.startswith("left") else RIGHT if name.startswith("right") else CENTER


def _line_width(canvas: Image, box: npt.NDArray[np.float32]) -> int:
    """Pixels: 1/40 of the person's size, at least 1 and at most 1/120 of the image's size."""
    image: float = (canvas.shape[0] * canvas.shape[1]) ** 0.5
    sides = np.clip(np.nan_to_num(box[2:] - box[:2]), 1, _FAR)
    person: float = float(sides[0] * sides[1]) ** 0.5
    return max(1, round(min(person / 40, image / 120)))


def _point(xy: npt.NDArray[np.float32]) -> tuple[int, int]:
    x, y = (np.clip(xy, -_FAR, _FAR) * (1 << _SUBPIXEL_BITS)).round().astype(int).tolist()
    return x, y


def _draw_pose(
    canvas: Image, points: npt.NDArray[np.float32], shown: npt.NDArray[np.bool_], skeleton: Skeleton, width: int
) -> None:
    limbs = [(a, b) for a, b in skeleton.limbs if shown[a] and shown[b]]
    for edge in (True, False):  # the dark edges of all limbs first, so that limbs which cross stay visible
        for a, b in limbs:
            ends = {side_color(skeleton.names[a]), side_color(skeleton.names[b])}
            color = EDGE if edge else ends.pop() if len(ends) == 1 else CENTER
            thickness = width + max(2, width // 2) if edge else width
            cv2.line(canvas, _point(points[a]), _point(points[b]), color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    for index in np.flatnonzero(shown):
        center = _point(points[index])
        for radius, color in ((width * 1.1 + 1, EDGE), (width * 1.1, side_color(skeleton.names[index]))):
            size = round(radius * (1 << _SUBPIXEL_BITS))
            cv2.circle(canvas, center, size, color, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)


def _fill_boxes(canvas: Image, boxes: npt.NDArray[np.float32], opacity: float = 0.12) -> None:
    """Tint the inside of the boxes."""
    height, width = canvas.shape[:2]
    for box in np.nan_to_num(boxes, posinf=_FAR, neginf=-_FAR):
        left, top, right, bottom = np.clip(box.round(), 0, [width, height, width, height]).astype(int).tolist()
        inside = canvas[top:bottom, left:right]
        if inside.size:
            tint = np.full_like(inside, BOX)
            canvas[top:bottom, left:right] = cv2.addWeighted(inside, 1 - opacity, tint, opacity, 0)


def _draw_box(canvas: Image, box: npt.NDArray[np.float32], text: str) -> None:
    box = np.nan_to_num(box, posinf=_FAR, neginf=-_FAR)
    width = max(1, _line_width(canvas, box) // 2)
    cv2.rectangle(canvas, _point(box[:2]), _point(box[2:]), BOX, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    scale = max(0.35, (canvas.shape[0] * canvas.shape[1]) ** 0.5 / 1600)
    thickness = max(1, round(scale * 1.5))
    (text_width, text_height), base = cv2.getTextSize(text, _FONT, scale, thickness)
    # the text goes above the box, but inside the image
    left = int(np.clip(box[0], 0, max(0, canvas.shape[1] - text_width - 4)))
    bottom = int(np.clip(box[1], text_height + base + 2, canvas.shape[0]))
    cv2.rectangle(canvas, (left, bottom - text_height - base - 2), (left + text_width + 4, bottom), BOX, cv2.FILLED)
    cv2.putText(canvas, text, (left + 2, bottom - base), _FONT, scale, INK, thickness, cv2.LINE_AA)
