"""The pictures of a run: photographs, labelled photographs, or synthetic scenes when none are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolopose.runtime.errors import DataError
from yolopose.runtime.images import evenly, list_images

from .settings import YAML_SUFFIXES, BenchSettings

if TYPE_CHECKING:
    from yolopose.data.coco import CocoKeypoints
    from yolopose.runtime.skeleton import Skeleton

SCENES = 32  # drawn when no folder is given and no --limit


@dataclass(frozen=True)
class BenchImages:
    """``image_ids`` and ``dataset`` only where labels were given; then ``image_ids[i]`` is the id of ``paths[i]``."""

    description: str
    paths: tuple[Path, ...]
    image_ids: tuple[int, ...] = ()
    dataset: CocoKeypoints | None = None


def gather_images(settings: BenchSettings, scratch: Path, skeleton: Skeleton | None = None) -> BenchImages:
    """Scenes are drawn in ``scratch``. ``skeleton``: what the labels must mean.

    Raises SourceError for a bad or empty folder, DataError for labels that are damaged or of another skeleton.
    """
    if settings.data is not None:
        return _labelled(settings, settings.data, skeleton)
    if settings.images is not None:
        files = list_images(settings.images)
        paths = [files[i] for i in evenly(len(files), settings.limit)]
        return BenchImages(f"{_short(settings.images)}, without labels", tuple(path.resolve() for path in paths))
    return _synthetic(settings.limit or SCENES, scratch)


def _labelled(settings: BenchSettings, data: Path, skeleton: Skeleton | None) -> BenchImages:
    from yolopose.data.sources import open_labels

    dataset = open_labels(str(data), settings.images, skeleton, settings.split).dataset
    every = list(dataset.images.values())
    if not every:
        raise DataError(f"{dataset.path}: no images; there is nothing to measure")
    chosen = [every[i] for i in evenly(len(every), settings.limit)]
    split = f" ({settings.split})" if dataset.path.suffix.lower() in YAML_SUFFIXES else ""
    return BenchImages(
        f"{_short(every[0].path.parent)}, labelled by {dataset.path.name}{split}",
        tuple(image.path.resolve() for image in chosen),
        tuple(image.id for image in chosen),
        dataset,
    )


def _short(folder: Path) -> str:
    """The last two names of a path: "val2017/images" tells the data set, and nothing of the machine."""
    return f"photographs of {'/'.join(folder.resolve().parts[-2:])}"


def _synthetic(count: int, scratch: Path) -> BenchImages:
    from yolopose.data.synthetic import SyntheticScenes

    SyntheticScenes(count).save_coco(scratch)
    paths = sorted(path for path in scratch.rglob("*") if path.suffix in (".png", ".jpg"))
    return BenchImages("synthetic scenes of yolopose.data.synthetic, seed 0; no photographs were given", tuple(paths))
