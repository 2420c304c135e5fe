"""Training samples made from labeled images by random position, size, rotation, mirroring, mosaic, mixing and color.

`Augment` works in three steps: it draws all random numbers (`draw`), paints pixels (`paint`) and moves labels
(`people`). An image and its people go through one affine map, so that pixels are resampled once.

To add an augmentation: a field of `AugmentSettings`, its random numbers in `Augment.draw`, its effect in `paint` and
`people`, and a flag in `training/command.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yolopose.runtime.images import cv2

from .sample import PersonLabels, Sample, Source, joined

MIN_SIDE = 2.0  # px: a smaller box is dropped
MIN_SHARE = 0.1  # of a box that must lie in the image, else the person is dropped
JUNCTION = (0.3, 0.7)  # where the four images of a mosaic meet, share of the side
PERSON_SHARE = 0.8  # share of windows centered on a person, where there is one

_NO_IMAGE = np.empty((0, 0, 3), np.uint8)
_LUMA = np.array([0.114, 0.587, 0.299])  # of blue, green and red (ITU-R BT.601)
_GRAY_CROSS = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / np.sqrt(3)  # cross product with the gray axis

Point = tuple[float, float]  # x, y px


@dataclass(frozen=True)
class AugmentSettings:
    """Probabilities and ranges. Sizes are relative to the image letterboxed to the network's input size.

    Raises ValueError that names the field for a value out of range.
    """

    size: int = 640  # px: the network's square input, to which images are letterboxed
    window: int | None = None  # px, side of the part that the network sees while training; None: the whole image
    mosaic: float = 1.0  # probability of four images in one
    mosaic_scale: float = 0.5  # factor by which the images of a mosaic are smaller
    mixup: float = 0.0  # probability of blending two images
    scale: tuple[float, float] = (0.5, 1.5)
    degrees: float = 10.0  # largest rotation
    translate: float = 0.1  # largest shift, share of the side
    mirror: float = 0.5  # probability
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)  # largest: hue rotation in turns, saturation, value (relative)
    pad: int = 114

    def __post_init__(self) -> None:
        for name in ("mosaic", "mixup", "mirror"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        if not 0 < self.mosaic_scale <= 10:
            raise ValueError(f"mosaic_scale must lie in 0..10, got {self.mosaic_scale}")
        for name, value in (("degrees", self.degrees), ("translate", self.translate), ("hsv", min(self.hsv))):
            if not 0 <= value <= 360:
                raise ValueError(f"{name} must be a number of 0 or more, got {value}")
        if not 0 < self.scale[0] <= self.scale[1] <= 10:
            raise ValueError(f"scale must be 0 < smallest <= largest <= 10, got {self.scale}")
        if self.window is not None and not 32 <= self.window <= self.size:
            raise ValueError(f"window must lie in 32..{self.size} (the input size), got {self.window}")

    @property
    def side(self) -> int:
        """Side in pixels of the square that the network sees while training."""
        return self.window or self.size


class View(NamedTuple):
    """A sample placed in a window of a new image."""

    sample: Sample
    matrix: np.ndarray  # (2, 3) pixels of the sample -> pixels of the new image
    window: tuple[int, int, int, int]  # x1, y1, x2, y2 px of the new image; what lies outside is cut off


class Drawn(NamedTuple):
    """All random choices for one training sample."""

    views: tuple[View, ...]
    blended: tuple[View, ...]  # of the image that is mixed in; usually empty
    share: float  # weight of ``views`` in the blend
    colors: np.ndarray | None  # (3, 3), see `shift_colors`

    @property
    def name(self) -> str:
        return "+".join(view.sample.name for view in (*self.views, *self.blended))

    def without_images(self) -> Drawn:
        """The same without pixels, for `Augment.people` alone: painted images need not stay in memory."""
        views, blended = (
            tuple(view._replace(sample=replace(view.sample, image=_NO_IMAGE)) for view in some)
            for some in (self.views, self.blended)
        )
        return self._replace(views=views, blended=blended)


class Augment:
    """Makes square training samples of ``settings.side`` pixels from the images of a source.

    Split into three steps for speed: `draw` is Python, `paint` runs in threads, `people` takes all images of a batch
    at once.
    """

    def __init__(self, source: Source, settings: AugmentSettings) -> None:
        self.source, self.settings = source, settings
        self.swap = np.arange(source.skeleton.num_keypoints)
        for a, b in source.skeleton.flip_pairs:
            self.swap[[a, b]] = b, a

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        """A sample based on image ``index``. Raises DamagedImage for any image that takes part, as the source does."""
        drawn = self.draw(index, rng)
        image = np.empty((self.settings.side, self.settings.side, 3), np.uint8)
        self.paint(drawn, image)
        return Sample(image, *self.people([drawn])[0], name=drawn.name)

    def draw(self, index: int, rng: np.random.Generator) -> Drawn:
        """Draw all random numbers and read the images. Raises DamagedImage."""
        views, share = self._views(index, rng), 1.0
        blended: tuple[View, ...] = ()
        if rng.random() < self.settings.mixup:
            blended = self._views(self._any_index(rng), rng)
            share = rng.beta(8, 8)  # around 0.5, as in YOLOX
        colors = draw_colors(self.settings.hsv, rng) if any(self.settings.hsv) else None
        return Drawn(views, blended, share, colors)

    def paint(self, drawn: Drawn, out: np.ndarray) -> None:
        """Paint the pixels into ``out`` (side, side, 3) uint8."""
        image = out if drawn.colors is None else np.empty_like(out)
        paint_views(drawn.views, image, self.settings.pad)
        if drawn.blended:
            other = np.empty_like(out)
            paint_views(drawn.blended, other, self.settings.pad)
            image[:] = (image * drawn.share + other * (1 - drawn.share)).round()
        if drawn.colors is not None:
            shift_colors(image, drawn.colors, out)

    def people(self, several: Sequence[Drawn]) -> tuple[PersonLabels, np.ndarray]:
        """The n people of all images, one image after another, and (n,) the index of each person's image."""
        views = [(*drawn.views, *drawn.blended) for drawn in several]
        people, view = people_in_views([view for some in views for view in some], self.swap)
        return people, np.repeat(np.arange(len(views)), [len(some) for some in views])[view]

    def _any_index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.source)))

    def _views(self, index: int, rng: np.random.Generator) -> tuple[View, ...]:
        side = self.settings.side
        if rng.random() >= self.settings.mosaic:
            sample = self.source[index]
            about = _point_of_interest(sample, rng) if self.settings.window else _middle(sample)
            return (self._view(sample, about, (0, 0, side, side), 1.0, rng),)
        x, y = (round(side * rng.uniform(*JUNCTION)) for _ in range(2))
        tiles: list[View] = []
        for left, right in ((0, x), (x, side)):
            for top, bottom in ((0, y), (y, side)):
                sample = self.source[index if not tiles else self._any_index(rng)]
                about = _point_of_interest(sample, rng)
                tiles.append(self._view(sample, about, (left, top, right, bottom), self.settings.mosaic_scale, rng))
        return tuple(tiles)

    def _view(
        self, sample: Sample, about: Point, window: tuple[int, int, int, int], factor: float, rng: np.random.Generator
    ) -> View:
        """A random map that puts ``about`` (a point of the image) near the middle of the window."""
        # Python numbers: a numpy array of two costs more than the arithmetic, and there are hundreds in a batch.
        settings = self.settings
        u, turn, x, y, mirror = rng.random(5).tolist()
        smallest, largest = settings.scale
        # Uniform in the logarithm: half the size is as likely as twice the size.
        scale = factor * settings.size / max(sample.image.shape[:2]) * smallest * (largest / smallest) ** u
        left, top, right, bottom = window
        x, y = (0.5 + (2 * share - 1) * settings.translate for share in (x, y))
        middle = left + (right - left) * x, top + (bottom - top) * y
        matrix = affine(scale, (2 * turn - 1) * settings.degrees, mirror < settings.mirror, about, middle)
        return View(sample, matrix, window)


