"""Opens the data that a command line names: label files, synthetic scenes, and mixtures of both.

One meaning of ``--data`` and ``--images`` in training, export and benchmark (`open_labels`):

    labels.json              COCO keypoint labels; images from ``--images``, else from the folder images/ next to the
                             file, else from the folder of the file
    labels.json:FOLDER       COCO keypoint labels with the folder of their images
    data.yaml                YOLO-pose format, which names its images

Training also accepts ``synthetic:COUNT[:SEED]`` and several specs at once (`open_sources`). Export and benchmark also
accept ``--images`` alone, images without labels (`image_set`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from yolopose.runtime.console import usage_errors
from yolopose.runtime.errors import DataError, SourceError, UsageError
from yolopose.runtime.images import cv2, read_image, readable
from yolopose.runtime.skeleton import COCO_17, Skeleton

from .coco import CocoImage, CocoKeypoints, CocoPerson, label_skeleton, read_coco
from .parallel import in_processes, in_threads
from .sample import DamagedImage, PersonLabels, Sample, Source
from .synthetic import SyntheticScenes
from .yolo_txt import read_yolo, read_yolo_folder

_SYNTHETIC = "synthetic:"
_TOLERANCE = 1.0  # px by which a box may reach beyond the image without a message: rounding

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # as Console.progress


class Labels(NamedTuple):
    """Label files of either format, for training, evaluation and benchmark."""

    dataset: CocoKeypoints
    skeleton: Skeleton


def is_yaml(spec: str) -> bool:
    """Whether a spec names the YAML file of the YOLO-pose format."""
    return spec.lower().endswith((".yaml", ".yml"))


def open_labels(spec: str, images: Path | None = None, skeleton: Skeleton | None = None, split: str = "val") -> Labels:
    """Read ``labels.json``, ``labels.json:FOLDER`` (COCO) or ``data.yaml`` (YOLO-pose).

    images: folder of a COCO file's images if the spec names none; without either, the folder images/ next to the file,
    else the file's own folder. Unused for a YAML file.
    skeleton: what the labels must have; None: the skeleton that the file describes, see `label_skeleton`.
    split: which images of a YAML file.
    Raises DataError for damaged labels, labels unlike the skeleton and missing images.
    """
    if is_yaml(spec):
        folder = read_yolo_folder(spec, skeleton)
        return Labels(read_yolo(spec, split, folder.skeleton), folder.skeleton)
    name, json, images_in_spec = spec.partition(".json:")
    path = Path(f"{name}.json" if json else spec)
    if json:
        images = Path(images_in_spec)
    elif images is None:
        images = path.parent / "images"
        if not images.is_dir():
            images = path.parent
    dataset = read_coco(path, images, skeleton)
    return Labels(dataset, skeleton or label_skeleton(path, dataset.num_keypoints, dataset.keypoint_names))


class Opened(NamedTuple):
    """The data that a training command names."""

    source: Mixed
    problems: list[str]  # a line for each person whose labels do not fit the image


def open_sources(
    specs: Sequence[str],
    images: Path | None = None,
    skeleton: Skeleton | None = None,
    size_wh: tuple[int, int] = (640, 480),
    max_side: int | None = None,
    split: str = "train",
) -> Opened:
    """Open several specs, one after another: those of `open_labels` and ``synthetic:COUNT[:SEED]``.

    images, skeleton, split: as for `open_labels`.
    size_wh: of synthetic scenes, whose skeleton is ``skeleton``, else that of the first labels, else COCO's.
    max_side: as for `LabeledImages`.
    Raises UsageError for no specs or a wrong synthetic spec, DataError as `open_labels`, `LabeledImages` and `Mixed`.
    """
    if not specs:
        raise UsageError("no data: give labels (.json or .yaml) or synthetic:COUNT")
    scenes = {spec: _count_and_seed(spec) for spec in specs if spec.startswith(_SYNTHETIC)}
    labeled: dict[str, LabeledImages] = {}
    for spec in specs:
        if spec not in scenes and spec not in labeled:
            labels = open_labels(spec, images, skeleton, split)
            labeled[spec] = LabeledImages(labels.dataset, labels.skeleton, max_side)
    scene_skeleton = skeleton or next((source.skeleton for source in labeled.values()), COCO_17)
    sources: list[PreloadableSource] = []
    for spec in specs:
        if spec in scenes:
            count, seed = scenes[spec]
            with usage_errors():  # scenes may be too small, or their figures may lack keypoints of the skeleton
                sources.append(SyntheticSource(SyntheticScenes(count, size_wh, seed, skeleton=scene_skeleton)))
        else:
            sources.append(labeled[spec])
    return Opened(Mixed(sources, specs), [problem for source in labeled.values() for problem in source.problems])


def _count_and_seed(spec: str) -> tuple[int, int]:
    numbers = spec[len(_SYNTHETIC) :].split(":")
    digits = all(number.isascii() and number.isdecimal() for number in numbers)
    if len(numbers) > 2 or not digits or not int(numbers[0]):
        raise UsageError(f"expected synthetic:COUNT or synthetic:COUNT:SEED, got {spec!r}")
    return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0


class PreloadableSource(Source, Protocol):
    """A Source that can hold its images in memory."""

    def preload(self, progress: Progress | None = None) -> None: ...


class Mixed:
    """Several sources, one after another. Raises DataError unless their keypoints and classes are the same."""

    def __init__(self, sources: Sequence[PreloadableSource], names: Sequence[str]) -> None:
        if not sources or len(sources) != len(names):
            raise ValueError(f"a mixture needs sources and a name for each, got {len(sources)} and {len(names)}")
        first = sources[0]
        for source, name in zip(sources, names, strict=True):
            if source.skeleton.names != first.skeleton.names:
                raise DataError(
                    f"{name} has the keypoints of skeleton {source.skeleton.name!r}, {names[0]} those of "
                    f"{first.skeleton.name!r}; train on data of one skeleton"
                )
            if source.classes != first.classes:
                raise DataError(f"{name} has classes {list(source.classes)}, {names[0]} has {list(first.classes)}")
        self.skeleton, self.classes = first.skeleton, first.classes
        self.sources, self.names = tuple(sources), tuple(names)
        self._ends = list(accumulate(len(source) for source in sources))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        which = bisect_right(self._ends, index)
        return self.sources[which][index - (self._ends[which - 1] if which else 0)]

    def preload(self, progress: Progress | None = None) -> None:
        for source in self.sources:
            source.preload(progress)


class SyntheticSource:
    """Synthetic scenes as samples, drawn at each access (about 20 a second) or once by `preload`."""

    def __init__(self, scenes: SyntheticScenes) -> None:
        self.skeleton = scenes.skeleton
        self.classes: tuple[str, ...] = ("person",)
        self._scenes = scenes
        self._preloaded: list[Sample] = []

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        return self._preloaded[index] if self._preloaded else _draw(self._scenes, index)

    def preload(self, progress: Progress | None = None, processes: int | None = None) -> None:
        """Draw all scenes into memory in one process per core; at 640 x 480 a thousand take 0.9 GB."""
        if self._preloaded:
            return
        drawn = in_processes(partial(_draw, self._scenes), range(len(self)), processes)
        samples = list(progress(drawn, len(self), "drawing scenes") if progress else drawn)
        for sample in samples:
            sample.image.flags.writeable = False
        self._preloaded = samples


def _draw(scenes: SyntheticScenes, index: int) -> Sample:
    scene = scenes[index]
    people, count = scene.people, len(scene.people)
    return Sample(
        image=scene.image,
        boxes=np.array([person["bbox"] for person in people], np.float32).reshape(count, 4),
        keypoints=np.array([person["keypoints"] for person in people], np.float32).reshape(
            count, scenes.skeleton.num_keypoints, 3
        ),
        areas=np.array([person["area"] for person in people], np.float32),
        labels=np.zeros(count, np.int64),
        crowd=np.zeros(count, np.bool_),
        name=f"{_SYNTHETIC}{len(scenes)}:{scenes.seed}[{index}]",
    )


class LabeledImages:
    """A Source of every image of a data set, also of images without people.

    max_side: larger images are reduced so that their longer side has this many pixels; labels are scaled with them.
    problems: a line for each person whose labels do not fit the image. Boxes are clipped, people outside the image or
    without extent are left out, keypoints outside are taken as not labeled.

    The arrays of samples are read-only, because accesses share them. Raises DataError if there are no images, if nobody
    has labeled keypoints, or if they are unlike the skeleton.
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
        self._preloaded: list[np.ndarray | DamagedImage] = []
        if not any(labels.keypoints[~labels.crowd, :, 2].any() for labels in self._labels):
            raise DataError(f"{dataset.path}: nobody in {len(self._images)} images has a labeled keypoint")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        """Raises DamagedImage for an image that cannot be read or whose size is not that of the labels."""
        image = self._preloaded[index] if self._preloaded else self._read(self._images[index])
        if isinstance(image, DamagedImage):
            raise DamagedImage(image.name, image.reason)
        return Sample(image, *self._labels[index], name=_name(self._images[index]))

    def preload(self, progress: Progress | None = None) -> None:
        """Decode all images, reduced, into memory. Workers that are forked later share this memory."""
        if not self._preloaded:
            images = in_threads(self._read, self._images)
            self._preloaded = list(progress(images, len(self), "reading images") if progress else images)

    def _size(self, image: CocoImage) -> tuple[int, int]:
        """(width, height) of its samples."""
        width, height = image.size_wh
        scale = min(1.0, (self._max_side or max(width, height)) / max(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def _read(self, image: CocoImage) -> np.ndarray | DamagedImage:
        try:
            pixels = read_image(image.path)
        except SourceError as error:
            return DamagedImage(_name(image), str(error))
        size_wh = pixels.shape[1], pixels.shape[0]
        if size_wh != image.size_wh:
            rotated = "; rotated by its EXIF data?" if size_wh == image.size_wh[::-1] else ""
            return DamagedImage(_name(image), f"is {_by(size_wh)} px, its labels are for {_by(image.size_wh)}{rotated}")
        if self._size(image) != size_wh:
            pixels = np.asarray(cv2.resize(pixels, self._size(image), interpolation=cv2.INTER_AREA), np.uint8)
        return _read_only(pixels)

    def _prepare(self, image: CocoImage, people: tuple[CocoPerson, ...], numbers: dict[int, int]) -> PersonLabels:
        """Labels of the people who are in the image, in pixels of its reduced size."""
        size = np.array(image.size_wh, np.float64)
        scale = np.array(self._size(image)) / size
        kept, boxes, keypoints = [], [], []
        for person in people:
            box = np.array(person.bbox_xyxy).reshape(2, 2)
            clipped = np.clip(box, 0, size)
            if not (np.diff((clipped * scale).astype(np.float32), axis=0) > 0).all():
                fault = "lies outside" if min(person.bbox_xywh[2:]) > 0 else None
                self._note_box(image, person, fault, "person skipped")
                continue
            if np.abs(clipped - box).max() > _TOLERANCE:
                self._note_box(image, person, "reaches beyond", "clipped")
            points = person.keypoints.copy()
            outside = ((points[:, :2] < 0) | (points[:, :2] > size)).any(axis=1)
            lost = np.count_nonzero(outside & (points[:, 2] > 0))
            if lost:
                self._note(image, person, f"{lost} keypoints outside the image, taken as not labeled")
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

    def _note_box(self, image: CocoImage, person: CocoPerson, position: str | None, action: str) -> None:
        """position: where the box is relative to the image; None: it has no extent."""
        corners = ", ".join(f"{value:g}" for value in person.bbox_xyxy)
        fault = f"{position} the image of {_by(image.size_wh)}" if position else "has no width or height"
        self._note(image, person, f"box ({corners}) {fault}; {action}")

    def _note(self, image: CocoImage, person: CocoPerson, problem: str) -> None:
        self.problems.append(f"{_name(image)}: annotation {person.id}: {problem}")


def _name(image: CocoImage) -> str:
    return readable(image.path)


def _by(size_wh: tuple[int, int]) -> str:
    return f"{size_wh[0]} x {size_wh[1]}"


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
