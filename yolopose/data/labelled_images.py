"""Labelled pictures from files as samples: labels are checked and prepared once, pictures read on demand or kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from yolopose.runtime.errors import DataError, SourceError
from yolopose.runtime.images import cv2, read_image, readable
from yolopose.runtime.skeleton import Skeleton

from .coco import CocoImage, CocoKeypoints, CocoPerson
from .parallel import in_threads
from .sample import DamagedImage, PersonLabels, Sample

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # as of Console.progress

_BEYOND = 1.0  # px by which a box may leave the picture before it is worth a word: rounding


class LabelledImages:
    """A Source of every picture of a data set, those without people too.

    max_side: larger pictures are reduced so that their longer side is this many pixels, labels with them.
    problems: a line for each person whose labels do not fit the picture, and what became of them: boxes are clipped,
    people outside or without extent left out, keypoints outside taken as not labelled.

    Arrays of samples are read-only, they are shared between accesses. DataError when there are no images, nobody has
    labelled keypoints or they are unlike the skeleton.
    """

    def __init__(self, dataset: CocoKeypoints, skeleton: Skeleton, max_side: int | None = None) -> None:
        if max_side is not None and max_side < 1:
            raise ValueError(f"max_side must be a number of pixels, got {max_side}")
        if not dataset.images:
            raise DataError(f"{dataset.path}: no images")
        dataset.check_skeleton(skeleton)
        self.dataset, self.skeleton = dataset, skeleton
        self.classes = tuple(category.name for category in dataset.categories)
        self.problems: list[str] = []
        self._max_side = max_side
        self._images = list(dataset.images.values())
        numbers = {category.id: number for number, category in enumerate(dataset.categories)}
        self._labels = [self._prepare(image, dataset.people[image.id], numbers) for image in self._images]
        self._kept: list[np.ndarray | DamagedImage] = []
        if not any(labels.keypoints[~labels.crowd, :, 2].any() for labels in self._labels):
            raise DataError(f"{dataset.path}: nobody in {len(self._images)} images has a labelled keypoint")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Raises DamagedImage for a picture that cannot be read or is of another size than the labels say."""
        image = self._kept[index] if self._kept else self._read(self._images[index])
        if isinstance(image, DamagedImage):
            raise DamagedImage(image.name, image.reason)
        return Sample(image, *self._labels[index], name=_name(self._images[index]))

    def preload(self, progress: Progress | None = None) -> None:
        """Decode all pictures, reduced, into memory. Before workers fork: they share it."""
        if not self._kept:
            images = in_threads(self._read, self._images)
            self._kept = list(progress(images, len(self), "reading images") if progress else images)

    def _size(self, image: CocoImage) -> tuple[int, int]:
        """(width, height) of the samples made of it."""
        width, height = image.size_wh
        scale = min(1.0, (self._max_side or max(width, height)) / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _read(self, image: CocoImage) -> np.ndarray | DamagedImage:
        try:
            pixels = read_image(image.path)
        except SourceError as error:
            return DamagedImage(_name(image), str(error))
        found = pixels.shape[1], pixels.shape[0]
        if found != image.size_wh:
            turned = "; turned by its EXIF data?" if found == image.size_wh[::-1] else ""
            return DamagedImage(_name(image), f"is {_by(found)} px, its labels are for {_by(image.size_wh)}{turned}")
        if self._size(image) != found:
            pixels = np.asarray(cv2.resize(pixels, self._size(image), interpolation=cv2.INTER_AREA), np.uint8)
        return _read_only(pixels)

    def _prepare(self, image: CocoImage, people: tuple[CocoPerson, ...], numbers: dict[int, int]) -> PersonLabels:
        """Labels of those who are in the picture, in pixels of its reduced size."""
        size = np.array(image.size_wh, np.float64)
        scale = np.array(self._size(image)) / size
        kept, boxes, keypoints = [], [], []
        for person in people:
            box = np.array(person.bbox_xyxy).reshape(2, 2)
            clipped = np.clip(box, 0, size)
            if not (np.diff((clipped * scale).astype(np.float32), axis=0) > 0).all():
                self._note(image, person, "skipped", outside=min(person.bbox_xywh[2:]) > 0)
                continue
            if np.abs(clipped - box).max() > _BEYOND:
                self._note(image, person, "clipped", outside=True)
            points = person.keypoints.copy()
            outside = ((points[:, :2] < 0) | (points[:, :2] > size)).any(axis=1)
            lost = np.count_nonzero(outside & (points[:, 2] > 0))
            if lost:
                self._say(image, person, f"{lost} keypoints outside the picture, taken as not labelled")
            points[outside | (points[:, 2] == 0)] = 0
            points[:, :2] *= scale
            kept.append(person)
            boxes.append((clipped * scale).reshape(4))
            keypoints.append(points)
        count = len(kept)
        return PersonLabels(
            _read_only(np.array(boxes, np.float32).reshape(count, 4)),
            _read_only(np.array(keypoints, np.float32).reshape(count, self.skeleton.num_keypoints, 3)),
            _read_only(np.array([person.area * scale.prod() for person in kept], np.float32)),
            _read_only(np.array([numbers[person.category_id] for person in kept], np.int64)),
            _read_only(np.array([person.is_crowd for person in kept], np.bool_)),
        )

    def _note(self, image: CocoImage, person: CocoPerson, done: str, outside: bool) -> None:
        corners = ", ".join(f"{value:g}" for value in person.bbox_xyxy)
        where = "lies outside" if done == "skipped" else "reaches beyond"
        fault = f"{where} the picture of {_by(image.size_wh)}" if outside else "has no width or height"
        self._say(image, person, f"box ({corners}) {fault}; {'person skipped' if done == 'skipped' else done}")

    def _say(self, image: CocoImage, person: CocoPerson, text: str) -> None:
        self.problems.append(f"{_name(image)}: annotation {person.id}: {text}")


def _name(image: CocoImage) -> str:
    return readable(image.path)


def _by(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]} x {size_wh[1]}"


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
