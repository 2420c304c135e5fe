"""The pictures of a run: photographs, labelled photographs, or synthetic scenes when none are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yolopose.runtime.images import evenly, list_images

from .settings import BenchSettings

if TYPE_CHECKING:
    from yolopose.data.coco import CocoKeypoints

SCENES = 32  # drawn when no folder is given and no --limit


@dataclass(frozen=True)
class BenchImages:
    """``image_ids`` and ``dataset`` only where labels were given; then ``image_ids[i]`` is the id of ``paths[i]``."""

    description: str
    paths: tuple[Path, ...]
    image_ids: tuple[int, ...] = ()
    dataset: CocoKeypoints | None = None


def gather_images(settings: BenchSettings, scratch: Path) -> BenchImages:
    """Scenes are drawn in ``scratch``. Raises SourceError for a bad or empty folder, DataError for damaged labels."""
    if settings.images is None:
        return _synthetic(settings.limit or SCENES, scratch)
    if settings.data is None:
        files = list_images(settings.images)
        paths = [files[i] for i in evenly(len(files), settings.limit)]
        return BenchImages(f"{_short(settings.images)}, without labels", tuple(path.resolve() for path in paths))
    from yolopose.data.coco import read_coco

    dataset = read_coco(settings.data, settings.images)
    every = list(dataset.images.values())
    chosen = [every[i] for i in evenly(len(every), settings.limit)]
    return BenchImages(
        f"{_short(settings.images)}, labelled by {settings.data.name}",
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
