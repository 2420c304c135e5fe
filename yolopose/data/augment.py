"""Random pictures from labelled ones: position, size, angle, mirror, mosaic, mixing, colour.

Hue, saturation and value by random factors.

A picture and its people under one affine map, so that pixels are resampled once whatever is combined in the map.

What is done to a sample before the network sees it, drawn from a random generator of its own.
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

__all__ = ["Augment", "AugmentSettings"]


_LUMA = np.array([0.114, 0.587, 0.299])  # of blue, green and red (ITU-R BT.601)
_ACROSS = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / np.sqrt(3)  # cross product with the axis of greys


def draw_colours(gains: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """(3, 3) for ``shift_colours``.

    gains: the largest turn of hue, in circles, and the largest relative changes of saturation and value. All three are
    one linear map of colours, which costs a tenth of going through HSV and back; greys only change in value.
    """
    hue, saturation, value = rng.uniform(-1, 1, 3) * gains
    return colour_matrix(hue, max(1 + saturation, 0), max(1 + value, 0))


def shift_colours(image: np.ndarray, matrix: np.ndarray, out: np.ndarray) -> None:
    """(H, W, 3) uint8 BGR under a map of colours, into another picture of the size."""
    cv2.transform(image, matrix, dst=out)


def colour_matrix(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3, 3) for BGR columns: a turn about the axis of greys by ``hue`` circles, then factors."""
    angle = 2 * np.pi * hue
    turn = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * _ACROSS
    return np.asarray(value * (saturation * np.eye(3) + (1 - saturation) * _LUMA) @ turn)


LEAST_SIDE = 2.0  # px of a box that stays
LEAST_SHARE = 0.1  # of a box that must lie in the picture, else the person is left out


Point = tuple[float, float]  # x, y px


def affine(scale: float, degrees: float, mirror: bool, source: Point, target: Point) -> np.ndarray:
    """(2, 3) float64: scale, mirror left to right and rotate about ``source``, which lands on ``target``."""
    angle = math.radians(degrees)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    a, b, c, d = (-cos, -sin, -sin, cos) if mirror else (cos, -sin, sin, cos)
    x, y = source
    return np.array([[a, b, target[0] - a * x - b * y], [c, d, target[1] - c * x - d * y]])


class View(NamedTuple):
    """A sample as it is seen in some window of a new picture."""

    sample: Sample
    matrix: np.ndarray  # (2, 3) pixels of the sample -> of the new picture
    window: tuple[int, int, int, int]  # x1, y1, x2, y2 px of the new picture; what lies outside is not seen


def paint(views: Sequence[View], image: np.ndarray, pad: int) -> None:
    """Pixels of the views into their windows of ``image`` (H, W, 3) uint8. Other threads can run meanwhile."""
    for sample, matrix, (x1, y1, x2, y2) in views:
        # Pixel i covers i..i+1, OpenCV's pixel i lies at i: shift by half a pixel on both sides.
        pixels = matrix.copy()
        pixels[:, 2] += matrix[:, :2].sum(1) / 2 - (x1 + 0.5, y1 + 0.5)
        cv2.warpAffine(
            sample.image, pixels, (x2 - x1, y2 - y1), dst=image[y1:y2, x1:x2],
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(pad, pad, pad),
        )  # fmt: skip


def seen(views: Sequence[View], swap: np.ndarray) -> tuple[PersonLabels, np.ndarray]:
    """People of the views, of one picture or of many, as they are seen there; and of which view each is, rising.

    swap: (K,) where each keypoint's name comes from when a map mirrors, else ignored. What leaves a window: keypoints
    become unlabelled, boxes are cut, people of whom next to nothing is left go.
    """
    # All at once: what numpy takes for a call is more than what it takes for a few people.
    people = joined([view.sample.people for view in views])
    numbers = np.repeat(np.arange(len(views)), [len(view.sample) for view in views])
    matrices = np.stack([view.matrix for view in views])[numbers]
    keypoints = move_keypoints(people.keypoints, matrices, swap)
    boxes = move_boxes(people.boxes, matrices, keypoints)
    areas = (people.areas * abs(_determinant(matrices))).astype(np.float32)
    moved = PersonLabels(boxes, keypoints, areas, people.labels, people.crowd)
    cut, stay = cropped(moved, np.array([view.window for view in views])[numbers])
    return cut, numbers[stay]


