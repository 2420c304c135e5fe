from __future__ import annotations

import numpy as np
import pytest

from yolopose.runtime.draw import CENTER, LEFT, RIGHT, draw_people, side_color
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

BACK = 128


def person(points: np.ndarray, scores: np.ndarray | float = 0.9, box: list[float] | None = None) -> PoseResult:
    keypoints = np.asarray(points, np.float32)
    return PoseResult(
        boxes=[box or [*keypoints.min(axis=0), *keypoints.max(axis=0)]],
        scores=[0.8],
        labels=[0],
        keypoints=keypoints[None],
        keypoint_scores=np.broadcast_to(np.float32(scores), (1, len(keypoints))),
    )


def canvas(height: int = 240, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), BACK, np.uint8)


def points(count: int = 17, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(40, 200, (count, 2))


def test_no_people_leave_the_image_unchanged() -> None:
    image = canvas()
    drawn = draw_people(image, PoseResult.empty(17), COCO_17)
    assert np.array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_marks_keypoints_on_a_copy() -> None:
    image = canvas()
    where = points()
    drawn = draw_people(image, person(where), COCO_17)
    assert (image == BACK).all()
    for x, y in where.astype(int):
        assert (drawn[y, x] != BACK).any()


@pytest.mark.parametrize(("name", "color"), [("left_knee", LEFT), ("right_knee", RIGHT), ("nose", CENTER)])
def test_color_depends_on_the_side(name: str, color: tuple[int, int, int]) -> None:
    one = Skeleton("one", (name,), (), (), (0.1,))
    drawn = draw_people(canvas(), person([[100, 80]], box=[60, 40, 140, 120]), one, boxes=False)
    assert tuple(drawn[80, 100]) == color
    assert side_color(name) == color


def test_keypoints_below_the_threshold_and_their_limbs_are_not_drawn() -> None:
    line = Skeleton("line", ("a", "b"), (), ((0, 1),), (0.1, 0.1))
    ends = [[50, 100], [250, 100]]
    both = draw_people(canvas(), person(ends), line, boxes=False)
    assert (both[100, 150] != BACK).any()
    one = draw_people(canvas(), person(ends, np.array([0.9, 0.29])), line, boxes=False)
    assert (one[100, 50] != BACK).any()
    assert (one[100, 150] == BACK).all()
    assert (one[100, 250] == BACK).all()
    shown = draw_people(canvas(), person(ends, np.array([0.9, 0.29])), line, keypoint_threshold=0.2, boxes=False)
    assert np.array_equal(shown, both)


def test_line_width_grows_with_the_image() -> None:
    line = Skeleton("line", ("a", "b"), (), ((0, 1),), (0.1, 0.1))

    def thickness(size: int) -> int:
        ends = [[size * 0.1, size * 0.5], [size * 0.9, size * 0.5]]
        box = [size * 0.1, size * 0.1, size * 0.9, size * 0.9]
        drawn = draw_people(canvas(size, size), person(ends, box=box), line, boxes=False)
        return int((drawn[:, size // 2] != BACK).any(axis=1).sum())

    small, middle, large = thickness(64), thickness(512), thickness(2048)
    assert 1 <= small < middle < large
    assert large == pytest.approx(4 * middle, rel=0.4)


@pytest.mark.parametrize(
    "where",
    [
        points(14) - 1000,
        points(14) * 1e5,
        np.full((14, 2), 3e38),
        np.full((14, 2), np.nan),
        np.full((14, 2), np.inf),
        np.tile([[-5000.0, 100.0], [5000.0, 100.0]], (7, 1)),
    ],
)
@pytest.mark.parametrize("shape", [(240, 320), (1, 1), (3, 900)])
def test_accepts_points_anywhere(where: np.ndarray, shape: tuple[int, int]) -> None:
    with np.errstate(all="ignore"):
        people = person(where, box=[-1e9, np.nan, np.inf, 50])
    assert draw_people(canvas(*shape), people, LSP_14).shape == (*shape, 3)


def test_limb_between_points_outside_crosses_the_image() -> None:
    line = Skeleton("line", ("a", "b"), (), ((0, 1),), (0.1, 0.1))
    drawn = draw_people(canvas(), person([[-5000, 100], [5000, 100]]), line, boxes=False)
    assert (drawn[100] != BACK).any(axis=1).all()


def test_box_is_tinted_and_labeled() -> None:
    people = person(points(), scores=0.0, box=[100, 100, 200, 200])
    drawn = draw_people(canvas(), people, COCO_17)
    assert (drawn[150, 150] != BACK).any()
    assert (drawn[20, 20] == BACK).all()
    assert (drawn[85:99, 102:130] != BACK).any()  # the score above it


def test_rejects_a_skeleton_with_other_keypoints() -> None:
    with pytest.raises(ValueError, match="people have 17 keypoints, the skeleton lsp-14 has 14"):
        draw_people(canvas(), person(points()), LSP_14)
