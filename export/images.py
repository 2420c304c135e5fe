"""The images that an artifact is made and judged with: labelled ones, photographs alone, or synthetic scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from yolopose.data.coco import CocoKeypoints, read_coco
from yolopose.data.synthetic import SyntheticScenes
from yolopose.runtime.images import evenly, list_images, read_image, readable
from yolopose.runtime.skeleton import Skeleton

SYNTHETIC_SCENES = 24  # to judge by, where no photographs are named


@dataclass(frozen=True)
class ExportImages:
    """``read``: image i of ``names`` as (H, W, 3) uint8 BGR, SourceError; ``labels``: None without annotations."""

    source: str
    names: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    labels: CocoKeypoints | None = None
    image_ids: tuple[int, ...] = ()
    paths: tuple[Path, ...] = ()  # none of synthetic scenes

    def __len__(self) -> int:
        return len(self.names)

    def part(self, indices: Sequence[int]) -> ExportImages:
        """These images alone, in this order."""
        whole, chosen = self.read, tuple(indices)
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            read=lambda i: whole(chosen[i]),
            image_ids=tuple(self.image_ids[i] for i in chosen) if self.image_ids else (),
            paths=tuple(self.paths[i] for i in chosen) if self.paths else (),
        )


def export_images(
    data: Path | None, images: Path | None, skeleton: Skeleton, limit: int, scenes: int = SYNTHETIC_SCENES
) -> ExportImages:
    """Labelled images (``data``, ``images``), photographs alone (``images``), or synthetic scenes; ``limit`` 0: all.

    A limit takes images evenly spread over the set, so that a sorted folder is not judged by its beginning.
    """
    if data is not None:
        if images is None:
            raise ValueError("--data names labels: --images must name the folder of the images")
        labels = read_coco(data, images, skeleton)
        every = list(labels.images.values())
        chosen = [every[i] for i in evenly(len(every), limit)]
        paths = [image.path for image in chosen]
        ids = tuple(image.id for image in chosen)
        return ExportImages(str(data.name), _names(paths), lambda i: read_image(paths[i]), labels, ids, tuple(paths))
    if images is not None:
        files = list_images(images)
        paths = [files[i] for i in evenly(len(files), limit)]
        return ExportImages(images.name, _names(paths), lambda i: read_image(paths[i]), paths=tuple(paths))
    count = min(scenes, limit or scenes)
    drawn = SyntheticScenes(count, seed=0)
    return ExportImages("synthetic scenes", tuple(f"scene {i}" for i in range(count)), lambda i: drawn[i].image)


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    return tuple(readable(path.name) for path in paths)
