"""A picture and its people under one affine map, so that pixels are resampled once whatever is combined in the map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from yolopose.runtime.opencv import cv2

from ..sample import Sample

LEAST_SIDE = 2.0  # px of a box that stays
LEAST_SHARE = 0.1  # of a box that must lie in the picture, else the person is left out


def affine(
    scale: float, degrees: float, mirror: bool, source_xy: npt.ArrayLike, target_xy: npt.ArrayLike
) -> np.ndarray:
    """(2, 3) float64: scale, mirror left to right and rotate about ``source_xy``, which lands on ``target_xy``."""
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        turn[:, 0] *= -1
    return np.hstack([turn, (np.asarray(target_xy) - turn @ np.asarray(source_xy))[:, None]])


def warp(sample: Sample, matrix: np.ndarray, size_wh: tuple[int, int], pad: int, swap: np.ndarray) -> Sample:
    """The sample seen through ``matrix`` in a picture of ``size_wh``.

    swap: (K,) where each keypoint's name comes from when the map mirrors, else ignored. What leaves the picture:
    keypoints become unlabelled, boxes are cut, people of whom next to nothing is left go.
    """
    # Pixel i covers i..i+1, OpenCV's pixel i lies at i: shift by half a pixel on both sides.
    shift = matrix[:, :2] @ [0.5, 0.5] + matrix[:, 2] - 0.5
    image = cv2.warpAffine(
        sample.image, np.hstack([matrix[:, :2], shift[:, None]]), size_wh,
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(pad, pad, pad),
    )  # fmt: skip
    keypoints = move_keypoints(sample.keypoints, matrix, swap)
    boxes = move_boxes(sample.boxes, matrix, keypoints)
    areas = sample.areas * abs(float(np.linalg.det(matrix[:, :2])))
    moved = Sample(image, boxes, keypoints, areas.astype(np.float32), sample.labels, sample.crowd, sample.name)
    return cropped(moved, (0, 0, *size_wh))


def move_keypoints(keypoints: np.ndarray, matrix: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """(n, K, 3) -> the same keypoints under the map; a mirror exchanges left and right."""
    moved = keypoints.copy()
    moved[..., :2] = keypoints[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    return moved[:, swap] if np.linalg.det(matrix[:, :2]) < 0 else moved


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy -> boxes of what was in them.

    The corners of a turned box would make it too large: a person fills it like an ellipse rather than to its corners.
    The moved keypoints (n, K, 3) are included all the same.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (matrix[:, :2] ** 2).T)
    low, high = centres - half, centres + half
    labelled = keypoints[..., 2:] > 0
    points = keypoints[..., :2]
    low = np.minimum(low, np.where(labelled, points, np.inf).min(1, initial=np.inf))
    high = np.maximum(high, np.where(labelled, points, -np.inf).max(1, initial=-np.inf))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def cropped(sample: Sample, window: tuple[float, float, float, float]) -> Sample:
    """The same picture, of whose people only what lies in ``window`` (x1, y1, x2, y2 px) is labelled."""
    x1, y1, x2, y2 = window
    low, high = np.array([x1, y1], np.float32), np.array([x2, y2], np.float32)
    boxes = np.concatenate([sample.boxes[:, :2].clip(low, high), sample.boxes[:, 2:].clip(low, high)], axis=1)
    sides, whole = boxes[:, 2:] - boxes[:, :2], sample.boxes[:, 2:] - sample.boxes[:, :2]
    enough = (sides.prod(1) >= LEAST_SHARE * whole.prod(1)) | sample.crowd  # any piece of a crowd is to be left alone
    keep = (sides.min(1, initial=np.inf) >= LEAST_SIDE) & enough
    keypoints = sample.keypoints[keep].copy()
    inside = ((keypoints[..., :2] >= low) & (keypoints[..., :2] < high)).all(-1)
    keypoints[~inside | (keypoints[..., 2] <= 0)] = 0
    return Sample(
        sample.image, boxes[keep], keypoints, sample.areas[keep], sample.labels[keep], sample.crowd[keep], sample.name
    )


def joined(image: np.ndarray, samples: Sequence[Sample]) -> Sample:
    """All people of several samples in one picture."""
    parts = zip(*((s.boxes, s.keypoints, s.areas, s.labels, s.crowd) for s in samples), strict=True)
    boxes, keypoints, areas, labels, crowd = (np.concatenate(part) for part in parts)
    return Sample(image, boxes, keypoints, areas, labels, crowd, "+".join(s.name for s in samples))
