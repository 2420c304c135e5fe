"""Pixels and labels go through one map: a dot drawn at a keypoint is found where the keypoint says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from yolopose.data.augment import LEAST_SHARE, LEAST_SIDE, View, affine, cropped, move_boxes, paint, seen
from yolopose.data.sample import PersonLabels, Sample, joined

from ..pictures import FOUR, Pictures, assert_contract, assert_same, sample_of

SWAP = np.array(FOUR.flip_index)
SIZE = (60, 50)
NOSE = np.array([[[0, 0, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]]], np.float32)


def warp(sample: Sample, matrix: np.ndarray, size_wh: tuple[int, int], pad: int, swap: np.ndarray) -> Sample:
    """The sample seen through ``matrix`` in a picture of ``size_wh``."""
    view = View(sample, matrix, (0, 0, *size_wh))
    image = np.empty((size_wh[1], size_wh[0], 3), np.uint8)
    paint([view], image, pad)
    people, views = seen([view], swap)
    assert len(people.boxes) == len(views)
    assert not views.any()
    return Sample(image, *people, name=sample.name)


def cut_to(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    people, stay = cropped(sample.people, window)
    assert np.count_nonzero(stay) == len(people.boxes)
    return Sample(sample.image, *people, name=sample.name)


scales = st.floats(0.5, 2)
angles = st.floats(-180, 180)


def with_dots(*dots: tuple[int, int]) -> Sample:
    """A dark picture; keypoint k in the middle of a bright spot of 5 x 5 px around pixel ``dots[k]``."""
    image = np.zeros((50, 60, 3), np.uint8)
    keypoints = np.zeros((1, 4, 3))
    for k, (column, row) in enumerate(dots):
        image[row - 2 : row + 3, column - 2 : column + 3] = 80 * (k + 1)
        keypoints[0, k] = column + 0.5, row + 0.5, 2
    return sample_of(image, [[0, 0, 60, 50]], keypoints)


def centre_of(image: np.ndarray) -> np.ndarray:
    """Centre of brightness, in coordinates in which pixel i covers i..i+1."""
    rows, columns = np.indices(image.shape[:2])
    weight = image[..., 0].astype(float)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum() + 0.5


@settings(deadline=None)
@given(st.integers(3, 56), st.integers(3, 46), scales, angles, st.booleans(), st.tuples(*[st.floats(20, 60)] * 2))
def test_a_dot_and_its_keypoint_move_alike(
    column: int, row: int, scale: float, degrees: float, mirror: bool, target: tuple[float, float]
) -> None:
    sample = with_dots((column, row))
    matrix = affine(scale, degrees, mirror, (30, 25), target)
    warped = warp(sample, matrix, (80, 90), 0, SWAP)
    assume(len(warped))
    x, y, v = warped.keypoints[0, 0]
    assume(v > 0 and 9 < x < 71 and 9 < y < 81)
    # Five pixels sampled at three places weigh more or less than they are: up to 0.203 px at 0.6, 0.12 px above 0.75
    # (40,000 random maps). A convention off by half a pixel would be off by 0.5 at 2.
    np.testing.assert_allclose(centre_of(warped.image), (x, y), atol=0.25 if scale < 0.75 else 0.15)
    np.testing.assert_allclose(matrix[:, :2] @ (column + 0.5, row + 0.5) + matrix[:, 2], (x, y), atol=1e-4)


def test_the_affine_map_by_hand() -> None:
    np.testing.assert_allclose(affine(2, 0, False, (10, 20), (100, 200)) @ (11, 22, 1), (102, 204))
    np.testing.assert_allclose(affine(1, 0, True, (10, 20), (10, 20)) @ (12, 25, 1), (8, 25))
    np.testing.assert_allclose(affine(1, 90, False, (0, 0), (5, 5)) @ (1, 0, 1), (5, 6))  # x turns to y: clockwise
    np.testing.assert_allclose(affine(3, 25, True, (7, 8), (50, 60)) @ (7, 8, 1), (50, 60))


def test_a_mirror_exchanges_left_and_right() -> None:
    sample = with_dots((10, 10), (40, 20))
    warped = warp(sample, affine(1, 0, True, (30, 25), (30, 25)), SIZE, 0, SWAP)
    np.testing.assert_array_equal(warped.image, sample.image[:, ::-1])
    np.testing.assert_allclose(warped.keypoints[0, :3], [[49.5, 10.5, 2], [0, 0, 0], [19.5, 20.5, 2]])


@given(st.integers(0, 100))
def test_mirrored_twice_is_the_same(index: int) -> None:
    sample = Pictures(index + 1)[index]
    height, width = sample.image.shape[:2]
    mirror = affine(1, 0, True, (width / 2, height / 2), (width / 2, height / 2))
    once = warp(sample, mirror, (width, height), 0, SWAP)
    twice = warp(once, mirror, (width, height), 0, SWAP)
    np.testing.assert_array_equal(twice.image, sample.image)
    for name in ("boxes", "keypoints", "areas", "crowd"):
        np.testing.assert_allclose(getattr(twice, name), getattr(sample, name), atol=1e-4)


@settings(deadline=None)
@given(st.integers(0, 30), scales, angles, st.booleans(), st.tuples(*[st.floats(-40, 140)] * 2))
def test_contract(index: int, scale: float, degrees: float, mirror: bool, target: tuple[float, float]) -> None:
    """Whatever leaves the picture; nobody, crowds, read-only arrays."""
    sample = Pictures(index + 1, crowd=0.4)[index]
    warped = warp(sample, affine(scale, degrees, mirror, (30, 30), target), (70, 64), 114, SWAP)
    assert_contract(warped, (70, 64), 4)
    assert len(warped) <= len(sample)


def test_areas_grow_with_the_picture() -> None:
    sample = with_dots((30, 25))
    for mirror in (False, True):
        warped = warp(sample, affine(1.5, 30, mirror, (30, 25), (60, 60)), (120, 120), 0, SWAP)
        np.testing.assert_allclose(warped.areas, sample.areas * 1.5**2, rtol=1e-5)


@given(scales, angles, st.booleans())
def test_a_moved_box_holds_the_ellipse_and_the_keypoints(scale: float, degrees: float, mirror: bool) -> None:
    """Tight around the moved ellipse that touches the box's sides; with keypoints in the corners, around those too."""
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
    ("box", "crowd", "stays"),
    [
        ((-90, 10, 10.1, 20), False, True),  # a little more than the stated share
        ((-90, 10, 9.9, 20), False, False),
        ((-90, 10, 9.9, 20), True, True),  # of a crowd any piece
        ((-90, 10, 1.9, 20), True, False),
        ((10, 10, 12.1, 40), False, True),
        ((10, 10, 11.9, 40), False, False),  # too narrow
        ((70, 10, 90, 20), False, False),  # beside the picture
        ((70, 10, 90, 20), True, False),
        ((-50, -50, 200, 200), False, False),  # of 62500 px^2, 3000
        ((-20, -20, 80, 70), False, True),
    ],
)
def test_who_stays(box: tuple[float, ...], crowd: bool, stays: bool) -> None:
    assert (LEAST_SHARE, LEAST_SIDE) == (0.1, 2)
    sample = sample_of(np.zeros((50, 60, 3), np.uint8), [box, [0, 0, 9, 9]], np.repeat(NOSE, 2, 0), [crowd, False])
    cut = cut_to(sample, (0, 0, *SIZE))
    assert len(cut) == 1 + stays
    assert cut.crowd.tolist() == [crowd, False][not stays :]
    assert_contract(cut, SIZE, 4)


