"""Scenes of painted people with exact keypoints, for tests, the demo, default calibration and training.

`SyntheticScenes` composes an image from the layers of `stage`, labels the people from the pixels that stay visible, and
adds what a camera adds (exposure, color cast, blur, grain). `SyntheticScenes.save_coco` writes a folder in COCO format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np

from yolopose.runtime.errors import OutputError
from yolopose.runtime.output import atomic_write, output_folder
from yolopose.runtime.skeleton import COCO_17, Skeleton

from .background import paint_background
from .dice import Dice
from .figure import POINT_DEPTHS
from .painter import Light
from .stage import FigureLayer, ThingLayer, cast_actors, layers_of, random_stage

IMAGE_FORMATS: dict[str, list[int]] = {"png": [], "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95]}
OBJECT = 255  # in the map of owners: an object
_MAX_PEOPLE = 200
_MIN_VISIBLE = 0.12  # share of the silhouette; a person of whom less is visible is left out
_MIN_PIXELS = 12


class LabeledPerson(TypedDict):
    """Labels of one person in pixels; pixel i covers i..i+1, as in COCO."""

    bbox: np.ndarray  # (4,) float32 xyxy around the visible pixels
    area: float  # number of visible pixels, like the area of a COCO segmentation
    keypoints: np.ndarray  # (K, 3) float32 x, y, v: 2 visible, 1 hidden, 0 (and x = y = 0) outside the image


@dataclass(frozen=True)
class Scene:
    """An image and its people, ordered from far to near."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    people: list[LabeledPerson]
    silhouettes: np.ndarray  # (H, W) uint8: n at the visible pixels of people[n - 1], else 0


