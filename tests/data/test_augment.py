"""Augmentation: settings and samples, then geometry (pixels and labels go through one map), then colors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from yolopose.data.augment import (
    MIN_SHARE,
    MIN_SIDE,
    Augment,
    AugmentSettings,
    View,
    affine,
    color_matrix,
    cropped,
    draw_colors,
    move_boxes,
    paint_views,
    people_in_views,
    shift_colors,
)
from yolopose.data.sample import DamagedImage, PersonLabels, Sample, joined
from yolopose.runtime.skeleton import COCO_17, generic_skeleton

from .images import FOUR, NoiseImages, assert_contract, assert_same, sample_of

PLAIN: dict[str, Any] = {"mosaic": 0.0, "mirror": 0.0, "degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
NO_COLOR = {"hsv": (0.0, 0.0, 0.0)}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 19), st.integers(0, 1000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 180),
    st.sampled_from([None, 32, 64]), st.sampled_from([1, 4, 17]),
)  # fmt: skip
def test_samples_are_as_documented(
    index: int, seed: int, mosaic: float, mixup: float, degrees: float, window: int | None, k: int
) -> None:
    skeleton = {1: generic_skeleton(1), 4: FOUR, 17: COCO_17}[k]
    chosen = AugmentSettings(size=64, window=window, mosaic=mosaic, mixup=mixup, degrees=degrees)
    augment = Augment(NoiseImages(20, skeleton), chosen)
    sample = augment(index, rng(seed))
    assert_contract(sample, (chosen.side, chosen.side), k)
    assert sample.image.flags.writeable
    assert_same(sample, augment(index, rng(seed)))


@pytest.mark.parametrize("most", [0, 1])
def test_no_people_and_crowds(most: int) -> None:
    augment = Augment(NoiseImages(6, most=most, crowd=1), AugmentSettings(size=64, mixup=0.5))
    samples = [augment(index, rng(index)) for index in range(6)]
    for sample in samples:
        assert_contract(sample, (64, 64), 4)
        assert sample.crowd.all()
    assert any(map(len, samples)) == bool(most)


def test_sources_are_not_changed() -> None:
    source, same = NoiseImages(6), NoiseImages(6)
    augment = Augment(source, AugmentSettings(size=64, mixup=0.5))
    for index in range(6):
        made = augment(index, rng(index))
        for array in (made.image, made.boxes, made.keypoints, made.areas):
            array += 1
    for index in range(6):
        assert_same(source[index], same[index])


def test_other_generators_give_other_samples() -> None:
    augment = Augment(NoiseImages(6), AugmentSettings(size=64))
    assert not np.array_equal(augment(0, rng(0)).image, augment(0, rng(1)).image)


class FixedSource:
    """A source of the given samples."""

    skeleton, classes = FOUR, ("person",)

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


COLORS = ((200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200))


def colored(index: int) -> Sample:
    """An image of one color with people everywhere."""
    image = np.full((70, 80, 3), COLORS[index], np.uint8)
    x, y = np.meshgrid(np.arange(5, 80, 10), np.arange(5, 70, 10))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 2)], axis=1)[:56].reshape(14, 4, 3)
    boxes = [[5 * i, 4 * i, 5 * i + 12, 4 * i + 12] for i in range(14)]
    return sample_of(image, boxes, points, label=index)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(0, 4))
def test_people_of_a_mosaic_stay_on_their_own_tiles(seed: int, index: int) -> None:
    chosen = AugmentSettings(size=96, pad=0, degrees=30, **NO_COLOR)
    sample = Augment(FixedSource(*map(colored, range(5))), chosen)(index, rng(seed))
    assert sample.name.count("+") == 3
    assert sample.name.split("+")[0] == f"image {index}"
    assert_contract(sample, (96, 96), 4)
    for box, keypoints, label in zip(sample.boxes, sample.keypoints, sample.labels, strict=True):
        own = np.array(COLORS[label]) > 0
        x1, y1, x2, y2 = np.concatenate([np.ceil(box[:2]), np.floor(box[2:])]).astype(int)
        found = sample.image[y1:y2, x1:x2].reshape(-1, 3) > 0
        assert ((found == own).all(1) | ~found.any(1)).all()  # its own color or padding
        for x, y, v in keypoints:
            if v:
                pixel = sample.image[min(int(y), 95), min(int(x), 95)] > 0
                assert (pixel == own).all() or not pixel.any()


def test_mosaic_tiles_fill_the_image() -> None:
    """Much enlarged images without people: no padding, and the tiles meet between 0.3 and 0.7 of the side."""
    empty = [sample_of(np.full((70, 80, 3), c, np.uint8), [], np.zeros((0, 4, 3))) for c in COLORS[:3]]
    chosen = AugmentSettings(size=96, pad=0, scale=(5, 5), **NO_COLOR)
    for seed in range(10):
        image = Augment(FixedSource(*empty), chosen)(0, rng(seed)).image
        assert image.any(-1).all()
        assert (image[:28, :28] == COLORS[0]).all()


def test_mixup_joins_two_images() -> None:
    dark = sample_of(np.full((64, 64, 3), 0, np.uint8), [[10, 10, 50, 50]], np.zeros((1, 4, 3)))
    bright = sample_of(np.full((64, 64, 3), 200, np.uint8), [[10, 10, 50, 50]] * 2, np.zeros((2, 4, 3)))
    augment = Augment(FixedSource(dark, bright), AugmentSettings(size=64, mixup=1.0, **PLAIN, **NO_COLOR))
    counts = set()
    for seed in range(20):
        sample = augment(0, rng(seed))
        counts.add(len(sample))
        level = int(sample.image.max())
        assert sample.image.min() == level
        assert level == 0 if len(sample) == 2 else 20 < level < 180  # mostly about a half
    assert counts == {2, 3}


def test_without_random_changes_images_are_letterboxed() -> None:
    """The long side becomes the input size, the image is centered."""
    keypoints = np.array([[[20, 10, 2], [30, 15, 1], [0, 0, 0], [79, 39, 2]]])
    sample = sample_of(np.full((40, 80, 3), 200, np.uint8), [[10, 5, 50, 30]], keypoints)
    made = Augment(FixedSource(sample), AugmentSettings(size=160, **PLAIN, **NO_COLOR))(0, rng())
    assert (made.image[:39] == 114).all()
    assert (made.image[41:119, 1:-1] == 200).all()
    assert (made.image[121:] == 114).all()
    np.testing.assert_allclose(made.boxes, [[20, 50, 158, 118]])  # widened to hold the last keypoint
    np.testing.assert_allclose(made.keypoints[0], [[40, 60, 2], [60, 70, 1], [0, 0, 0], [158, 118, 2]])


def test_windows_show_people_at_the_scale_of_the_whole_image() -> None:
    keypoints = np.array([[[300, 100, 2]] + [[0, 0, 0]] * 3])
    sample = sample_of(np.zeros((400, 800, 3), np.uint8), [[280, 80, 320, 120]], keypoints)
    augment = Augment(FixedSource(sample), AugmentSettings(size=400, window=64, **PLAIN, **NO_COLOR))
    made = [augment(0, rng(seed)) for seed in range(40)]
    assert all(one.image.shape == (64, 64, 3) for one in made)
    centered = [one for one in made if len(one) and np.allclose(one.boxes, [[22, 22, 42, 42]], atol=1e-3)]
    assert len(centered) >= 24  # four of five expected
    np.testing.assert_allclose(centered[0].keypoints[0, 0], [32, 32, 2], atol=1e-3)


@pytest.mark.parametrize(("scale", "expected"), [((0.5, 0.5), 50), ((2.0, 2.0), 200)])
def test_scale_range(scale: tuple[float, float], expected: float) -> None:
    sample = sample_of(np.zeros((400, 400, 3), np.uint8), [[150, 150, 250, 250]], np.zeros((1, 4, 3)))
    chosen = AugmentSettings(size=400, **{**PLAIN, "scale": scale}, **NO_COLOR)
    made = Augment(FixedSource(sample), chosen)(0, rng())
    np.testing.assert_allclose(made.boxes[0, 2] - made.boxes[0, 0], expected, rtol=1e-5)


def test_damaged_images_raise() -> None:
    with pytest.raises(DamagedImage):
        Augment(NoiseImages(1, damaged=[0]), AugmentSettings(size=64))(0, rng())


@pytest.mark.parametrize(
    "wrong",
    [
        {"mosaic": 1.1}, {"mixup": -0.1}, {"mirror": float("nan")}, {"scale": (0, 1)}, {"scale": (2, 1)},
        {"window": 16}, {"window": 641}, {"scale": (1, 11)},
    ],
)  # fmt: skip
def test_rejects_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentSettings(**wrong)


# Geometry

SWAP = np.array(FOUR.flip_index)
SIZE = (60, 50)
NOSE = np.array([[[0, 0, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]]], np.float32)


def warp(sample: Sample, matrix: np.ndarray, size_wh: tuple[int, int], pad: int, swap: np.ndarray) -> Sample:
    """The sample mapped by ``matrix`` into an image of ``size_wh``."""
    view = View(sample, matrix, (0, 0, *size_wh))
    image = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    paint_views([view], image, pad)
    people, views = people_in_views([view], swap)
    assert len(people.boxes) == len(views)
    assert not views.any()
    return Sample(image, *people, name=sample.name)


def cut_to(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    people, keep = cropped(sample.people, window)
    assert np.count_nonzero(keep) == len(people.boxes)
    return Sample(sample.image, *people, name=sample.name)


scales = st.floats(0.5, 2)
angles = st.floats(-180, 180)


def with_dots(*dots: tuple[int, int]) -> Sample:
    """A dark image; keypoint k is in the middle of a bright spot of 5 x 5 px around pixel ``dots[k]``."""
    image = np.zeros((50, 60, 3), np.uint8)
    keypoints = np.zeros((1, 4, 3))
    for k, (column, row) in enumerate(dots):
        image[row - 2 : row + 3, column - 2 : column + 3] = 80 * (k + 1)
        keypoints[0, k] = column + 0.5, row + 0.5, 2
    return sample_of(image, [[0, 0, 60, 50]], keypoints)


def center_of(image: np.ndarray) -> np.ndarray:
    """Center of brightness, in coordinates in which pixel i covers i..i+1."""
    rows, columns = np.indices(image.shape[:2])
    weight = image[..., 0].astype(float)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum() + 0.5


@settings(deadline=None)
@given(st.integers(3, 56), st.integers(3, 46), scales, angles, st.booleans(), st.tuples(*[st.floats(20, 60)] * 2))
def test_a_dot_and_its_keypoint_move_together(
    column: int, row: int, scale: float, degrees: float, mirror: bool, target: tuple[float, float]
) -> None:
    sample = with_dots((column, row))
    matrix = affine(scale, degrees, mirror, (30, 25), target)
    warped = warp(sample, matrix, (80, 90), 0, SWAP)
    assume(len(warped))
    x, y, v = warped.keypoints[0, 0]
    assume(v > 0 and 9 < x < 71 and 9 < y < 81)
    # Interpolation shifts the center of five pixels sampled at three places: by up to 0.203 px at scale 0.6, 0.12 px
    # above 0.75 (40,000 random maps). A wrong pixel convention would shift it by 0.5 px at scale 2.
    np.testing.assert_allclose(center_of(warped.image), (x, y), atol=0.25 if scale < 0.75 else 0.15)
    np.testing.assert_allclose(matrix[:, :2] @ (column + 0.5, row + 0.5) + matrix[:, 2], (x, y), atol=1e-4)


def test_affine_maps_computed_by_hand() -> None:
    np.testing.assert_allclose(affine(2, 0, False, (10, 20), (100, 200)) @ (11, 22, 1), (102, 204))
    np.testing.assert_allclose(affine(1, 0, True, (10, 20), (10, 20)) @ (12, 25, 1), (8, 25))
    np.testing.assert_allclose(affine(1, 90, False, (0, 0), (5, 5)) @ (1, 0, 1), (5, 6))  # x becomes y: clockwise
    np.testing.assert_allclose(affine(3, 25, True, (7, 8), (50, 60)) @ (7, 8, 1), (50, 60))


def test_mirroring_exchanges_left_and_right() -> None:
    sample = with_dots((10, 10), (40, 20))
    warped = warp(sample, affine(1, 0, True, (30, 25), (30, 25)), SIZE, 0, SWAP)
    np.testing.assert_array_equal(warped.image, sample.image[:, ::-1])
    np.testing.assert_allclose(warped.keypoints[0, :3], [[49.5, 10.5, 2], [0, 0, 0], [19.5, 20.5, 2]])


@settings(deadline=None)
@given(st.integers(0, 100))
def test_mirroring_twice_is_the_identity(index: int) -> None:
    sample = NoiseImages(index + 1)[index]
    height, width = sample.image.shape[:2]
    mirror = affine(1, 0, True, (width / 2, height / 2), (width / 2, height / 2))
    once = warp(sample, mirror, (width, height), 0, SWAP)
    twice = warp(once, mirror, (width, height), 0, SWAP)
    np.testing.assert_array_equal(twice.image, sample.image)
    for name in ("boxes", "keypoints", "areas", "crowd"):
        np.testing.assert_allclose(getattr(twice, name), getattr(sample, name), atol=1e-4)


@settings(deadline=None)
@given(st.integers(0, 30), scales, angles, st.booleans(), st.tuples(*[st.floats(-40, 140)] * 2))
def test_any_map_gives_valid_labels(
    index: int, scale: float, degrees: float, mirror: bool, target: tuple[float, float]
) -> None:
    """Also for people outside the image, no people, crowds and read-only arrays."""
    sample = NoiseImages(index + 1, crowd=0.4)[index]
    warped = warp(sample, affine(scale, degrees, mirror, (30, 30), target), (70, 64), 114, SWAP)
    assert_contract(warped, (70, 64), 4)
    assert len(warped) <= len(sample)


def test_areas_scale_with_the_image() -> None:
    sample = with_dots((30, 25))
    for mirror in (False, True):
        warped = warp(sample, affine(1.5, 30, mirror, (30, 25), (60, 60)), (120, 120), 0, SWAP)
        np.testing.assert_allclose(warped.areas, sample.areas * 1.5**2, rtol=1e-5)


@settings(deadline=None)
@given(scales, angles, st.booleans())
def test_moved_boxes_enclose_the_ellipse_and_the_keypoints(scale: float, degrees: float, mirror: bool) -> None:
    """Tight around the moved ellipse that touches the sides of the box, and around keypoints in its corners."""
    matrix = affine(scale, degrees, mirror, (30, 25), (200, 200))
    round_ = np.linspace(0, 2 * np.pi, 721)
    ellipse = np.stack([30 + 20 * np.cos(round_), 25 + 10 * np.sin(round_)], axis=1) @ matrix[:, :2].T + matrix[:, 2]
    box = np.array([[10, 15, 50, 35]], np.float32)
    found = move_boxes(box, matrix, np.zeros((1, 4, 3)))
    np.testing.assert_allclose(found[0], [*ellipse.min(0), *ellipse.max(0)], atol=0.01)
    corners = np.array([[10, 15], [50, 15], [10, 35], [50, 35]]) @ matrix[:, :2].T + matrix[:, 2]
    points = np.concatenate([corners, np.full((4, 1), 2)], axis=1)[None]
    np.testing.assert_allclose(move_boxes(box, matrix, points)[0], [*corners.min(0), *corners.max(0)], atol=0.01)


def test_without_rotation_boxes_are_exact() -> None:
    box = np.array([[10, 15, 50, 35]], np.float32)
    found = move_boxes(box, affine(2, 0, True, (0, 0), (100, 0)), np.zeros((1, 4, 3)))
    np.testing.assert_allclose(found, [[0, 30, 80, 70]])


@pytest.mark.parametrize(
    ("box", "crowd", "kept"),
    [
        ((-90, 10, 10.1, 20), False, True),  # slightly more than MIN_SHARE
        ((-90, 10, 9.9, 20), False, False),
        ((-90, 10, 9.9, 20), True, True),  # any piece of a crowd
        ((-90, 10, 1.9, 20), True, False),
        ((10, 10, 12.1, 40), False, True),
        ((10, 10, 11.9, 40), False, False),  # too narrow
        ((70, 10, 90, 20), False, False),  # outside the image
        ((70, 10, 90, 20), True, False),
        ((-50, -50, 200, 200), False, False),  # of 62500 px^2, 3000
        ((-20, -20, 80, 70), False, True),
    ],
)
def test_people_kept_after_cropping(box: tuple[float, ...], crowd: bool, kept: bool) -> None:
    assert (MIN_SHARE, MIN_SIDE) == (0.1, 2)
    sample = sample_of(np.zeros((50, 60, 3), np.uint8), [box, [0, 0, 9, 9]], np.repeat(NOSE, 2, 0), [crowd, False])
    cut = cut_to(sample, (0, 0, *SIZE))
    assert len(cut) == 1 + kept
    assert cut.crowd.tolist() == [crowd, False][not kept :]
    assert_contract(cut, SIZE, 4)


def test_keypoints_outside_become_unlabeled() -> None:
    keypoints = np.array([[[-0.1, 5, 2], [0, 0, 1], [60, 5, 2], [59.9, 49.9, 1]]])
    cut = cut_to(sample_of(np.zeros((50, 60, 3), np.uint8), [[-10, 0, 70, 50]], keypoints), (0, 0, *SIZE))
    np.testing.assert_allclose(cut.keypoints, [[[0, 0, 0], [0, 0, 1], [0, 0, 0], [59.9, 49.9, 1]]], rtol=1e-6)
    np.testing.assert_array_equal(cut.boxes, [[0, 0, 60, 50]])


def test_unlabeled_keypoints_stay_zero() -> None:
    keypoints = np.array([[[30, 20, 2], [0, 0, 0], [7, 7, 0], [np.nan, 0, 0]]])
    sample = sample_of(np.zeros((50, 60, 3), np.uint8), [[10, 10, 40, 40]], keypoints)
    warped = warp(sample, affine(1, 0, False, (0, 0), (3, 4)), SIZE, 0, SWAP)
    np.testing.assert_allclose(warped.keypoints, [[[33, 24, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]]])


def test_pixels_outside_the_image_are_padded() -> None:
    sample = sample_of(np.full((50, 60, 3), 200, np.uint8), [], np.zeros((0, 4, 3)))
    warped = warp(sample, affine(1, 0, False, (0, 0), (10, 0)), (90, 50), 114, SWAP)
    assert (warped.image[:, :10] == 114).all()
    assert (warped.image[:, 10:70] == 200).all()
    assert (warped.image[:, 70:] == 114).all()


def test_enlargement_agrees_with_cv2_resize() -> None:
    """OpenCV's resize has the same pixel convention."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    warped = warp(
        sample_of(image, [], np.zeros((0, 4, 3))), affine(2, 0, False, (0, 0), (0, 0)), (60, 40), 0, SWAP
    ).image
    resized = cv2.resize(image, (60, 40), interpolation=cv2.INTER_LINEAR)
    assert np.abs(warped[2:-2, 2:-2].astype(int) - resized[2:-2, 2:-2]).max() <= 2


