"""Small labeled images and a source of them, for tests of augmentation, batches and loader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from yolopose.data.batch import People, as_nchw, empty_images, padded
from yolopose.data.sample import DamagedImage, Sample, joined
from yolopose.runtime.skeleton import Skeleton, generic_skeleton

FOUR = generic_skeleton(4, ("nose", "left_eye", "right_eye", "neck"), ((1, 2),))


def sample_of(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    keypoints: np.ndarray,
    crowd: Sequence[bool] = (),
    label: int = 0,
) -> Sample:
    """A sample with read-only arrays, as those of a source."""
    n = len(boxes)
    corners = np.array(boxes, np.float32).reshape(n, 4)
    areas = (corners[:, 2:] - corners[:, :2]).prod(1) / 2
    sample = Sample(
        image, corners, keypoints.astype(np.float32), areas.astype(np.float32),
        np.full(n, label, np.int64), np.array(crowd or [False] * n, np.bool_), f"image {label}",
    )  # fmt: skip
    for array in (sample.image, sample.boxes, sample.keypoints, sample.areas, sample.labels, sample.crowd):
        array.flags.writeable = False
    return sample


class NoiseImages:
    """A source of noise images whose sizes and people depend on the index; those in ``damaged`` cannot be used."""

    def __init__(
        self, count: int, skeleton: Skeleton = FOUR, most: int = 3, crowd: float = 0.1, damaged: Sequence[int] = ()
    ) -> None:
        self.skeleton, self.classes = skeleton, ("person",)
        self._count, self._damaged = count, set(damaged)
        self.accessed: list[int] = []
        self._samples = [self._make(index, most, crowd) for index in range(count)]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        self.accessed.append(index)
        if index in self._damaged:
            raise DamagedImage(f"{index}.png", "is damaged")
        return self._samples[index]

    def _make(self, index: int, most: int, crowd: float) -> Sample:
        rng = np.random.default_rng(index)
        width, height = rng.integers(40, 90, 2)
        n = int(rng.integers(most + 1))
        low = rng.uniform(0, 0.6, (n, 2)) * (width, height)
        high = low + rng.uniform(0.1, 0.4, (n, 2)) * (width, height)
        k = self.skeleton.num_keypoints
        keypoints = np.zeros((n, k, 3))
        keypoints[..., 2] = rng.integers(0, 3, (n, k))
        keypoints[..., :2] = rng.uniform(low[:, None], high[:, None], (n, k, 2)) * (keypoints[..., 2:] > 0)
        region = rng.random(n) < crowd
        keypoints[region] = 0
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        return sample_of(image, np.hstack([low, high]).tolist(), keypoints, region.tolist())


def assert_contract(sample: Sample, side_wh: tuple[int, int], k: int) -> None:
    """Check dtype, shape and range of every field of an augmented sample."""
    n = len(sample)
    assert (sample.image.shape, sample.image.dtype) == ((side_wh[1], side_wh[0], 3), np.uint8)
    assert (sample.boxes.shape, sample.boxes.dtype) == ((n, 4), np.float32)
    assert (sample.keypoints.shape, sample.keypoints.dtype) == ((n, k, 3), np.float32)
    assert (sample.areas.shape, sample.areas.dtype) == ((n,), np.float32)
    assert (sample.labels.shape, sample.labels.dtype) == ((n,), np.int64)
    assert (sample.crowd.shape, sample.crowd.dtype) == ((n,), np.bool_)
    assert (sample.boxes >= 0).all()
    assert (sample.boxes[:, 2:] <= side_wh).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    labeled = sample.keypoints[..., 2] > 0
    assert not sample.keypoints[~labeled].any()
    assert (sample.keypoints[labeled][:, :2] >= 0).all()
    assert (sample.keypoints[labeled][:, :2] <= side_wh).all()
    assert np.isfinite(sample.keypoints).all()
    assert (sample.areas > 0).all()


def assert_same(a: Sample, b: Sample) -> None:
    for name in ("image", "boxes", "keypoints", "areas", "labels", "crowd"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.name == b.name


def collate(samples: Sequence[Sample]) -> tuple[Tensor, People]:
    """Samples with one image size -> images and padded people."""
    images = empty_images(len(samples), samples[0].image.shape)
    np.stack([sample.image for sample in samples], out=images.numpy())
    image_index = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
    return as_nchw(images), padded(joined([sample.people for sample in samples]), image_index, len(samples))
