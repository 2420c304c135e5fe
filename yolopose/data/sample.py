"""One labeled image (`Sample`) and the interface of everything that provides labeled images (`Source`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from yolopose.runtime.skeleton import Skeleton


class PersonLabels(NamedTuple):
    """Labels of n people; dtypes and units as in `Sample`."""

    boxes: np.ndarray
    keypoints: np.ndarray
    areas: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray


def joined(parts: Sequence[PersonLabels]) -> PersonLabels:
    """Concatenate the people of several images."""
    return PersonLabels(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Sample:
    """An image and its n people. Coordinates are in pixels; pixel i covers i..i+1."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    boxes: np.ndarray  # (n, 4) float32 xyxy
    keypoints: np.ndarray  # (n, K, 3) float32 x, y, v: 0 not labeled, 1 hidden, 2 visible
    areas: np.ndarray  # (n,) float32 px^2 of the person's silhouette, the scale of OKS
    labels: np.ndarray  # (n,) int64, index into the classes
    crowd: np.ndarray  # (n,) bool: a region with people who are not labeled one by one
    name: str  # for messages: a file name, or the scene

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def people(self) -> PersonLabels:
        return PersonLabels(self.boxes, self.keypoints, self.areas, self.labels, self.crowd)


class DamagedImage(Exception):
    """An image that cannot be used. Training replaces it and lists it at the end."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[DamagedImage], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # it may be raised in a worker process


class Source(Protocol):
    """A data set by index. Equal indices give equal samples in every process."""

    skeleton: Skeleton
    classes: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Raises DamagedImage."""
        ...
