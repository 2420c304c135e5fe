"""Samples of one size as tensors: people padded to the same number, so that a loss needs no loop over pictures."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .sample import PersonLabels


class People(NamedTuple):
    """Labels of B pictures, at most G a picture. A row is a person to learn (valid), a region to leave alone (ignore),
    or padding of zeros."""

    boxes: Tensor  # (B, G, 4) float32 xyxy px
    keypoints: Tensor  # (B, G, K, 2) float32 px; 0 where not labelled
    visible: Tensor  # (B, G, K) bool: labelled, in sight or not (paper, section 3.4)
    areas: Tensor  # (B, G) float32 px^2
    labels: Tensor  # (B, G) int64
    valid: Tensor  # (B, G) bool
    ignore: Tensor  # (B, G) bool: crowd

    def to(self, device: torch.device | str) -> People:
        return People(*(part.to(device, non_blocking=True) for part in self))

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes as plain bytes: PyTorch would open a shared file for each of these small tensors.
        return _people, tuple(part.numpy() for part in self)


def _people(*parts: np.ndarray) -> People:
    return People(*map(torch.from_numpy, parts))


class Batch(NamedTuple):
    """What the loader gives."""

    images: Tensor  # (B, 3, H, W) uint8 BGR, channels last in memory
    people: People
    damaged: list[str]  # pictures that could not be used; others stand in for them


def padded(people: PersonLabels, picture: np.ndarray, count: int) -> People:
    """picture: (n,) in which of ``count`` pictures each of the people is, rising."""
    people_in = np.bincount(picture, minlength=count)
    row = np.arange(len(picture)) - (people_in.cumsum() - people_in)[picture]
    shape = (count, int(people_in.max(initial=0)))

    def spread(values: np.ndarray) -> np.ndarray:
        made = np.zeros((*shape, *values.shape[1:]), values.dtype)
        made[picture, row] = values
        return made

    visible = people.keypoints[..., 2] > 0
    keypoints = np.where(visible[..., None], people.keypoints[..., :2], np.float32(0))
    parts = (people.boxes, keypoints, visible, people.areas, people.labels, ~people.crowd, people.crowd)
    return _people(*map(spread, parts))


def empty_pictures(count: int, shape: tuple[int, ...]) -> Tensor:
    """(count, *shape) uint8 to be filled."""
    if get_worker_info() is None:
        return torch.empty((count, *shape), dtype=torch.uint8)
    # Where the other process will read it, so that it is not copied there.
    storage = torch.UntypedStorage._new_shared(count * int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(count, *shape)


def as_images(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W), channels last in memory."""
    return pictures.permute(0, 3, 1, 2)