def test_joined_people() -> None:
    source = NoiseImages(12)
    parts = [source[i] for i in range(12)]
    whole = joined([part.people for part in parts])
    assert len(whole.boxes) == sum(map(len, parts))
    np.testing.assert_array_equal(whole.keypoints, np.concatenate([part.keypoints for part in parts]))
    assert_same(Sample(parts[3].image, *joined([parts[3].people]), name=parts[3].name), parts[3])
    assert (whole.labels.dtype, whole.crowd.dtype, whole.areas.dtype) == (np.int64, np.bool_, np.float32)


@settings(deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=6), st.integers(0, 1000))
def test_people_of_several_views_equal_those_of_each_view(indices: list[int], seed: int) -> None:
    source, rng = NoiseImages(12, crowd=0.3), np.random.default_rng(seed)
    views = [
        View(source[i], affine(rng.uniform(0.5, 2), rng.uniform(-90, 90), mirror, (30, 25), (40, 40)), (10, 5, 70, 60))
        for i, mirror in zip(indices, rng.random(len(indices)) < 0.5, strict=True)
    ]
    together, of = people_in_views(views, SWAP)
    assert (np.diff(of) >= 0).all()
    for number, view in enumerate(views):
        alone, _ = people_in_views([view], SWAP)
        for name in PersonLabels._fields:
            np.testing.assert_array_equal(getattr(together, name)[of == number], getattr(alone, name))


