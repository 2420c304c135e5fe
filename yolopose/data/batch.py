"""Samples of one size as tensors: people padded to the same number, so that a loss needs no loop over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .sample import Sample


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


def collate(samples: Sequence[Sample], num_keypoints: int) -> tuple[Tensor, People]:
    """Samples of one picture size -> images and padded people."""
    most = max((len(sample) for sample in samples), default=0)
    shape = (len(samples), most)
    boxes = np.zeros((*shape, 4), np.float32)
    keypoints = np.zeros((*shape, num_keypoints, 2), np.float32)
    visible = np.zeros((*shape, num_keypoints), bool)
    areas = np.zeros(shape, np.float32)
    labels = np.zeros(shape, np.int64)
    valid, ignore = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, sample in enumerate(samples):
        n = len(sample)
        seen = sample.keypoints[..., 2] > 0
        boxes[row, :n], areas[row, :n], labels[row, :n] = sample.boxes, sample.areas, sample.labels
        visible[row, :n] = seen
        keypoints[row, :n] = np.where(seen[..., None], sample.keypoints[..., :2], 0)
        valid[row, :n], ignore[row, :n] = ~sample.crowd, sample.crowd
    return _stacked([sample.image for sample in samples]), _people(
        boxes, keypoints, visible, areas, labels, valid, ignore
    )


def _stacked(images: Sequence[np.ndarray]) -> Tensor:
    shape = (len(images), *images[0].shape)
    if get_worker_info() is None:
        stacked = torch.empty(shape, dtype=torch.uint8)
    else:  # where the other process will read it, so that it is not copied there
        size = int(np.prod(shape))
        stacked = torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size)).view(shape)
    np.stack(images, out=stacked.numpy())
    return stacked.permute(0, 3, 1, 2)
