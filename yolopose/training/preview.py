"""Image grids of a run folder: augmented samples, and labels next to predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime.draw import BOX, EDGE, INK, draw_people
from yolopose.runtime.images import Image, cv2, evenly, read_image
from yolopose.runtime.letterbox import Placement, letterbox
from yolopose.runtime.output import atomic_write
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from ..data.coco import CocoKeypoints
from ..data.sample import Sample

_FAR = 1e6  # px, within the range of OpenCV's integers
_GAP = 2  # px between cells


def grid(samples: Sequence[Sample], skeleton: Skeleton, path: Path, columns: int = 4, cell: int = 320) -> Path:
    """Draw samples with their labels into one image (.jpg or .png), in cells of ``cell`` x ``cell`` px.

    A ring marks a keypoint that is labeled but hidden, a dark box a crowd region. Raises ValueError without samples or
    for another suffix, OutputError.
    """
    return _tile([_draw_labels(sample, skeleton, cell) for sample in samples], path, columns)


def predictions_grid(
    dataset: CocoKeypoints,
    results: Mapping[int, PoseResult],
    skeleton: Skeleton,
    path: Path,
    *,
    limit: int = 12,
    score_threshold: float = 0.25,
    cell: int = 256,
) -> Path:
    """Draw ``limit`` images of ``results`` (by image id, evenly chosen): labels and, to their right, predictions.

    People below ``score_threshold`` are left out, except the best one, which shows progress early in training.
    """
    ids = list(results)
    cells = []
    for image_id in (ids[index] for index in evenly(len(ids), limit)):
        image = read_image(dataset.images[image_id].path)
        cells.append(_draw_labels(_labels_of(image, dataset, image_id), skeleton, cell))
        small, placement = letterbox(image, (cell, cell))
        shown = results[image_id].scores >= score_threshold
        shown[:1] = True
        cells.append(_named(draw_people(small, _placed(results[image_id][shown], placement), skeleton), "predicted"))
    return _tile(cells, path, columns=4)


def _labels_of(image: Image, dataset: CocoKeypoints, image_id: int) -> Sample:
    people = dataset.people[image_id]
    return Sample(
        image=image,
        boxes=np.array([person.bbox_xyxy for person in people], np.float32).reshape(-1, 4),
        keypoints=np.array([person.keypoints for person in people], np.float32).reshape(-1, dataset.num_keypoints, 3),
        areas=np.array([person.area for person in people], np.float32),
        labels=np.zeros(len(people), np.int64),
        crowd=np.array([person.is_crowd for person in people], bool),
        name=dataset.images[image_id].path.name,
    )


def _draw_labels(sample: Sample, skeleton: Skeleton, cell: int) -> Image:
    """A cell with the labels of a sample; drawn after resizing, so that lines are equally thick in all cells."""
    image, placement = letterbox(sample.image, (cell, cell))
    visible = sample.keypoints[..., 2]
    ones, zeros = np.ones(len(sample), np.float32), np.zeros(len(sample), np.int32)
    seen = (visible > 0).astype(np.float32)
    people = _placed(PoseResult(sample.boxes, ones, zeros, sample.keypoints[..., :2], seen), placement)
    canvas = draw_people(image, people, skeleton, boxes=False)  # labels have no score to write next to a box
    for box, crowd in zip(people.boxes, sample.crowd, strict=True):
        left, top, right, bottom = _pixels(box)
        cv2.rectangle(canvas, (left, top), (right, bottom), EDGE if crowd else BOX, 1, cv2.LINE_AA)
    for x, y in _pixels(people.keypoints[visible == 1]):
        cv2.circle(canvas, (x, y), 4, INK, 1, cv2.LINE_AA)
    return _named(canvas, sample.name)


def _placed(people: PoseResult, placement: Placement) -> PoseResult:
    """People in pixels of a cell."""
    boxes = placement.to_letterboxed(people.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
    return PoseResult(
        boxes, people.scores, people.labels, placement.to_letterboxed(people.keypoints), people.keypoint_scores
    )


def _pixels(coordinates: np.ndarray) -> Any:
    """Coordinates as nested lists of integers, bounded for OpenCV."""
    bounded = np.clip(np.nan_to_num(coordinates, nan=_FAR, posinf=_FAR, neginf=-_FAR), -_FAR, _FAR)
    return bounded.round().astype(int).tolist()


def _named(cell: Image, name: str) -> Image:
    """Write the end of ``name`` in the lower left corner; OpenCV's font has ASCII only."""
    text = name.encode("ascii", "replace").decode()[-(cell.shape[1] // 8) :]
    at = (4, cell.shape[0] - 6)
    for color, thickness in ((EDGE, 3), (INK, 1)):
        cv2.putText(cell, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, thickness, cv2.LINE_AA)
    return cell


def _tile(cells: Sequence[Image], path: Path, columns: int) -> Path:
    """Write cells row by row into one image file; the last row is filled up with dark cells."""
    if not cells or columns < 1:
        raise ValueError(f"a grid needs images and columns, got {len(cells)} images in {columns} columns")
    columns = min(columns, len(cells))
    size = cells[0].shape[0] + _GAP
    rows = -(-len(cells) // columns)
    sheet = np.full((rows * size - _GAP, columns * size - _GAP, 3), EDGE, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * size, number % columns * size
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise ValueError(f"a grid is a .jpg or .png file, got {path}")
    done, data = cv2.imencode(path.suffix, sheet)
    assert done, "OpenCV encodes any uint8 image"
    return atomic_write(path, data.tobytes())
