"""Comparing two sets of people: who is the same, how far apart, what counts as borderline."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.export.verify import compare_people
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17


def people(seed: int, count: int) -> PoseResult:
    """``count`` people side by side, scores falling from 0.9."""
    rng = np.random.default_rng(seed)
    left = np.arange(count, dtype=np.float32) * 200
    top = rng.uniform(0, 50, count).astype(np.float32)
    boxes = np.stack([left, top, left + 100, top + 180], axis=1).astype(np.float32)
    keypoints = boxes[:, None, :2] + rng.uniform(0, 100, (count, 17, 2)).astype(np.float32)
    return PoseResult(
        boxes=boxes,
        scores=np.linspace(0.9, 0.4, count).astype(np.float32),
        labels=np.zeros(count, np.int32),
        keypoints=keypoints,
        keypoint_scores=rng.uniform(0, 1, (count, 17)).astype(np.float32),
    )


def moved(result: PoseResult, px: float, score: float = 0.0) -> PoseResult:
    return PoseResult(
        boxes=result.boxes,
        scores=result.scores + np.float32(score),
        labels=result.labels,
        keypoints=result.keypoints + np.float32(px),
        keypoint_scores=result.keypoint_scores,
    )


def with_score(result: PoseResult, score: float) -> PoseResult:
    scores = np.full(len(result), score, np.float32)
    return PoseResult(result.boxes, scores, result.labels, result.keypoints, result.keypoint_scores)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 6))
def test_the_same_people_in_any_order_are_equal(seed: int, count: int) -> None:
    result = people(seed, count)
    shuffled = result[np.random.default_rng(seed).permutation(count)]
    report = compare_people([result], [shuffled], COCO_17, 0.25)
    assert (report.people, report.matched, report.missing, report.extra, report.borderline) == (count, count, 0, 0, 0)
    if count:
        assert report.max_px == report.mean_px == report.max_score_deviation == 0
        assert report.mean_oks == pytest.approx(1)
    else:
        assert report.max_px is report.mean_oks is report.worst_image is None


def test_deviation_is_measured_in_pixels_and_scores() -> None:
    one, two = people(1, 2), people(2, 3)
    report = compare_people([one, two], [moved(one, 0.5), moved(two, 2.0, -0.01)], COCO_17, 0.25, names=["a", "b"])
    assert report.max_px == pytest.approx(2.0, abs=1e-4)
    assert report.mean_px == pytest.approx((2 * 0.5 + 3 * 2.0) / 5 * 34 / 38, abs=1e-4)  # corners do not move
    assert report.max_score_deviation == pytest.approx(0.01, abs=1e-6)
    assert report.worst_image == "b"
    assert report.mean_oks is not None
    assert 0.9 < report.mean_oks < 1


def test_missing_and_extra_people() -> None:
    result = people(3, 4)
    report = compare_people([result, result[:1]], [result[:3], result[:2]], COCO_17, 0.25)
    assert (report.matched, report.missing, report.extra, report.borderline) == (4, 1, 1, 0)


@pytest.mark.parametrize(("score", "borderline"), [(0.25005, 1), (0.2504, 0)])
def test_people_at_the_score_threshold_are_counted_apart(score: float, borderline: int) -> None:
    nobody = PoseResult.empty(17)
    alone = with_score(people(4, 1), score)
    for reference, artifact in ((alone, nobody), (nobody, alone)):
        report = compare_people([reference], [artifact], COCO_17, 0.25)
        assert report.borderline == borderline
        assert report.missing + report.extra == 1 - borderline


@pytest.mark.parametrize(("overlap", "borderline"), [(0.65, 1), (0.60, 0)])
def test_people_at_the_overlap_threshold_are_counted_apart(overlap: float, borderline: int) -> None:
    """A second person whose IoU with a kept one is at the threshold may be there or not."""
    first = people(5, 1)
    width, height = 100, 180
    shift = width * (1 - overlap) / (1 + overlap)  # IoU of two equal boxes moved sideways
    second = PoseResult(
        boxes=first.boxes + np.array([shift, 0, shift, 0], np.float32),
        scores=first.scores - 0.1,
        labels=first.labels,
        keypoints=first.keypoints,
        keypoint_scores=first.keypoint_scores,
    )
    assert width * height > 0
    both = PoseResult(
        *(np.concatenate([getattr(first, name), getattr(second, name)]) for name in (
            "boxes", "scores", "labels", "keypoints", "keypoint_scores"
        ))
    )  # fmt: skip
    report = compare_people([first], [both], COCO_17, 0.25, iou_threshold=0.65)
    assert (report.matched, report.borderline, report.extra) == (1, borderline, 1 - borderline)


def test_other_labels_are_other_people() -> None:
    result = people(6, 2)
    other = PoseResult(result.boxes, result.scores, result.labels + 1, result.keypoints, result.keypoint_scores)
    report = compare_people([result], [other], COCO_17, 0.25)
    assert (report.matched, report.missing, report.extra) == (0, 2, 2)


def test_images_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="1 images, artifact 2"):
        compare_people([people(0, 1)], [people(0, 1)] * 2, COCO_17, 0.25)


def test_people_that_are_not_finite_are_lost() -> None:
    result = people(7, 3)
    keypoints = result.keypoints.copy()
    keypoints[1, 5, 0] = np.nan
    broken = PoseResult(result.boxes, result.scores, result.labels, keypoints, result.keypoint_scores)
    report = compare_people([result], [broken], COCO_17, 0.25)
    assert (report.matched, report.missing, report.extra, report.max_px) == (2, 1, 1, 0)
    boxes = result.boxes.copy()
    boxes[2] = np.nan
    broken = PoseResult(boxes, result.scores, result.labels, result.keypoints, result.keypoint_scores)
    report = compare_people([result], [broken], COCO_17, 0.25)
    assert (report.matched, report.missing, report.extra) == (2, 1, 1)