def move_keypoints(keypoints: np.ndarray, matrix: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """(n, K, 3) under one map (2, 3), or one for each (n, 2, 3); a mirror exchanges left and right."""
    moved = keypoints.copy()
    moved[..., :2] = keypoints[..., :2] @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]
    return np.where((_determinant(matrix) < 0)[..., None, None], moved[:, swap], moved)


def _determinant(matrix: np.ndarray) -> np.ndarray:
    """Of the linear part of maps (..., 2, 3): below 0 for mirrors, its size is how much areas grow."""
    return np.asarray(matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0])


def move_boxes(boxes: np.ndarray, matrix: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """(n, 4) xyxy -> boxes of what was in them; matrix as for keypoints.

    The corners of a turned box would make it too large: a person fills it like an ellipse rather than to its corners.
    The moved keypoints (n, K, 3) are included all the same.
    """
    corners = boxes.astype(np.float64).reshape(-1, 2, 2)
    middle, half = corners.mean(1, keepdims=True), (corners[:, 1:] - corners[:, :1]) / 2
    linear = np.swapaxes(matrix[..., :2], -1, -2)
    centres = (middle @ linear)[:, 0] + matrix[..., 2]
    reach = np.sqrt(half**2 @ linear**2)[:, 0]
    low, high = centres - reach, centres + reach
    labelled = keypoints[..., 2:] > 0
    points = keypoints[..., :2]
    low = np.minimum(low, np.where(labelled, points, np.inf).min(1, initial=np.inf))
    high = np.maximum(high, np.where(labelled, points, -np.inf).max(1, initial=-np.inf))
    return np.concatenate([low, high], axis=1).astype(np.float32)


def cropped(people: PersonLabels, window: npt.ArrayLike) -> tuple[PersonLabels, np.ndarray]:
    """What of them lies in ``window``, and (n,) who is still there at all.

    window: x1, y1, x2, y2 px, for all (4,) or for each person (n, 4).
    """
    low, high = np.split(np.asarray(window, np.float32), 2, axis=-1)
    boxes = np.concatenate([people.boxes[:, :2].clip(low, high), people.boxes[:, 2:].clip(low, high)], axis=1)
    sides, whole = boxes[:, 2:] - boxes[:, :2], people.boxes[:, 2:] - people.boxes[:, :2]
    enough = (sides.prod(1) >= LEAST_SHARE * whole.prod(1)) | people.crowd  # any piece of a crowd is to be left alone
    keep = (sides.min(1, initial=np.inf) >= LEAST_SIDE) & enough
    points = people.keypoints[..., :2]
    inside = ((points >= low[..., None, :]) & (points < high[..., None, :])).all(-1) & (people.keypoints[..., 2] > 0)
    keypoints = np.where(inside[..., None], people.keypoints, np.float32(0))
    cut = PersonLabels(boxes, keypoints, people.areas, people.labels, people.crowd)
    return PersonLabels(*(part[keep] for part in cut)), keep


JUNCTION = (0.3, 0.7)  # where the four pictures of a mosaic meet, share of the side
NO_PICTURE = np.empty((0, 0, 3), np.uint8)
FOUND = 0.8  # share of windows that look at a person, where there is one


@dataclass(frozen=True)
class AugmentSettings:
    """Probabilities and ranges. Sizes are relative to the letterboxed picture at the network's input size."""

    size: int = 640  # px, the network's square input: what a picture is letterboxed to
    window: int | None = None  # px, side of what the network sees while training; None: the whole picture
    mosaic: float = 1.0  # probability of four pictures in one
    mosaic_scale: float = 0.5  # pictures in a mosaic are this much smaller
    mixup: float = 0.0  # probability of blending two
    scale: tuple[float, float] = (0.5, 1.5)
    degrees: float = 10.0  # rotation, largest
    translate: float = 0.1  # of the side, largest
    mirror: float = 0.5  # probability
    hsv: tuple[float, float, float] = (0.015, 0.7, 0.4)  # largest: turn of hue in circles, changes in shares
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
        """Pixels of the square that the network sees while training."""
        return self.window or self.size


class Drawn(NamedTuple):
    """All that chance decides about one picture."""

    views: tuple[View, ...]
    blended: tuple[View, ...]  # of the picture that is mixed in; mostly none
    share: float  # of the first
    colours: np.ndarray | None  # (3, 3), see ``shift_colours``

    @property
    def name(self) -> str:
        return "+".join(view.sample.name for view in (*self.views, *self.blended))

    def without_pictures(self) -> Drawn:
        """For ``Augment.people`` alone; what was painted already need not be held."""
        views, blended = (
            tuple(view._replace(sample=replace(view.sample, image=NO_PICTURE)) for view in some)
            for some in (self.views, self.blended)
        )
        return self._replace(views=views, blended=blended)


class Augment:
    """Makes training samples of ``settings.side`` pixels square out of a source.

    In three parts, so that a batch takes little time: chance first, in Python; pixels, which threads can share; people
    of all pictures at once.
    """

    def __init__(self, source: Source, settings: AugmentSettings) -> None:
        self.source, self.settings = source, settings
        self.swap = np.arange(source.skeleton.num_keypoints)
        for a, b in source.skeleton.flip_pairs:
            self.swap[[a, b]] = b, a

    def __call__(self, index: int, rng: np.random.Generator) -> Sample:
        """Raises what the source raises for any picture that takes part: DamagedImage."""
        drawn = self.draw(index, rng)
        image = np.empty((self.settings.side, self.settings.side, 3), np.uint8)
        self.paint(drawn, image)
        return Sample(image, *self.people([drawn])[0], name=drawn.name)

    def draw(self, index: int, rng: np.random.Generator) -> Drawn:
        """Raises as ``__call__``."""
        views, share = self._views(index, rng), 1.0
        blended: tuple[View, ...] = ()
        if rng.random() < self.settings.mixup:
            blended = self._views(self._any(rng), rng)
            share = rng.beta(8, 8)  # mostly about a half, as in YOLOX
        colours = draw_colours(self.settings.hsv, rng) if any(self.settings.hsv) else None
        return Drawn(views, blended, share, colours)

    def paint(self, drawn: Drawn, out: np.ndarray) -> None:
        """Pixels into ``out`` (side, side, 3) uint8."""
        made = out if drawn.colours is None else np.empty_like(out)
        paint(drawn.views, made, self.settings.pad)
        if drawn.blended:
            other = np.empty_like(out)
            paint(drawn.blended, other, self.settings.pad)
            made[:] = (made * drawn.share + other * (1 - drawn.share)).round()
        if drawn.colours is not None:
            shift_colours(made, drawn.colours, out)

    def people(self, several: Sequence[Drawn]) -> tuple[PersonLabels, np.ndarray]:
        """Of all pictures, one after the other; and (n,) in which picture each is."""
        views = [(*drawn.views, *drawn.blended) for drawn in several]
        people, view = seen([view for some in views for view in some], self.swap)
        return people, np.repeat(np.arange(len(views)), [len(some) for some in views])[view]

    def _any(self, rng: np.random.Generator) -> int:
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
                sample = self.source[index if not tiles else self._any(rng)]
                about = _point_of_interest(sample, rng)
                tiles.append(self._view(sample, about, (left, top, right, bottom), self.settings.mosaic_scale, rng))
        return tuple(tiles)

    def _view(
        self, sample: Sample, about: Point, window: tuple[int, int, int, int], smaller: float, rng: np.random.Generator
    ) -> View:
        """``about`` (a point of the picture) near the middle of the window, turned and scaled."""
        # Plain numbers: an array of two costs more than what is done to them, and there are hundreds a batch.
        settings = self.settings
        u, turn, x, y, mirror = rng.random(5).tolist()
        least, most = settings.scale
        # Evenly in the logarithm: as often half as large as twice.
        scale = smaller * settings.size / max(sample.image.shape[:2]) * least * (most / least) ** u
        left, top, right, bottom = window
        x, y = (0.5 + (2 * share - 1) * settings.translate for share in (x, y))
        middle = left + (right - left) * x, top + (bottom - top) * y
        matrix = affine(scale, (2 * turn - 1) * settings.degrees, mirror < settings.mirror, about, middle)
        return View(sample, matrix, window)


def _middle(sample: Sample) -> Point:
    height, width = sample.image.shape[:2]
    return width / 2, height / 2


def _point_of_interest(sample: Sample, rng: np.random.Generator) -> Point:
    """The middle of some person mostly, else any point of the picture."""
    found, x, y = rng.random(3).tolist()
    if found < FOUND and len(sample):
        left, top, right, bottom = sample.boxes[int(x * len(sample))].tolist()
        return (left + right) / 2, (top + bottom) / 2
    height, width = sample.image.shape[:2]
    return (0.25 + 0.5 * x) * width, (0.25 + 0.5 * y) * height
