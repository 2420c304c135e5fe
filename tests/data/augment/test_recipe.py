"""The recipe: sizes, mosaic, mixing, window; equal generators give equal samples, sources stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.data.augment import Augment, AugmentSettings
from yolopose.data.sample import DamagedImage, Sample
from yolopose.runtime.skeleton import COCO_17, generic_skeleton

from ..pictures import FOUR, Pictures, assert_contract, assert_same, sample_of

PLAIN: dict[str, Any] = {"mosaic": 0.0, "mirror": 0.0, "degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
NO_COLOUR = {"hsv": (0.0, 0.0, 0.0)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 19), st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 180),
    st.sampled_from([None, 32, 64]), st.sampled_from([1, 4, 17]),
)  # fmt: skip
def test_contract(
    index: int, seed: int, mosaic: float, mixup: float, degrees: float, window: int | None, k: int
) -> None:
    skeleton = {1: generic_skeleton(1), 4: FOUR, 17: COCO_17}[k]
    chosen = AugmentSettings(size=64, window=window, mosaic=mosaic, mixup=mixup, degrees=degrees)
    augment = Augment(Pictures(20, skeleton), chosen)
    sample = augment(index, rng(seed))
    assert_contract(sample, (chosen.side, chosen.side), k)
    assert sample.image.flags.writeable
    assert_same(sample, augment(index, rng(seed)))


@pytest.mark.parametrize("most", [0, 1])
def test_nobody_and_crowds(most: int) -> None:
    augment = Augment(Pictures(6, most=most, crowd=1), AugmentSettings(size=64, mixup=0.5))
    samples = [augment(index, rng(index)) for index in range(6)]
    for sample in samples:
        assert_contract(sample, (64, 64), 4)
        assert sample.crowd.all()
    assert any(map(len, samples)) == bool(most)


def test_sources_stay_as_they_are() -> None:
    source, same = Pictures(6), Pictures(6)
    augment = Augment(source, AugmentSettings(size=64, mixup=0.5))
    for index in range(6):
        made = augment(index, rng(index))
        for array in (made.image, made.boxes, made.keypoints, made.areas):
            array += 1
    for index in range(6):
        assert_same(source[index], same[index])


def test_other_generators_give_other_samples() -> None:
    augment = Augment(Pictures(6), AugmentSettings(size=64))
    assert not np.array_equal(augment(0, rng(0)).image, augment(0, rng(1)).image)


class Given:
    """A source of given samples."""

    skeleton, classes = FOUR, ("person",)

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


COLOURS = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200))


def coloured(index: int) -> Sample:
    """All of one colour, people all over it."""
    image = np.full((70, 80, 3), COLOURS[index], np.uint8)
    x, y = np.meshgrid(np.arange(5, 80, 10), np.arange(5, 70, 10))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2)], axis=1)[:56].reshape(14, 4, 3)
    boxes = [[5 * i, 4 * i, 5 * i + 12, 4 * i + 12] for i in range(14)]
    return sample_of(image, boxes, points, label=index)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_people_of_a_mosaic_stay_on_their_own_tiles(seed: int, index: int) -> None:
    chosen = AugmentSettings(size=96, pad=0, degrees=30, **NO_COLOUR)
    sample = Augment(Given(*map(coloured, range(5))), chosen)(index, rng(seed))
    assert sample.name.count("+") == 3
    assert sample.name.split("+")[0] == f"picture {index}"
    assert_contract(sample, (96, 96), 4)
    for box, keypoints, label in zip(sample.boxes, sample.keypoints, sample.labels, strict=True):
        own = np.array(COLOURS[label]) > 0
        x1, y1, x2, y2 = np.concatenate([np.ceil(box[:2]), np.floor(box[2:])]).astype(int)
        found = sample.image[y1:y2, x1:x2].reshape(-1, 3) > 0
        assert ((found == own).all(1) | ~found.any(1)).all()  # its own colour or padding
        for x, y, v in keypoints:
            if v:
                pixel = sample.image[min(int(y), 95), min(int(x), 95)] > 0
                assert (pixel == own).all() or not pixel.any()


def test_tiles_of_a_mosaic_fill_it() -> None:
    """Pictures without people, much enlarged: no padding, and all four meet between 0.3 and 0.7 of the side."""
    empty = [sample_of(np.full((70, 80, 3), c, np.uint8), [], np.zeros((0, 4, 3))) for c in COLOURS[:3]]
    chosen = AugmentSettings(size=96, pad=0, scale=(5, 5), **NO_COLOUR)
    for seed in range(10):
        image = Augment(Given(*empty), chosen)(0, rng(seed)).image
        assert image.any(-1).all()
        assert (image[:28, :28] == COLOURS[0]).all()


def test_mixing_joins_two() -> None:
    dark = sample_of(np.full((64, 64, 3), 0, np.uint8), [[10, 10, 50, 50]], np.zeros((1, 4, 3)))
    bright = sample_of(np.full((64, 64, 3), 200, np.uint8), [[10, 10, 50, 50]] * 2, np.zeros((2, 4, 3)))
    augment = Augment(Given(dark, bright), AugmentSettings(size=64, mixup=1.0, **PLAIN, **NO_COLOUR))
    counts = set()
    for seed in range(20):
        sample = augment(0, rng(seed))
        counts.add(len(sample))
        level = int(sample.image.max())
        assert sample.image.min() == level
        assert level == 0 if len(sample) == 2 else 20 < level < 180  # mostly about a half
    assert counts == {2, 3}


def test_plain_settings_letterbox() -> None:
    """Without chance the picture is letterboxed: long side to the input size, centred."""
    keypoints = np.array([[[20, 10, 2], [30, 15, 1], [0, 0, 0], [79, 39, 2]]])
    sample = sample_of(np.full((40, 80, 3), 200, np.uint8), [[10, 5, 50, 30]], keypoints)
    made = Augment(Given(sample), AugmentSettings(size=160, **PLAIN, **NO_COLOUR))(0, rng())
    assert (made.image[:39] == 114).all()
    assert (made.image[41:119, 1:-1] == 200).all()
    assert (made.image[121:] == 114).all()
    np.testing.assert_allclose(made.boxes, [[20, 50, 158, 118]])  # widened to hold the last keypoint
    np.testing.assert_allclose(made.keypoints[0], [[40, 60, 2], [60, 70, 1], [0, 0, 0], [158, 118, 2]])


def test_a_window_looks_at_people_at_the_scale_of_the_whole() -> None:
    keypoints = np.array([[[300, 100, 2]] + [[0, 0, 0]] * 3])
    sample = sample_of(np.zeros((400, 800, 3), np.uint8), [[280, 80, 320, 120]], keypoints)
    augment = Augment(Given(sample), AugmentSettings(size=400, window=64, **PLAIN, **NO_COLOUR))
    made = [augment(0, rng(seed)) for seed in range(40)]
    assert all(one.image.shape == (64, 64, 3) for one in made)
    centred = [one for one in made if len(one) and np.allclose(one.boxes, [[22, 22, 42, 42]], atol=1e-3)]
    assert len(centred) >= 24  # four of five, and chance
    np.testing.assert_allclose(centred[0].keypoints[0, 0], [32, 32, 2], atol=1e-3)


@pytest.mark.parametrize(("scale", "expected"), [((0.5, 0.5), 50), ((2.0, 2.0), 200)])
def test_scale(scale: tuple[float, float], expected: float) -> None:
    sample = sample_of(np.zeros((400, 400, 3), np.uint8), [[150, 150, 250, 250]], np.zeros((1, 4, 3)))
    chosen = AugmentSettings(size=400, **{**PLAIN, "scale": scale}, **NO_COLOUR)
    made = Augment(Given(sample), chosen)(0, rng())
    np.testing.assert_allclose(made.boxes[0, 2] - made.boxes[0, 0], expected, rtol=1e-5)


def test_a_damaged_picture_is_the_callers_affair() -> None:
    with pytest.raises(DamagedImage):
        Augment(Pictures(1, damaged=[0]), AugmentSettings(size=64))(0, rng())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mosaic": 1.1}, {"mixup": -0.1}, {"mirror": float("nan")}, {"scale": (0, 1)}, {"scale": (2, 1)},
        {"window": 16}, {"window": 641}, {"scale": (1, 11)},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentSettings(**wrong)
