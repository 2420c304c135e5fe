"""Training batches as tensors. People are padded to the same number per image, so that a loss needs no loop."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .sample import PersonLabels


class People(NamedTuple):
    """Labels of B images with at most G people each.

    A row is a person to learn (valid), a crowd region that losses leave out (ignore), or padding (all zeros).
    """

    boxes: Tensor  # (B, G, 4) float32 xyxy px
    keypoints: Tensor  # (B, G, K, 2) float32 px; 0 where not labeled
    visible: Tensor  # (B, G, K) bool: labeled, whether in sight or hidden (YOLO-Pose paper, section 3.4)
    areas: Tensor  # (B, G) float32 px^2
    labels: Tensor  # (B, G) int64
    valid: Tensor  # (B, G) bool
    ignore: Tensor  # (B, G) bool: crowd

    def to(self, device: torch.device | str) -> People:
        return People(*(part.to(device, non_blocking=True) for part in self))

    def __reduce__(self) -> tuple[object, tuple[np.ndarray, ...]]:
        # Pickled as bytes between processes: PyTorch would open a shared memory file for each of these small tensors.
        return _people, tuple(part.numpy() for part in self)


def _people(*parts: np.ndarray) -> People:
    return People(*map(torch.from_numpy, parts))


class Batch(NamedTuple):
    """What the loader yields."""

    images: Tensor  # (B, 3, H, W) uint8 BGR, channels last in memory
    people: People
    damaged: list[str]  # "name: reason" of damaged images, which were replaced by others


def padded(people: PersonLabels, image_index: np.ndarray, count: int) -> People:
    """Arrange the n people of ``count`` images in rows; image_index: (n,) the image of each person, ascending."""
    people_per_image = np.bincount(image_index, minlength=count)
    row = np.arange(len(image_index)) - (people_per_image.cumsum() - people_per_image)[image_index]
    shape = (count, int(people_per_image.max(initial=0)))

    def pad(values: np.ndarray) -> np.ndarray:
        rows = np.zeros((*shape, *values.shape[1:]), values.dtype)
        rows[image_index, row] = values
        return rows

    visible = people.keypoints[..., 2] > 0
    keypoints = np.where(visible[..., None], people.keypoints[..., :2], np.float32(0))
    parts = (people.boxes, keypoints, visible, people.areas, people.labels, ~people.crowd, people.crowd)
    return _people(*map(pad, parts))


def empty_images(count: int, shape: tuple[int, ...]) -> Tensor:
    """Uninitialized (count, *shape) uint8; in a loader worker in shared memory, so that it is not copied later."""
    if get_worker_info() is None:
        return torch.empty((count, *shape), dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(count * int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(count, *shape)


def as_nchw(images: Tensor) -> Tensor:
    """(B, H, W, 3) -> a view (B, 3, H, W), channels last in memory."""
    return images.permute(0, 3, 1, 2)