def _middle(sample: Sample) -> Point:
    height, width = sample.image.shape[:2]
    return width / 2, height / 2


def _point_of_interest(sample: Sample, rng: np.random.Generator) -> Point:
    """Mostly the middle of a random person, else any point in the middle half of the image."""
    found, x, y = rng.random(3).tolist()
    if found < PERSON_SHARE and len(sample):
        left, top, right, bottom = sample.boxes[int(x * len(sample))].tolist()
        return (left + right) / 2, (top + bottom) / 2
    height, width = sample.image.shape[:2]
    return (0.25 + 0.5 * x) * width, (0.25 + 0.5 * y) * height


# Geometry


def affine(scale: float, degrees: float, mirror: bool, source: Point, target: Point) -> np.ndarray:
    """(2, 3) float64: scale, mirror left to right and rotate about ``source``, which is moved to ``target``."""
    angle = math.radians(degrees)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    a, b, c, d = (-cos, -sin, -sin, cos) if mirror else (cos, -sin, sin, cos)
    x, y = source
    return np.array([[a, b, target[0] - a * x - b * y], [c, d, target[1] - c * x - d * y]])


def paint_views(views: Sequence[View], image: np.ndarray, pad: int) -> None:
    """Paint each view into its window of ``image`` (H, W, 3) uint8. OpenCV releases the GIL meanwhile."""
    for sample, matrix, (x1, y1, x2, y2) in views:
        # Our pixel i covers i..i+1, OpenCV's pixel i is the point i: shift by half a pixel on both sides.
        pixels = matrix.copy()
        pixels[:, 2] += matrix[:, :2].sum(1) / 2 - (x1 + 0.5, y1 + 0.5)
        cv2.warpAffine(
            sample.image, pixels, (x2 - x1, y2 - y1), dst=image[y1:y2, x1:x2],
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(pad, pad, pad),
        )  # fmt: skip


