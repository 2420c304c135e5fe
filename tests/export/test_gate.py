"""The accuracy gate: what is counted as lost, invented and crossing, and the verdicts on constructed evidence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.bootstrap import APDifference
from yolopose.export.config import Limits
from yolopose.export.gate import PeopleChange, judge, judge_float32, people_change
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17

GOOD = PeopleChange(people=500, lost=2, invented=1, crossing=9, mean_oks=0.98)
LIMITS = Limits(max_ap_drop=0.5, max_changed=2.0, min_oks=0.96)


def difference(drop: float, half_width: float, before: float = 50.0) -> APDifference:
    """points; the one-sided bounds lie ``half_width`` around the drop."""
    d, w = -drop / 100, half_width / 100
    return APDifference(before / 100, before / 100 + d, d, (d - 1.2 * w, d + 1.2 * w), 1000, None, (d - w, d + w))


def people(scores: list[float], left: float = 0.0) -> PoseResult:
    count = len(scores)
    x = left + np.arange(count, dtype=np.float32) * 200
    boxes = np.stack([x, 0 * x, x + 100, 0 * x + 180], axis=1).astype(np.float32)
    return PoseResult(
        boxes=boxes,
        scores=np.array(scores, np.float32),
        labels=np.zeros(count, np.int32),
        keypoints=np.repeat(boxes[:, None, :2], 17, axis=1) + 50,
        keypoint_scores=np.ones((count, 17), np.float32),
    )


@pytest.mark.parametrize(
    ("reference", "artifact", "counts"),
    [
        ([0.9, 0.3], [0.9, 0.3], (2, 0, 0, 0)),
        ([0.9, 0.3], [0.9, 0.16], (2, 0, 0, 1)),  # below 0.25, but still there
        ([0.9, 0.3], [0.9, 0.1], (2, 1, 0, 0)),
        ([0.9, 0.3], [0.9], (2, 1, 0, 0)),
        ([0.9, 0.2], [0.9, 0.3], (1, 0, 0, 1)),
        ([0.9, 0.1], [0.9, 0.3], (1, 0, 1, 0)),
        ([0.9], [0.9, 0.3], (1, 0, 1, 0)),
        ([0.9, 0.1], [0.9, 0.12], (1, 0, 0, 0)),  # below the threshold on both sides
        ([], [], (0, 0, 0, 0)),
    ],
)
def test_counts_lost_invented_and_crossing_people(
    reference: list[float], artifact: list[float], counts: tuple[int, ...]
) -> None:
    change = people_change([people(reference)], [people(artifact)], COCO_17, 0.25)
    assert (change.people, change.lost, change.invented, change.crossing) == counts
    assert change.mean_oks == (pytest.approx(1) if counts[0] > counts[1] else None)


@settings(max_examples=50, deadline=None)
@given(
    reference=st.lists(st.floats(0.02, 0.99), max_size=5),
    artifact=st.lists(st.floats(0.02, 0.99), max_size=5),
)
def test_exchanging_both_sides_exchanges_lost_and_invented(reference: list[float], artifact: list[float]) -> None:
    one = people_change([people(reference)], [people(artifact)], COCO_17, 0.25)
    other = people_change([people(artifact)], [people(reference)], COCO_17, 0.25)
    assert (one.lost, one.invented, one.crossing) == (other.invented, other.lost, other.crossing)


def test_no_change_allowed() -> None:
    none = replace(LIMITS, max_changed=0.0)
    assert judge(GOOD, None, none, images=100).verdict == "failed"
    assert judge(replace(GOOD, lost=0, invented=0), None, none, images=100).verdict == "passed"


def test_a_person_that_is_not_finite_is_lost() -> None:
    broken = people([0.9, 0.8])
    broken.keypoints[1, 3, 0] = np.nan
    change = people_change([people([0.9, 0.8])], [broken], COCO_17, 0.25)
    assert (change.lost, change.invented) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "ap", "verdict", "reason"),
    [
        ({}, None, "passed", "2 of the 500 people of PyTorch lost and 1 invented"),
        ({"mean_oks": 0.9599}, None, "failed", "mean OKS with PyTorch 0.9599 (at least 0.96)"),
        ({"mean_oks": 0.96}, None, "passed", ""),
        ({"mean_oks": None, "lost": 500}, None, "failed", "500 of the 500 people"),
        ({"lost": 25}, (0.0, 0.1), "failed", "25 of the 500 people"),  # 5 % lost, AP unchanged
        ({"lost": 900, "invented": 900}, None, "failed", ""),
        ({"people": 20000, "lost": 2000}, None, "failed", ""),
        ({"people": 20000, "lost": 402, "invented": 0}, None, "unverified", ""),
        ({"people": 100, "lost": 3, "invented": 0}, None, "unverified", "images are too few to tell: about"),
        ({"people": 100, "lost": 9, "invented": 0}, None, "failed", ""),
        ({"people": 19, "lost": 0, "invented": 0}, None, "unverified", "finds fewer than 20 people"),
        ({}, (0.2, 0.3), "passed", "lost 0.20 points (at most 0.5 allowed), one-sided 95 % bound 0.50 (at most 1)"),
        ({}, (-0.2, 0.3), "passed", "lost 0 points"),
        ({}, (0.3, 0.9), "unverified", "100 images are too few to tell: about 170 would do"),
        ({}, (0.503, 0.1), "failed", "lost 0.503 points (at most 0.5 allowed)"),
        ({}, (0.6, 0.9), "unverified", "about 330 would do"),
        ({}, (2.0, 0.9), "failed", "one-sided 95 % bound 2.90 (at most 1)"),  # certain, though not well known
        ({"lost": 25}, (0.3, 0.9), "failed", "too few to tell"),
    ],
)  # fmt: skip
def test_verdict(changes: dict[str, Any], ap: tuple[float, float] | None, verdict: str, reason: str) -> None:
    judged = judge(replace(GOOD, **changes), None if ap is None else difference(*ap), LIMITS, images=100)
    assert judged.verdict == verdict, judged.reason
    assert reason in judged.reason


def test_low_reference_ap_and_a_single_image_are_unverified() -> None:
    judged = judge(GOOD, difference(0, 0.1, before=0.5), LIMITS, images=100)
    assert judged.verdict == "unverified"
    assert "the reference AP is too low to measure a drop: PyTorch has keypoint AP 0.50 on" in judged.reason
    assert judge(GOOD, replace(difference(0, 0), bounds=None), LIMITS, images=1).verdict == "unverified"
    assert judge(GOOD, None, LIMITS, images=100, lowered=True).verdict == "unverified"


def test_a_budget_of_0_passes_what_loses_nothing() -> None:
    exact = replace(LIMITS, max_ap_drop=0.0)
    assert judge(GOOD, difference(0, 0), exact, images=100).verdict == "passed"
    assert judge(GOOD, difference(0.1, 0.05), exact, images=100).verdict == "failed"
    judged = judge(GOOD, difference(0, 0.1), exact, images=100)
    assert (judged.verdict, "no number would do" in judged.reason) == ("unverified", True)


@pytest.mark.parametrize("field", ["max_ap_drop", "max_changed", "min_oks"])
@pytest.mark.parametrize("value", [-1.0, 101.0, float("nan")])
def test_limits_out_of_range(field: str, value: float) -> None:
    if (field, value) != ("max_ap_drop", 101.0):
        with pytest.raises(ValueError, match=f"--{field.replace('_', '-')} must be"):
            Limits(**{field: value})


@pytest.mark.parametrize(
    ("arguments", "verdict"),
    [
        ((0, 50, 0.01, 1e-5, False), "passed"),
        ((0, 50, 0.06, 1e-5, False), "failed"),
        ((0, 50, float("nan"), 1e-5, False), "failed"),
        ((0, 50, 0.01, 2e-4, False), "failed"),
        ((1, 50, 0.01, 1e-5, False), "failed"),
        ((0, 19, 0.01, 1e-5, False), "unverified"),
        ((0, 19, 1.0, 1e-5, False), "failed"),  # few, and wrong
        ((0, 50, 0.01, 1e-5, True), "unverified"),  # compared at a lower threshold: no claim about people
        ((0, 0, 0.0, 0.0, True), "unverified"),
    ],
)
def test_verdict_on_float32(arguments: tuple[int, int, float, float, bool], verdict: str) -> None:
    judged = judge_float32(*arguments, "the source file", "give images")
    assert judged.verdict == verdict
    if verdict == "passed":
        assert judged.reason == "all 50 people match the source file within tolerance"


def test_a_loss_of_twice_the_budget_seldom_passes() -> None:
    """200 draws of images, on each of which a file loses a random AP around twice the budget."""
    rng = np.random.default_rng(0)
    for images in (40, 125, 1000):
        error = 8 / images**0.5  # points: standard error of the drop
        drops = rng.normal(2 * LIMITS.max_ap_drop, error, 200)
        verdicts = [judge(GOOD, difference(drop, 1.645 * error), LIMITS, images=images).verdict for drop in drops]
        assert verdicts.count("passed") <= 0.05 * 200
        lossless = [
            judge(GOOD, difference(drop, 1.645 * error), LIMITS, images=images).verdict
            for drop in rng.normal(0, error, 200)
        ]
        assert lossless.count("failed") <= 0.05 * 200
    assert lossless.count("passed") >= 0.95 * 200  # a thousand images are enough
