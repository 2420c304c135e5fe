"""A picture and its people under one affine map, so that pixels are resampled once whatever is combined in the map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yolopose.runtime.opencv import cv2

from ..sample import PersonLabels, Sample, joined

LEAST_SIDE = 2.0  # px of a box that stays
LEAST_SHARE = 0.1  # of a box that must lie in the picture, else the person is left out


Point = tuple[float, float]  # x, y px


def affine(scale: float, degrees: float, mirror: bool, source: Point, target: Point) -> np.ndarray:
    """(2, 3) float64: scale, mirror left to right and rotate about ``source``, which lands on ``target``."""
    angle = math.radians(degrees)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    a, b, c, d = (-cos, -sin, -sin, cos) if mirror else (cos, -sin, sin, cos)
    x, y = source
    return np.array([[a, b, target[0] - a * x - b * y], [c, d, target[1] - c * x - d * y]])


class View(NamedTuple):
    """A sample as it is seen in some window of a new picture."""

    sample: Sample
    matrix: np.ndarray  # (2, 3) pixels of the sample -> of the new picture
    window: tuple[int, int, int, int]  # x1, y1, x2, y2 px of the new picture; what lies outside is not seen


def paint(views: Sequence[View], image: np.ndarray, pad: int) -> None:
    """Pixels of the views into their windows of ``image`` (H, W, 3) uint8. Other threads can run meanwhile."""
    for sample, matrix, (x1, y1, x2, y2) in views:
        # Pixel i covers i..i+1, OpenCV's pixel i lies at i: shift by half a pixel on both sides.
        pixels = matrix.copy()
        pixels[:, 2] += matrix[:, :2].sum(1) / 2 - (x1 + 0.5, y1 + 0.5)
        cv2.warpAffine(
            sample.image, pixels, (x2 - x1, y2 - y1), dst=image[y1:y2, x1:x2],
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(pad, pad, pad),
        )  # fmt: skip


def seen(views: Sequence[View], swap: np.ndarray) -> tuple[PersonLabels, np.ndarray]:
    """People of the views, of one picture or of many, as they are seen there; and of which view each is, rising.

    swap: (K,) where each keypoint's name comes from when a map mirrors, else ignored. What leaves a window: keypoints
    become unlabelled, boxes are cut, people of whom next to nothing is left go.
    """
    # All at once: what numpy takes for a call is more than what it takes for a few people.
    people = joined([view.sample.people for view in views])
    numbers = np.repeat(np.arange(len(views)), [len(view.sample) for view in views])
    matrices = np.stack([view.matrix for view in views])[numbers]
    keypoints = move_keypoints(people.keypoints, matrices, swap)
    boxes = move_boxes(people.boxes, matrices, keypoints)
    areas = (people.areas * abs(_determinant(matrices))).astype(np.float32)
    moved = PersonLabels(boxes, keypoints, areas, people.labels, people.crowd)
    cut, stay = cropped(moved, np.array([view.window for view in views])[numbers])
    return cut, numbers[stay]


def move_keypoints(keypoints: np.ndarray, matrix: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """(n, K, 3) under one map (2, 3), or one for each (n, 2, 3); a mirror exchanges left and right."""
    moved = keypoints.copy()
    moved[..., :2] = keypoints[..., :2] @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return np.where((_determinant(matrix) < 0)[..., None, None], moved[:, swap], moved)


def _determinant(matrix: np.ndarray) -> np.ndarray:
    """Of the linear part of maps (..., 2, 3): below 0 for mirrors, its size is how much areas grow."""
    return np.asarray(matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0])


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy -> boxes of what was in them; matrix as for keypoints.

    The corners of a turned box would make it too large: a person fills it like an ellipse rather than to its corners.
    The moved keypoints (n, K, 3) are included all the same.
    """
    corners = boxes.astype(np.float64).reshape(-1, 2, 2)
    middle, half = corners.mean(1, keepdims=True), (corners[:, 1:] - corners[:, :1]) / 2
    linear = np.swapaxes(matrix[..., :2], -1, -2)
    centres = (middle @ linear)[:, 0] + matrix[..., 2]
    reach = np.sqrt(half**2 @ linear**2)[:, 0]
    low, high = centres - reach, centres + reach
    labelled = keypoints[..., 2:] > 0
    points = keypoints[..., :2]
    low = np.minimum(low, np.where(labelled, points, np.inf).min(1, initial=np.inf))
    high = np.maximum(high, np.where(labelled, points, -np.inf).max(1, initial=-np.inf))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def cropped(people: PersonLabels, window: npt.ArrayLike) -> tuple[PersonLabels, np.ndarray]:
    """What of them lies in ``window``, and (n,) who is still there at all.

    window: x1, y1, x2, y2 px, for all (4,) or for each person (n, 4).
    """
    low, high = np.split(np.asarray(window, np.float32), 2, axis=-1)
    boxes = np.concatenate([people.boxes[:, :2].clip(low, high), people.boxes[:, 2:].clip(low, high)], axis=1)
    sides, whole = boxes[:, 2:] - boxes[:, :2], people.boxes[:, 2:] - people.boxes[:, :2]
    enough = (sides.prod(1) >= LEAST_SHARE * whole.prod(1)) | people.crowd  # any piece of a crowd is to be left alone
    keep = (sides.min(1, initial=np.inf) >= LEAST_SIDE) & enough
    points = people.keypoints[..., :2]
    inside = ((points >= low[..., None, :]) & (points < high[..., None, :])).all(-1) & (people.keypoints[..., 2] > 0)
    keypoints = np.where(inside[..., None], people.keypoints, np.float32(0))
    cut = PersonLabels(boxes, keypoints, people.areas, people.labels, people.crowd)
    return PersonLabels(*(part[keep] for part in cut)), keep
