"""The accuracy gate: from the differences between an artifact and its reference to a verdict.

float32 must give the same people within rounding. float16 and int8 must keep people, poses and, with labels, keypoint
AP within ``Limits``. Each limit needs enough evidence: what too few images cannot show is "unverified", and the reason
says how many images would do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from yolopose.bootstrap import APDifference, points
from yolopose.evaluation import AP_SCORE_THRESHOLD, MATCH_IOU, iou_matrix, oks_to_reference
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from .config import Limits

FLOAT32_PX = 0.05  # tolerances for float32: rounding only
FLOAT32_SCORE = 1e-4
MIN_PEOPLE = 20  # with fewer people in the reference, the verdict is unverified
MIN_AP = 0.01  # with a lower reference AP, a drop cannot be measured
SCORE_MARGIN = 0.1  # a person found this much below the threshold has crossed it; otherwise it is lost or invented
CONFIDENCE = 0.95  # of one-sided bounds
_QUANTILE = 1.645  # of the normal distribution, for ``CONFIDENCE``


@dataclass(frozen=True)
class PeopleChange:
    """What became of the people of the reference above the score threshold, summed over all images.

    lost       people of the reference that the artifact does not find, even ``SCORE_MARGIN`` below the threshold
    invented   people of the artifact that the reference does not find, even there
    crossing   people whose score is above the threshold on one side only
    mean_oks   of the people that are not lost, with the reference; None without any
    """

    people: int
    lost: int
    invented: int
    crossing: int
    mean_oks: float | None

    @property
    def changed(self) -> int:
        return self.lost + self.invented


def match_by_boxes(reference: PoseResult, artifact: PoseResult) -> list[tuple[int, int]]:
    """Greedy pairs of people by falling IoU (same label, at least ``MATCH_IOU``)."""
    iou = np.nan_to_num(iou_matrix(reference.boxes, artifact.boxes))  # a NaN box overlaps nothing
    iou[reference.labels[:, None] != artifact.labels[None]] = 0
    pairs: list[tuple[int, int]] = []
    free_reference, free_artifact = set(range(len(reference))), set(range(len(artifact)))
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), max(len(artifact), 1))
        if iou[i, j] < MATCH_IOU:
            break
        if i in free_reference and j in free_artifact:
            pairs.append((i, j))
            free_reference.remove(i)
            free_artifact.remove(j)
    return pairs


def is_finite(people: PoseResult, i: int) -> bool:
    return bool(np.isfinite(people.keypoints[i]).all() and np.isfinite(people.keypoint_scores[i]).all())


def people_change(
    reference: Sequence[PoseResult], artifact: Sequence[PoseResult], skeleton: Skeleton, score_threshold: float
) -> PeopleChange:
    """Compare the people of the same images, found at ``AP_SCORE_THRESHOLD``.

    A person of the artifact with a value that is not finite is nobody.
    """
    floor = max(score_threshold - SCORE_MARGIN, AP_SCORE_THRESHOLD)
    people = lost = invented = crossing = 0
    oks: list[float] = []
    for expected, every in zip(reference, artifact, strict=True):
        found = every[[i for i in range(len(every)) if is_finite(every, i)]]
        above, near = expected[expected.scores > score_threshold], found[found.scores > floor]
        pairs = match_by_boxes(above, near)
        people += len(above)
        lost += len(above) - len(pairs)
        crossing += sum(near.scores[j] <= score_threshold for _, j in pairs)
        oks += [float(oks_to_reference(near[[j]], above[[i]], skeleton)[0, 0]) for i, j in pairs]
        above, near = found[found.scores > score_threshold], expected[expected.scores > floor]
        pairs = match_by_boxes(near, above)
        invented += len(above) - len(pairs)
        crossing += sum(near.scores[i] <= score_threshold for i, _ in pairs)
    return PeopleChange(people, lost, invented, int(crossing), float(np.mean(oks)) if oks else None)


@dataclass(frozen=True)
class Judgment:
    """``verdict``: "passed", "failed" or "unverified"; ``reason``: one sentence with the figures."""

    verdict: str
    reason: str


def judge_float32(
    differing: int, people: int, max_px: float, max_score: float, lowered: bool, reference_name: str, advice: str
) -> Judgment:
    """differing: people found on one side only. lowered: compared at a score threshold below the default."""
    if differing or not (max_px <= FLOAT32_PX and max_score <= FLOAT32_SCORE):
        return Judgment(
            "failed",
            f"float32 must match {reference_name} within tolerance: {differing} people differ, "
            f"{max_px:.3g} px (at most {FLOAT32_PX}), score {max_score:.2g} (at most {FLOAT32_SCORE})",
        )
    if lowered or people < MIN_PEOPLE:
        return _too_few_people(reference_name, advice)
    return Judgment("passed", f"all {people} people match {reference_name} within tolerance")


def judge(
    change: PeopleChange,
    ap: APDifference | None,
    limits: Limits,
    *,
    images: int,
    lowered: bool = False,
    reference_name: str = "PyTorch",
    advice: str = "give more images with people by --images",
) -> Judgment:
    """The verdict on float16 or int8.

    ap        change of keypoint AP on labels; None without labels
    images    number of images compared
    lowered   people were compared at a score threshold below the default
    advice    what gives more evidence
    """
    if lowered or change.people < MIN_PEOPLE:
        return _too_few_people(reference_name, advice)
    judgments = [_judge_people(change, limits, images, reference_name), _judge_poses(change, limits, reference_name)]
    if ap is not None:
        judgments.append(_judge_ap(ap, limits.max_ap_drop, images, reference_name))
    verdict = max((each.verdict for each in judgments), key=("passed", "unverified", "failed").index)
    decisive = [each.reason for each in judgments if each.verdict == verdict]
    others = [each.reason for each in judgments if each.verdict != verdict]
    return Judgment(verdict, "; ".join((*decisive, *others)))


def _too_few_people(reference_name: str, advice: str) -> Judgment:
    return Judgment(
        "unverified",
        f"{reference_name} finds fewer than {MIN_PEOPLE} people on these images at the default score threshold, "
        f"too few for a verdict: {advice}",
    )


def _judge_people(change: PeopleChange, limits: Limits, images: int, reference_name: str) -> Judgment:
    """Failed where so many changes are improbable (below 5 %) for a file that is just within the limit."""
    share, limit = change.changed / max(change.people, 1), limits.max_changed / 100
    figures = (
        f"{change.lost} of the {change.people} people of {reference_name} lost and {change.invented} invented "
        f"({100 * share:.1f} %, at most {limits.max_changed:g} % allowed); {change.crossing} only crossed the score "
        "threshold"
    )
    if share <= limit:
        return Judgment("passed", figures)
    if _tail(change.changed, change.people, limit) < 1 - CONFIDENCE:
        return Judgment("failed", figures)
    needed = _QUANTILE**2 * limit * (1 - limit) / (share - limit) ** 2
    return Judgment("unverified", f"{figures}; {_would_do(images * needed / max(change.people, 1), images)}")


def _tail(count: int, trials: int, probability: float) -> float:
    """P(at least ``count`` of ``trials``), binomial; more than ``trials`` changes count as ``trials``.

    In logarithms, because the binomial coefficients of some thousand people exceed the range of a float.
    """
    if probability == 0:
        return float(count == 0)
    log_yes, log_no, log_all = math.log(probability), math.log1p(-probability), math.lgamma(trials + 1)
    below = (
        log_all - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_yes + (trials - k) * log_no
        for k in range(min(count, trials))
    )
    return 1 - math.fsum(map(math.exp, below))


def _judge_poses(change: PeopleChange, limits: Limits, reference_name: str) -> Judgment:
    if change.mean_oks is None:  # everybody is lost, or nobody was there: the other criteria decide
        return Judgment("passed", f"no OKS with {reference_name}")
    verdict = "passed" if change.mean_oks >= limits.min_oks else "failed"
    oks, least = _distinct(change.mean_oks, limits.min_oks, 4)
    return Judgment(verdict, f"mean OKS with {reference_name} {oks} (at least {least})")


def _judge_ap(ap: APDifference, budget: float, images: int, reference_name: str) -> Judgment:
    """Passed: the drop is within the budget and its one-sided bound within twice the budget.

    Failed: the drop exceeds the budget, and either its lower bound does too, or the images are enough to know the drop
    within the budget. Everything else is unverified.
    """
    if ap.before < MIN_AP:
        return Judgment(
            "unverified",
            f"the reference AP is too low to measure a drop: {reference_name} has keypoint AP {points(ap.before)} on "
            "these labels",
        )
    drop = -100 * ap.difference
    if ap.bounds is None:
        return Judgment("unverified", f"keypoint AP {ap.in_points()}; one image shows nothing about others")
    lower, upper = -100 * ap.bounds[1], -100 * ap.bounds[0]  # of the drop
    lost, allowed = _distinct(drop, budget)
    if drop <= 0:
        lost = "0"
    bound, bound_allowed = _distinct(upper, 2 * budget)
    figures = (
        f"keypoint AP {ap.in_points()}: lost {lost} points (at most {allowed} allowed), one-sided 95 % bound {bound} "
        f"(at most {bound_allowed})"
    )
    if drop <= budget and upper <= 2 * budget:
        return Judgment("passed", figures)
    room = 2 * budget - drop if drop <= budget else budget  # half-width that would decide
    if drop > budget and (lower > budget or upper - drop <= budget):
        return Judgment("failed", figures)
    needed = images * ((upper - drop) / room) ** 2 if room > 0 else math.inf
    return Judgment("unverified", f"{figures}; {_would_do(needed, images)}")


def _would_do(needed: float, images: int) -> str:
    """How many images would decide, two digits; the error falls with the root of their number."""
    if not math.isfinite(needed):
        return f"{images} images are too few, and no number would do for a budget of 0"
    digits = 10 ** max(len(str(int(needed))) - 2, 0)
    count = max(math.ceil(needed / digits) * digits, images + 1)
    return f"{images} images are too few to tell: about {count} would do"


def _distinct(value: float, limit: float, least: int = 2) -> tuple[str, str]:
    """Both numbers, the value with ``least`` digits or as many as it takes to tell it from the limit."""
    for digits in range(least, 7):
        texts = f"{round(value, digits) + 0.0:.{digits}f}", f"{limit:g}"
        if value == limit or float(texts[0]) != limit:
            return texts
    return texts