# Colors


def shifted_by(image: np.ndarray, gains: Sequence[float], seed: int) -> np.ndarray:
    out = np.empty_like(image)
    shift_colors(image, draw_colors(gains, np.random.default_rng(seed)), out)
    return out


def noise() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    image.flags.writeable = False
    return image


@settings(deadline=None)
@given(st.integers(0, 1000), st.tuples(*[st.floats(0, 2)] * 3))
def test_color_shifts_are_repeatable_copies(seed: int, gains: tuple[float, float, float]) -> None:
    image = noise()
    shifted = shifted_by(image, gains, seed)
    assert (shifted.shape, shifted.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, noise())
    np.testing.assert_array_equal(shifted, shifted_by(image, gains, seed))


def test_no_gain_changes_no_color() -> None:
    image = noise()
    np.testing.assert_array_equal(shifted_by(image, (0, 0, 0), 0), image)


def test_random_colors_equal_the_matrix_of_the_same_draw() -> None:
    image, gains = noise(), np.array([0.05, 0.5, 0.3])
    drawn = np.random.default_rng(5).uniform(-1, 1, 3) * gains
    expected = image @ color_matrix(drawn[0], 1 + drawn[1], 1 + drawn[2]).T
    found = shifted_by(image, gains.tolist(), 5).astype(int)
    assert np.abs(found - expected.clip(0, 255)).max() <= 1  # fixed point


@settings(deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(0, 2), st.floats(0, 2))
def test_gray_changes_only_in_value(hue: float, saturation: float, value: float) -> None:
    np.testing.assert_allclose(color_matrix(hue, saturation, value) @ (1, 1, 1), (value,) * 3, atol=1e-12)


def test_color_matrices_computed_by_hand() -> None:
    color = np.array([60.0, 100, 140])
    np.testing.assert_allclose(color_matrix(1 / 3, 1, 1) @ color, (100, 140, 60), atol=1e-9)  # red turns to green
    np.testing.assert_allclose(color_matrix(0, 0, 1) @ color, (0.114 * 60 + 0.587 * 100 + 0.299 * 140,) * 3)
    np.testing.assert_allclose(color_matrix(0, 1, 1.5) @ color, 1.5 * color)
    small = np.linalg.norm(color_matrix(0.015, 1, 1) @ color - color)
    assert 0 < small < 10
