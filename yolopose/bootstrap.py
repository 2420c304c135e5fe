"""Difference in keypoint AP between two results on the same labeled images, with a paired bootstrap interval.

Images are drawn with replacement, and both results are scored on the same draw. What makes some images harder than
others therefore cancels out of the difference. COCOeval matches people to labels once per result; an image that occurs
twice in a draw counts twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from .evaluation import Convention, Ranking, choose_images, run_cocoeval

if TYPE_CHECKING:
    from .data.coco import CocoKeypoints
    from .data.image_set import ImageSet

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)  # of the differences: the 95 % interval
ONE_SIDED = (5.0, 95.0)


@dataclass(frozen=True, eq=False)
class _MatchedCategory:
    """Matches of one category. I images; predictions by descending score, equal ones in the order of COCOeval."""

    labeled: np.ndarray  # (I,) int64: labeled people of each image
    images: tuple[np.ndarray, ...]  # per OKS threshold: image index of each prediction that counts, (D,)
    correct: tuple[np.ndarray, ...]  # per OKS threshold: indices into ``images`` of the true positives, ascending


@dataclass(frozen=True, eq=False)
class MatchedPeople:
    """People found in I images, matched to the labels; made by ``match_people``."""

    image_ids: tuple[int, ...]  # ascending
    categories: tuple[_MatchedCategory, ...]
    recalls: np.ndarray  # (101,) recall values at which COCOeval reads precision
    oks: np.ndarray  # (I,) float64: sum over the labeled people of an image, see ``match_people``

    def ap(self, counts: np.ndarray | None = None) -> float | None:
        """AP (mean over OKS .50 to .95, all areas) if image i occurs ``counts[i]`` times.

        counts: (I,) integers; None: every image once, which gives exactly the AP of COCOeval. The mean is taken over
        the categories with labeled people; None if there are none.
        """
        counts = np.ones(len(self.image_ids), np.int64) if counts is None else counts
        labeled = [int(counts @ category.labeled) for category in self.categories]
        precisions = [self._precision(c, counts, n) for c, n in zip(self.categories, labeled, strict=True) if n]
        return float(np.mean(np.stack(precisions, axis=-1).reshape(-1))) if precisions else None

    def _precision(self, category: _MatchedCategory, counts: np.ndarray, labeled: int) -> np.ndarray:
        """Precision (T, 101) at each of T OKS thresholds and each recall.

        Only true positives are evaluated: at a false positive recall does not rise and precision falls.
        """
        precision = np.zeros((len(category.images), len(self.recalls)))
        for row, images, correct in zip(precision, category.images, category.correct, strict=True):
            weights = counts[images]
            hits = np.cumsum(weights[correct])
            envelope = hits / (np.cumsum(weights)[correct] + np.spacing(1))
            envelope = np.maximum.accumulate(envelope[::-1])[::-1]
            at = np.searchsorted(hits / labeled, self.recalls)
            reached = at < len(hits)
            row[reached] = envelope[at[reached]]
        return precision


def match_people(
    results: Mapping[int, PoseResult],
    dataset: CocoKeypoints,
    skeleton: Skeleton,
    image_ids: Collection[int] | None = None,
    images: Convention = "all",
    ranking: Ranking = "pose_score",
) -> MatchedPeople:
    """Match people to labels; arguments and errors as in ``evaluation.evaluate``.

    The OKS of a labeled person is the best OKS of the 20 highest-scoring predictions of its image and category, at any
    score; 0 if there is none. It has no threshold that a small change could cross.
    """
    chosen = choose_images(dataset, image_ids, images)
    run = run_cocoeval(results, dataset, skeleton, chosen, by_area=False, ranking=ranking)
    oks = np.zeros(len(chosen))
    for category in dataset.categories:
        for index, image_id in enumerate(chosen):
            matrix, people = run.ious[image_id, category.id], run._gts[image_id, category.id]
            if len(matrix):
                oks[index] += sum(matrix[:, i].max() for i, person in enumerate(people) if not person["ignore"])
    size = len(chosen)
    categories = tuple(
        _matched_category(run.evalImgs[k * size : (k + 1) * size])
        for k in range(len(dataset.categories) if chosen else 0)
    )
    return MatchedPeople(tuple(chosen), categories, run.params.recThrs, oks)


def match_image_set(
    people: Iterable[PoseResult],
    images: ImageSet,
    skeleton: Skeleton,
    convention: Convention = "all",
    ranking: Ranking = "pose_score",
) -> MatchedPeople:
    """``match_people`` for the people of a labeled image set, in the order of its images."""
    if images.labels is None:
        raise ValueError(f"{images.description}: keypoint AP needs labels")
    by_id = dict(zip(images.image_ids, people, strict=True))
    return match_people(by_id, images.labels, skeleton, image_ids=images.image_ids, images=convention, ranking=ranking)


def _matched_category(evaluated: list[dict[str, Any] | None]) -> _MatchedCategory:
    """From ``COCOeval.evalImgs`` of one category: one entry per image, None without people and predictions."""
    labeled = np.array([0 if entry is None else np.count_nonzero(entry["gtIgnore"] == 0) for entry in evaluated])
    present = [(index, entry) for index, entry in enumerate(evaluated) if entry is not None]
    if not present:
        return _MatchedCategory(labeled, (), ())
    images = np.concatenate([np.full(len(entry["dtScores"]), index) for index, entry in present])
    order = np.argsort(-np.concatenate([entry["dtScores"] for _, entry in present]), kind="mergesort")
    matched = np.concatenate([entry["dtMatches"] for _, entry in present], axis=1)[:, order] > 0  # (T, D)
    counted = ~np.concatenate([entry["dtIgnore"] for _, entry in present], axis=1)[:, order]
    return _MatchedCategory(
        labeled,
        tuple(images[order][row] for row in counted),
        tuple(np.flatnonzero(hit[row]) for hit, row in zip(matched, counted, strict=True)),
    )


@dataclass(frozen=True)
class APDifference:
    """Keypoint AP of two results on the same images, 0..1, and the interval of their difference."""

    before: float
    after: float
    difference: float  # after - before
    interval: tuple[float, float] | None  # 95 % bootstrap interval of the difference; None for a single image
    resamples: int
    worst_image: int | None  # id of the image that loses most OKS, summed over its people; None if none loses
    bounds: tuple[float, float] | None = None  # one-sided 95 % bounds of the difference, lower and upper

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_points(self) -> str:
        """In points of 100, e.g. ``24.25 -> 24.10 (-0.15, 95 % interval -0.41 to 0.09)``."""
        interval = ""
        if self.interval is not None:
            interval = f", 95 % interval {points(self.interval[0])} to {points(self.interval[1])}"
        return f"{points(self.before)} -> {points(self.after)} ({points(self.difference)}{interval})"


def points(fraction: float) -> str:
    """A value in 0..1 as points of 100, never "-0.00"."""
    return f"{round(100 * fraction, 2) + 0.0:.2f}"


def ap_difference(
    before: MatchedPeople, after: MatchedPeople, resamples: int = RESAMPLES, seed: int = 0
) -> APDifference | None:
    """Difference in AP with its paired bootstrap interval (percentiles); None if no labeled person counts.

    Deterministic. Draws without any labeled person, which occur only in tiny sets, are left out. ValueError if the two
    results are not of the same images.
    """
    if before.image_ids != after.image_ids:
        raise ValueError("the two results are of different images and cannot be compared image by image")
    first, second = before.ap(), after.ap()
    if first is None or second is None:
        return None
    size, random = len(before.image_ids), np.random.default_rng(seed)
    differences = []
    for _ in range(resamples if size > 1 else 0):
        counts = np.bincount(random.integers(0, size, size), minlength=size)
        a, b = before.ap(counts), after.ap(counts)
        if a is not None and b is not None:
            differences.append(b - a)
    interval = bounds = None
    if differences:
        low, lower, upper, high = np.percentile(differences, sorted((*PERCENTILES, *ONE_SIDED)))
        interval, bounds = (float(low), float(high)), (float(lower), float(upper))
    lost = before.oks - after.oks
    worst = int(lost.argmax())  # the first of equal ones
    worst_image = before.image_ids[worst] if lost[worst] > 0 else None
    return APDifference(first, second, second - first, interval, resamples, worst_image, bounds)
