"""What is done to a sample before the network sees it, drawn from a random generator of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..sample import PersonLabels, Sample, Source
from .colour import draw_colours, shift_colours
from .geometry import Point, View, affine, paint, seen

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
