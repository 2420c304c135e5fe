"""One labelled picture, and what gives such pictures: common ground of label formats, synthesis and augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from yolopose.runtime.skeleton import Skeleton


class PersonLabels(NamedTuple):
    """The arrays of a Sample, of n people."""

    boxes: np.ndarray
    keypoints: np.ndarray
    areas: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


def joined(several: Sequence[PersonLabels]) -> PersonLabels:
    """All of several pictures, one after the other."""
    return PersonLabels(*(np.concatenate(part) for part in zip(*several, strict=True)))


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture and its n people; coordinates in pixels, pixel i covers i..i+1."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    boxes: np.ndarray  # (n, 4) float32 xyxy
    keypoints: np.ndarray  # (n, K, 3) float32 x, y, v: 0 not labelled, 1 hidden, 2 visible
    areas: np.ndarray  # (n,) float32 px^2 of the person's silhouette, the scale of OKS
    labels: np.ndarray  # (n,) int64, index into the classes
    crowd: np.ndarray  # (n,) bool: a region with people who are not labelled one by one
    name: str  # for messages: a file name, or what made the picture

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def people(self) -> PersonLabels:
        return PersonLabels(self.boxes, self.keypoints, self.areas, self.labels, self.crowd)


class DamagedImage(Exception):
    """A picture that cannot be used; it is skipped and named at the end."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[DamagedImage], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # it may come from a worker process


class Source(Protocol):
    """A data set by index. Equal indices give equal samples, in whichever process."""

    skeleton: Skeleton
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises DamagedImage."""
        ...