class SyntheticScenes:
    """A sequence of ``count`` scenes. For equal seeds scene i is the same image, bit for bit, on every machine.

    size_wh: in pixels, at least 32 each
    people: smallest and largest number of figures; with 0 as the smallest, one scene in eight is empty
    skeleton: any whose keypoints are among those of COCO-17 and LSP-14, in any order
    Raises ValueError for other values.
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
        if not 0 <= people[0] <= people[1] <= _MAX_PEOPLE:
            raise ValueError(f"people: expected 0 <= fewest <= most <= {_MAX_PEOPLE}, got {people}")
        unknown = [name for name in skeleton.names if name not in POINT_DEPTHS]
        if unknown:
            raise ValueError(
                f"skeleton {skeleton.name!r}: figures have no keypoint {unknown}; they have {list(POINT_DEPTHS)}"
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
        """Write folder/images/*.png (or .jpg, quality 95) and folder/person_keypoints.json; return the latter.

        The labels are written last and renamed into place, so that they never name a missing image.
        Raises ValueError for another format, OutputError if the folder cannot be written.
        """
        return _save_coco(self, Path(folder), image_format)


def _compose(scenes: SyntheticScenes, dice: Dice) -> Scene:
    """Plan the scene, leave out people who would be hardly visible, then paint from far to near."""
    stage = random_stage(scenes.size_wh, dice.fork())
    light = _random_light(dice.fork())
    actors = cast_actors(stage, _head_count(scenes.people, dice), dice.fork())
    image = paint_background(scenes.size_wh, dice.fork(), round(stage.horizon))
    layers = layers_of(actors, stage, light, dice.fork())
    layers = [layer for layer in layers if not isinstance(layer, FigureLayer) or _is_visible(layer, layers)]
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
    """Few people are more likely than many; one scene in eight is empty if that is allowed."""
    fewest, most = people
    if fewest == 0 and (most == 0 or dice.chance(0.125)):
        return 0
    fewest = max(fewest, 1)
    count, other = dice.integer(fewest, most), dice.integer(fewest, most)
    return min(count, other) if dice.chance(0.4) else count


def _is_visible(figure: FigureLayer, layers: Sequence[FigureLayer | ThingLayer]) -> bool:
    """Whether enough of a figure is inside the image and not covered by later layers."""
    free = np.zeros(figure.image_shape, bool)
    free[figure.window] = figure.cover
    for layer in layers[layers.index(figure) + 1 :]:
        free[layer.window] &= ~layer.cover
    visible = int(np.count_nonzero(free))
    return visible >= max(_MIN_PIXELS, _MIN_VISIBLE * np.count_nonzero(figure.cover))


def _labels(layer: FigureLayer, owners: np.ndarray, number: int, skeleton: Skeleton) -> LabeledPerson:
    """Box, area and keypoints of a figure whose visible pixels have this number in ``owners``."""
    mine = owners == number
    rows, columns = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
    bbox = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    keypoints = np.zeros((skeleton.num_keypoints, 3), np.float32)
    height, width = owners.shape
    for k, name in enumerate(skeleton.names):
        x, y, hidden = layer.painted.keypoints[name]
        if not (0 <= x < width and 0 <= y < height):
            continue
        # A pixel without owner is the soft edge of a thin limb, not an object in front of it.
        covered = owners[int(y), int(x)] not in (0, number)
        keypoints[k] = x, y, 1 if hidden or covered else 2
    return {"bbox": bbox, "area": float(np.count_nonzero(mine)), "keypoints": keypoints}


# The camera


def photographed(image: np.ndarray, dice: Dice) -> np.ndarray:
    """The image (H, W, 3) uint8 with the blur, tones and grain of a random camera."""
    if dice.chance(0.3):
        image = cv2.GaussianBlur(image, (3, 3), 0) if dice.chance(0.75) else cv2.GaussianBlur(image, (5, 5), 0)
    image = cv2.LUT(image, _tone_table(dice))
    if dice.chance(0.04):
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    grain = dice.integer(0, 11)
    if grain > 1:
        noise = dice.noise(image.shape[:2]).astype(np.int16) - 128
        # The sum of two uniform values is closer to a normal distribution.
        noise += dice.noise(image.shape[:2]).astype(np.int16) - 128
        spread = (noise * grain) >> 7
        image = np.clip(image.astype(np.int16) + spread[..., None], 0, 255).astype(np.uint8)
    return image


def _tone_table(dice: Dice) -> np.ndarray:
    """(1, 256, 3) uint8 lookup table: brightness, contrast, a tone curve and a color cast."""
    level = np.arange(256) / 255.0
    curve = dice.uniform(-0.35, 0.35)
    level = level + curve * level * (1 - level)
    level = (level - 0.5) * dice.uniform(0.72, 1.15) + 0.5 + dice.uniform(-0.06, 0.06)
    cast = np.array([dice.bell(1, 0.035), dice.bell(1, 0.012), dice.bell(1, 0.035)])
    return np.clip(np.round(level[:, None] * cast * 255), 0, 255).astype(np.uint8)[None]


# Writing a folder in COCO format


def _save_coco(scenes: SyntheticScenes, folder: Path, image_format: str) -> Path:
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be one of {list(IMAGE_FORMATS)}, got {image_format!r}")
    output_folder(folder / "images")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes):
        name = f"{index:06d}.{image_format}"
        _write_image(folder / "images" / name, scene.image)
        images.append(
            {"id": index + 1, "file_name": name, "width": scene.image.shape[1], "height": scene.image.shape[0]}
        )
        for person in scene.people:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **_annotation(person)})
    skeleton = scenes.skeleton
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(skeleton.names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.limbs]  # COCO counts keypoints from 1
    width, height = scenes.size_wh
    about = f"yolopose synthetic scenes, seed {scenes.seed}, {len(scenes)} images of {width}x{height}"
    document = {
        "info": {"description": about},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }
    path = folder / "person_keypoints.json"
    atomic_write(path, json.dumps(document))
    return path


def _annotation(person: LabeledPerson) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(value) for value in person["bbox"])
    keypoints = person["keypoints"]
    flat = [value for x, y, v in keypoints for value in (round(float(x), 2), round(float(y), 2), int(v))]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": person["area"],
        "num_keypoints": int(np.count_nonzero(keypoints[:, 2])),
        "keypoints": flat,
    }


def _write_image(path: Path, image: np.ndarray) -> None:
    done, data = cv2.imencode(path.suffix, image, IMAGE_FORMATS[path.suffix[1:]])
    if not done:
        raise OutputError(f"OpenCV could not encode {path.name}")
    atomic_write(path, data.tobytes())