def test_keypoints_outside_become_unlabelled() -> None:
    keypoints = np.array([[[-0.1, 5, 2], [0, 0, 1], [60, 5, 2], [59.9, 49.9, 1]]])
    cut = cut_to(sample_of(np.zeros((50, 60, 3), np.uint8), [[-10, 0, 70, 50]], keypoints), (0, 0, *SIZE))
    np.testing.assert_allclose(cut.keypoints, [[[0, 0, 0], [0, 0, 1], [0, 0, 0], [59.9, 49.9, 1]]], rtol=1e-6)
    np.testing.assert_array_equal(cut.boxes, [[0, 0, 60, 50]])


def test_what_is_not_labelled_stays_zero() -> None:
    keypoints = np.array([[[30, 20, 2], [0, 0, 0], [7, 7, 0], [np.nan, 0, 0]]])
    sample = sample_of(np.zeros((50, 60, 3), np.uint8), [[10, 10, 40, 40]], keypoints)
    warped = warp(sample, affine(1, 0, False, (0, 0), (3, 4)), SIZE, 0, SWAP)
    np.testing.assert_allclose(warped.keypoints, [[[33, 24, 2], [0, 0, 0], [0, 0, 0], [0, 0, 0]]])


def test_empty_places_have_the_padding_value() -> None:
    sample = sample_of(np.full((50, 60, 3), 200, np.uint8), [], np.zeros((0, 4, 3)))
    warped = warp(sample, affine(1, 0, False, (0, 0), (10, 0)), (90, 50), 114, SWAP)
    assert (warped.image[:, :10] == 114).all()
    assert (warped.image[:, 10:70] == 200).all()
    assert (warped.image[:, 70:] == 114).all()


def test_enlarged_pixels_keep_their_places() -> None:
    """OpenCV's own resize has the same idea of where a pixel lies."""
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    warped = warp(
        sample_of(image, [], np.zeros((0, 4, 3))), affine(2, 0, False, (0, 0), (0, 0)), (60, 40), 0, SWAP
    ).image
    resized = cv2.resize(image, (60, 40), interpolation=cv2.INTER_LINEAR)
    assert np.abs(warped[2:-2, 2:-2].astype(int) - resized[2:-2, 2:-2]).max() <= 2


def test_joined() -> None:
    source = Pictures(12)
    parts = [source[i] for i in range(12)]
    whole = joined([part.people for part in parts])
    assert len(whole.boxes) == sum(map(len, parts))
    np.testing.assert_array_equal(whole.keypoints, np.concatenate([part.keypoints for part in parts]))
    assert_same(Sample(parts[3].image, *joined([parts[3].people]), name=parts[3].name), parts[3])
    assert (whole.labels.dtype, whole.crowd.dtype, whole.areas.dtype) == (np.int64, np.bool_, np.float32)


@settings(deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=6), st.integers(0, 1000))
def test_people_of_many_views_at_once_are_those_of_each_alone(indices: list[int], seed: int) -> None:
    source, rng = Pictures(12, crowd=0.3), np.random.default_rng(seed)
    views = [
        View(source[i], affine(rng.uniform(0.5, 2), rng.uniform(-90, 90), mirror, (30, 25), (40, 40)), (10, 5, 70, 60))
        for i, mirror in zip(indices, rng.random(len(indices)) < 0.5, strict=True)
    ]
    together, of = seen(views, SWAP)
    assert (np.diff(of) >= 0).all()
    for number, view in enumerate(views):
        alone, _ = seen([view], SWAP)
        for name in PersonLabels._fields:
            np.testing.assert_array_equal(getattr(together, name)[of == number], getattr(alone, name))