def people_in_views(views: Sequence[View], swap: np.ndarray) -> tuple[PersonLabels, np.ndarray]:
    """The n people of the views, moved and cropped to their windows, and (n,) the index of each one's view, ascending.

    swap: (K,) index of the mirror partner of each keypoint, used where a map mirrors.
    """
    # All views in one array: the overhead of a numpy call is larger than the arithmetic for a few people.
    people = joined([view.sample.people for view in views])
    numbers = np.repeat(np.arange(len(views)), [len(view.sample) for view in views])
    matrices = np.stack([view.matrix for view in views])[numbers]
    keypoints = move_keypoints(people.keypoints, matrices, swap)
    boxes = move_boxes(people.boxes, matrices, keypoints)
    areas = (people.areas * abs(_determinant(matrices))).astype(np.float32)
    moved = PersonLabels(boxes, keypoints, areas, people.labels, people.crowd)
    cut, keep = cropped(moved, np.array([view.window for view in views])[numbers])
    return cut, numbers[keep]


def move_keypoints(keypoints: np.ndarray, matrix: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """Map (n, K, 3) keypoints by one matrix (2, 3) or one per person (n, 2, 3); mirroring exchanges left and right."""
    moved = keypoints.copy()
    moved[..., :2] = keypoints[..., :2] @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return np.where((_determinant(matrix) < 0)[..., None, None], moved[:, swap], moved)


def _determinant(matrix: np.ndarray) -> np.ndarray:
    """Of the linear part of maps (..., 2, 3): negative for mirroring; its absolute value is the growth of areas."""
    return np.asarray(matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0])


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy boxes around what the given boxes contain after the map; matrix as for `move_keypoints`.

    The corners of a rotated box would give too large a box, so a person is taken as the ellipse inscribed in the box.
    The moved keypoints (n, K, 3) are included.
    """
    corners = boxes.astype(np.float64).reshape(-1, 2, 2)
    middle, half = corners.mean(1, keepdims=True), (corners[:, 1:] - corners[:, :1]) / 2
    linear = np.swapaxes(matrix[..., :2], -1, -2)
    centers = (middle @ linear)[:, 0] + matrix[..., 2]
    reach = np.sqrt(half**2 @ linear**2)[:, 0]
    low, high = centers - reach, centers + reach
    labeled = keypoints[..., 2:] > 0
    points = keypoints[..., :2]
    low = np.minimum(low, np.where(labeled, points, np.inf).min(1, initial=np.inf))
    high = np.maximum(high, np.where(labeled, points, -np.inf).max(1, initial=-np.inf))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def cropped(people: PersonLabels, window: npt.ArrayLike) -> tuple[PersonLabels, np.ndarray]:
    """The part of the people inside ``window``, and (n,) bool: who is kept.

    Boxes are cut, keypoints outside become unlabeled, people of whom too little is left are dropped.
    window: x1, y1, x2, y2 px for all (4,) or for each person (n, 4).
    """
    low, high = np.split(np.asarray(window, np.float32), 2, axis=-1)
    boxes = np.concatenate([people.boxes[:, :2].clip(low, high), people.boxes[:, 2:].clip(low, high)], axis=1)
    sides, whole = boxes[:, 2:] - boxes[:, :2], people.boxes[:, 2:] - people.boxes[:, :2]
    # Any piece of a crowd region is kept: losses must leave it out.
    enough = (sides.prod(1) >= MIN_SHARE * whole.prod(1)) | people.crowd
    keep = (sides.min(1, initial=np.inf) >= MIN_SIDE) & enough
    points = people.keypoints[..., :2]
    inside = ((points >= low[..., None, :]) & (points < high[..., None, :])).all(-1) & (people.keypoints[..., 2] > 0)
    keypoints = np.where(inside[..., None], people.keypoints, np.float32(0))
    cut = PersonLabels(boxes, keypoints, people.areas, people.labels, people.crowd)
    return PersonLabels(*(part[keep] for part in cut)), keep


# Color


def draw_colors(gains: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """A random (3, 3) matrix for `shift_colors`.

    gains: the largest rotation of hue in turns, and the largest relative changes of saturation and value. The three
    are one linear map, ten times as fast as a conversion to HSV and back.
    """
    hue, saturation, value = rng.uniform(-1, 1, 3) * gains
    return color_matrix(hue, max(1 + saturation, 0), max(1 + value, 0))


def shift_colors(image: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """Apply a linear map (3, 3) of colors to (H, W, 3) uint8 BGR; the result goes into ``out``."""
    cv2.transform(image, matrix, dst=out)


def color_matrix(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3, 3) for BGR columns: a rotation about the gray axis by ``hue`` turns, then the factors; gray stays gray."""
    angle = 2 * np.pi * hue
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * _GRAY_CROSS
    return np.asarray(value * (saturation * np.eye(3) + (1 - saturation) * _LUMA) @ turn)
