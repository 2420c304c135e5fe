"""Sources of samples as a command names them: label files, synthetic scenes, mixtures."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from yolopose.runtime.errors import DataError
from yolopose.runtime.skeleton import COCO_17, Skeleton

from .coco import CocoKeypoints, label_skeleton, read_coco
from .labelled_images import LabelledImages, Progress
from .parallel import in_processes
from .sample import Sample, Source
from .synthetic import SyntheticScenes
from .yolo_txt import read_yolo, read_yolo_folder

__all__ = [
    "LabelledImages",
    "Labels",
    "Mixed",
    "Opened",
    "PreloadableSource",
    "Progress",
    "SyntheticSource",
    "open_labels",
    "open_sources",
]

_SYNTHETIC = "synthetic:"


class PreloadableSource(Source, Protocol):
    """A Source that can hold its pictures in memory."""

    def preload(self, progress: Progress | None = None) -> None: ...


class Labels(NamedTuple):
    """Label files of either format, for training, evaluation and benchmark."""

    dataset: CocoKeypoints
    skeleton: Skeleton


class Opened(NamedTuple):
    """What the command line named."""

    source: Mixed
    problems: list[str]  # a line for each person whose labels do not fit the picture


class SyntheticSource:
    """Scenes as samples, drawn at each access (about 20 a second) or once by `preload`."""

    def __init__(self, scenes: SyntheticScenes) -> None:
        self.skeleton = scenes.skeleton
        self.classes: tuple[str, ...] = ("person",)
        self._scenes = scenes
        self._kept: list[Sample] = []

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Sample:
        return self._kept[index] if self._kept else _draw(self._scenes, index)

    def preload(self, progress: Progress | None = None, processes: int | None = None) -> None:
        """Draw all scenes into memory with a process for each CPU; at 640 x 480 a thousand take 0.9 GB."""
        if self._kept:
            return
        drawn = in_processes(partial(_draw, self._scenes), range(len(self)), processes)
        kept = list(progress(drawn, len(self), "drawing scenes") if progress else drawn)
        for sample in kept:
            sample.image.flags.writeable = False
        self._kept = kept


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


class Mixed:
    """Sources one after another. DataError unless their keypoints and classes are the same."""

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


def is_yaml(spec: str) -> bool:
    """Whether a spec is a YOLO-pose folder's description."""
    return spec.lower().endswith((".yaml", ".yml"))


def open_labels(spec: str, images: Path | None = None, skeleton: Skeleton | None = None, split: str = "val") -> Labels:
    """Read `labels.json`, `labels.json:images_dir` (COCO) or `data.yaml` (YOLO-pose, its ``split``).

    images: folder of a COCO file's pictures where the spec names none; without either, `images` beside the file or the
    file's own folder. skeleton: what the keypoints mean; without it, what the file's names say, else their number.
    DataError for damaged labels or those unlike the skeleton.
    """
    if is_yaml(spec):
        folder = read_yolo_folder(spec, skeleton)
        return Labels(read_yolo(spec, split, folder.skeleton), folder.skeleton)
    name, json, own = spec.partition(".json:")
    path = Path(f"{name}.json" if json else spec)
    beside = path.parent / "images"
    place = Path(own) if json else images or (beside if beside.is_dir() else path.parent)
    dataset = read_coco(path, place, skeleton)
    return Labels(dataset, skeleton or label_skeleton(path, dataset.num_keypoints, dataset.keypoint_names))


def open_sources(
    specs: Sequence[str],
    images: Path | None = None,
    skeleton: Skeleton | None = None,
    size_wh: tuple[int, int] = (640, 480),
    max_side: int | None = None,
    split: str = "train",
) -> Opened:
    """All that the command line names, one after another: specs of `open_labels` and `synthetic:COUNT[:SEED]`.

    size_wh: of synthetic scenes, which take the skeleton of the labels beside them, COCO's where there are none.
    max_side: as of `LabelledImages`. ValueError for a spec that cannot be understood, DataError as of the parts.
    """
    if not specs:
        raise ValueError("no data: give labels (.json or .yaml) or synthetic:COUNT")
    scenes = {spec: _count_and_seed(spec) for spec in specs if spec.startswith(_SYNTHETIC)}
    labelled: dict[str, LabelledImages] = {}
    for spec in specs:
        if spec not in scenes and spec not in labelled:
            labels = open_labels(spec, images, skeleton, split)
            labelled[spec] = LabelledImages(labels.dataset, labels.skeleton, max_side)
    drawn = skeleton or next((source.skeleton for source in labelled.values()), COCO_17)
    sources: list[PreloadableSource] = []
    for spec in specs:
        if spec in scenes:
            count, seed = scenes[spec]
            sources.append(SyntheticSource(SyntheticScenes(count, size_wh, seed, skeleton=drawn)))
        else:
            sources.append(labelled[spec])
    return Opened(Mixed(sources, specs), [problem for source in labelled.values() for problem in source.problems])


def _count_and_seed(spec: str) -> tuple[int, int]:
    numbers = spec[len(_SYNTHETIC) :].split(":")
    if (
        len(numbers) > 2
        or not all(number.isascii() and number.isdecimal() for number in numbers)
        or not int(numbers[0])
    ):
        raise ValueError(f"expected synthetic:COUNT or synthetic:COUNT:SEED, got {spec!r}")
    return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0
