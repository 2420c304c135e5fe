"""The images of an export or a benchmark (`open_image_set`): labeled images, images alone, or synthetic scenes.

``--data`` and ``--images`` mean the same as in training, see `sources`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from yolopose.runtime.errors import DataError
from yolopose.runtime.images import evenly, list_images, read_image, readable
from yolopose.runtime.skeleton import Skeleton

from .coco import CocoKeypoints
from .sources import is_yaml, open_labels
from .synthetic import SyntheticScenes

SYNTHETIC_SCENES = 24  # number of scenes if no images are given


@dataclass(frozen=True)
class ImageSet:
    """A fixed list of images with their names and, if there are any, their labels.

    description   what the images are, for reports; of a path only the last two parts
    names         one printable name for each image
    read          read(i) returns image i as (H, W, 3) uint8 BGR; raises SourceError
    labels        None without annotations
    image_ids     image_ids[i] is the id of image i in ``labels``; empty without labels
    paths         absolute paths; empty for synthetic scenes that were not written to files
    """

    description: str
    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    labels: CocoKeypoints | None = None
    image_ids: tuple[int, ...] = ()
    paths: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def part(self, indices: Sequence[int]) -> ImageSet:
        """Only the images with these indices, in this order."""
        read, chosen = self.read, tuple(indices)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            read=lambda i: read(chosen[i]),
            image_ids=tuple(self.image_ids[i] for i in chosen) if self.image_ids else (),
            paths=tuple(self.paths[i] for i in chosen) if self.paths else (),
        )


def open_image_set(
    data: str | Path | None,
    images: Path | None,
    skeleton: Skeleton | None,
    limit: int | None,
    *,
    split: str = "val",
    scenes: int = SYNTHETIC_SCENES,
    scenes_folder: Path | None = None,
) -> ImageSet:
    """Labeled images (``data``), images without labels (``images`` alone), or synthetic scenes (neither).

    data, images, split   as for `open_labels`, which reads them: COCO JSON with or without ``:FOLDER``, or data.yaml;
                          without ``data``, ``images`` is the folder whose images are taken
    skeleton              what the labels must have; None accepts any
    limit                 at most this many images, evenly spread over the set, because the first images of a sorted
                          folder may be alike; None or 0: all
    scenes                number of synthetic scenes, seed 0
    scenes_folder         synthetic scenes are written here, for other processes to read; None: drawn when read

    Raises SourceError for an unreadable or empty folder; DataError for labels that are damaged, empty or unlike the
    skeleton.
    """
    if data is not None:
        return _labeled(str(data), images, skeleton, limit, split)
    if images is not None:
        files = list_images(images)
        paths = [files[i] for i in evenly(len(files), limit)]
        return _of_files(f"{_photographs_in(images)}, without labels", paths)
    return _synthetic(min(scenes, limit) if limit else scenes, scenes_folder)


def _labeled(data: str, images: Path | None, skeleton: Skeleton | None, limit: int | None, split: str) -> ImageSet:
    labels = open_labels(data, images, skeleton, split).dataset
    every = list(labels.images.values())
    if not every:
        raise DataError(f"{labels.path}: no images; there is nothing to measure")
    chosen = [every[i] for i in evenly(len(every), limit)]
    part = f" ({split})" if is_yaml(data) else ""
    description = f"{_photographs_in(every[0].path.parent)}, labeled by {labels.path.name}{part}"
    return replace(
        _of_files(description, [image.path for image in chosen]),
        labels=labels,
        image_ids=tuple(image.id for image in chosen),
    )


def _of_files(description: str, paths: Sequence[Path]) -> ImageSet:
    names = tuple(readable(path.name) for path in paths)
    return ImageSet(description, names, lambda i: read_image(paths[i]), paths=tuple(path.resolve() for path in paths))


def _photographs_in(folder: Path) -> str:
    """Names the last two parts of the path: "val2017/images" tells the data set and nothing about the machine."""
    return f"photographs of {readable('/'.join(folder.resolve().parts[-2:]))}"


def _synthetic(count: int, folder: Path | None) -> ImageSet:
    description, drawn = "synthetic scenes, seed 0", SyntheticScenes(count, seed=0)
    if folder is None:
        return ImageSet(description, tuple(f"scene {i}" for i in range(count)), lambda i: drawn[i].image)
    drawn.save_coco(folder)
    return _of_files(description, sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg")))
