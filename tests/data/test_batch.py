"""People and batches as tensors: padding, masks, unlabeled keypoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from yolopose.data.sample import Sample

from .images import NoiseImages, collate, sample_of


def same_size(*people: int) -> list[Sample]:
    source = NoiseImages(40, crowd=0.5)
    found = []
    for count in people:
        sample = next(sample for sample in (source[i] for i in range(40)) if len(sample) == count)
        image = np.full((6, 8, 3), count, np.uint8)
        found.append(replace(sample, image=image))
    return found


def test_rows_are_people_or_padding() -> None:
    samples = same_size(2, 0, 3)
    images, people = collate(samples)
    assert (images.shape, images.dtype) == ((3, 3, 6, 8), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[:, 0, 0, 0].tolist() == [2, 0, 3]
    for row, sample in enumerate(samples):
        n = len(sample)
        np.testing.assert_array_equal(people.boxes[row, :n], sample.boxes)
        np.testing.assert_array_equal(people.areas[row, :n], sample.areas)
        np.testing.assert_array_equal(people.keypoints[row, :n], sample.keypoints[..., :2])
        np.testing.assert_array_equal(people.visible[row, :n], sample.keypoints[..., 2] > 0)
        np.testing.assert_array_equal(people.valid[row, :n], ~sample.crowd)
        np.testing.assert_array_equal(people.ignore[row, :n], sample.crowd)
        assert not any(part[row, n:].any() for part in people)
    types = [part.dtype for part in people]
    assert types == [torch.float32, torch.float32, torch.bool, torch.float32, torch.int64, torch.bool, torch.bool]


@pytest.mark.parametrize("k", [1, 17])
def test_images_without_people(k: int) -> None:
    empty = sample_of(np.zeros((4, 4, 3), np.uint8), [], np.zeros((0, k, 3)))
    _, people = collate([empty, empty])
    assert [tuple(part.shape) for part in people] == [
        (2, 0, 4), (2, 0, k, 2), (2, 0, k), (2, 0), (2, 0), (2, 0), (2, 0)
    ]  # fmt: skip


def test_unlabeled_keypoints_become_zero() -> None:
    keypoints = np.array([[[1, 2, 2], [np.nan, np.inf, 0], [7, 7, 0], [3, 4, 1]]])
    _, people = collate([sample_of(np.zeros((4, 4, 3), np.uint8), [[0, 0, 4, 4]], keypoints)])
    assert people.keypoints.tolist() == [[[[1, 2], [0, 0], [0, 0], [3, 4]]]]
    assert people.visible.tolist() == [[[True, False, False, True]]]


def test_batches_are_copies() -> None:
    sample = NoiseImages(4)[3]
    images, people = collate([sample])
    images += 1
    people.boxes.add_(1)
    np.testing.assert_array_equal(sample.image, NoiseImages(4)[3].image)


def test_to_device() -> None:
    _, people = collate([NoiseImages(4)[3]])
    assert all(a.dtype == b.dtype and a.shape == b.shape for a, b in zip(people, people.to("meta"), strict=True))
