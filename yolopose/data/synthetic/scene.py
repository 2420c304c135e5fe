"""Scenes of painted people with exact keypoints, for tests, the demo, default calibration and training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from yolopose.runtime.skeleton import COCO_17, Skeleton

from .background import paint_background
from .casting import cast_actors, random_stage
from .coco_folder import save_coco
from .dice import Dice
from .figure import POINT_DEPTHS
from .layers import FigureLayer, ThingLayer, layers_of
from .lens import photographed
from .painter import Light

OBJECT = 255  # in a map of owners: something that is not a person
_MOST_PEOPLE = 200
_LEAST_VISIBLE = 0.12  # share of its silhouette that must be seen, else a person is left out
_LEAST_PIXELS = 12


class LabelledPerson(TypedDict):
    """One person's labels, in pixels; pixel i covers i..i+1, as COCO has it."""

    bbox: np.ndarray  # (4,) float32 xyxy around the visible pixels
    area: float  # number of visible pixels, as of a COCO segmentation
    keypoints: np.ndarray  # (K, 3) float32 x, y, v: 2 visible, 1 hidden, 0 (and x = y = 0) outside the picture


@dataclass(frozen=True)
class Scene:
    """A picture and its people from far to near."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    people: list[LabelledPerson]
    silhouettes: np.ndarray  # (H, W) uint8: 0 nobody, n the visible pixels of people[n - 1]


class SyntheticScenes:
    """``count`` scenes; scene i is the same picture, bit for bit, whenever and wherever it is asked for.

    size_wh: pixels; people: fewest and most figures (with fewest 0 about one scene in eight is empty); skeleton: any
    whose points are among those of COCO-17 and LSP-14, in any order. ValueError for anything else.
    """

    def __init__(
        self,
        count: int,
        size_wh: tuple[int, int] = (640, 480),
        seed: int = 0,
        people: tuple[int, int] = (0, 6),
        skeleton: Skeleton = COCO_17,
    ) -> None:
        if count < 0 or seed < 0:
            raise ValueError(f"count and seed must not be negative, got count {count}, seed {seed}")
        if min(size_wh) < 32:
            raise ValueError(f"size_wh: a scene needs at least 32 px each way, got {size_wh}")
        if not 0 <= people[0] <= people[1] <= _MOST_PEOPLE:
            raise ValueError(f"people: expected 0 <= fewest <= most <= {_MOST_PEOPLE}, got {people}")
        unknown = [name for name in skeleton.names if name not in POINT_DEPTHS]
        if unknown:
            raise ValueError(
                f"skeleton {skeleton.name!r}: figures have no point {unknown}; they have {list(POINT_DEPTHS)}"
            )
        self.count, self.size_wh, self.seed, self.people, self.skeleton = count, size_wh, seed, people, skeleton

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Scene]:
        return (self[i] for i in range(self.count))

    def __getitem__(self, index: int) -> Scene:
        if not -self.count <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        return _compose(self, Dice(self.seed, index % self.count))

    def save_coco(self, folder: str | Path, image_format: str = "png") -> Path:
        """Write images ("png" or "jpg") and person_keypoints.json; returns the latter's path."""
        return save_coco(self, Path(folder), image_format)


def _compose(scenes: SyntheticScenes, dice: Dice) -> Scene:
    """Plan the scene, leave out who could hardly be seen, then paint from far to near."""
    stage = random_stage(scenes.size_wh, dice.fork())
    light = _random_light(dice.fork())
    actors = cast_actors(stage, _head_count(scenes.people, dice), dice.fork())
    image = paint_background(scenes.size_wh, dice.fork(), round(stage.horizon))
    layers = layers_of(actors, stage, light, dice.fork())
    layers = [layer for layer in layers if not isinstance(layer, FigureLayer) or _seen(layer, layers)]
    for layer in layers:
        layer.paint(image)
    figures = [layer for layer in layers if isinstance(layer, FigureLayer)]
    numbers = {id(layer): number for number, layer in enumerate(figures, start=1)}
    owners = np.zeros(image.shape[:2], np.uint8)
    for layer in layers:
        owners[layer.window][layer.cover] = numbers.get(id(layer), OBJECT)
    people = [_labels(layer, owners, number, scenes.skeleton) for number, layer in enumerate(figures, start=1)]
    owners[owners == OBJECT] = 0
    return Scene(photographed(image, dice.fork()), people, owners)


def _random_light(dice: Dice) -> Light:
    x, y, z = dice.uniform(-0.9, 0.9), -dice.uniform(0.2, 1.0), -dice.uniform(0.3, 1.0)
    norm = float(np.sqrt(x * x + y * y + z * z))
    ambient = dice.uniform(0.42, 0.72)
    return Light((x / norm, y / norm, z / norm), ambient, dice.uniform(1.1, 1.3) - ambient)


def _head_count(people: tuple[int, int], dice: Dice) -> int:
    """Few people more often than many; nobody at all in one scene of eight where that is allowed."""
    fewest, most = people
    if fewest == 0 and (most == 0 or dice.chance(0.125)):
        return 0
    fewest = max(fewest, 1)
    count, other = dice.integer(fewest, most), dice.integer(fewest, most)
    return min(count, other) if dice.chance(0.4) else count


def _seen(figure: FigureLayer, layers: Sequence[FigureLayer | ThingLayer]) -> bool:
    """Whether enough of a figure is in the picture and not behind what is painted after it."""
    free = np.zeros(figure.picture_shape, bool)
    free[figure.window] = figure.cover
    for layer in layers[layers.index(figure) + 1 :]:
        free[layer.window] &= ~layer.cover
    visible = int(np.count_nonzero(free))
    return visible >= max(_LEAST_PIXELS, _LEAST_VISIBLE * np.count_nonzero(figure.cover))


def _labels(layer: FigureLayer, owners: np.ndarray, number: int, skeleton: Skeleton) -> LabelledPerson:
    """Box, area and keypoints of a figure whose visible pixels bear this number."""
    mine = owners == number
    rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
    bbox = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    keypoints = np.zeros((skeleton.num_keypoints, 3), np.float32)
    height, width = owners.shape
    for k, name in enumerate(skeleton.names):
        x, y, hidden = layer.painted.keypoints[name]
        if not (0 <= x < width and 0 <= y < height):
            continue
        # Nobody's pixel is the soft rim of a thin limb, not something in front of it.
        covered = owners[int(y), int(x)] not in (0, number)
        keypoints[k] = x, y, 1 if hidden or covered else 2
    return {"bbox": bbox, "area": float(np.count_nonzero(mine)), "keypoints": keypoints}
