"""How sure a difference in keypoint AP is: a paired bootstrap over images.

Two sets of results on the same labelled images are compared. The images are drawn anew, with replacement, and both
results are scored on the same draw, so that what makes some images harder than others cancels out of the difference.
COCOeval matches people to labels once for each result; an image that a draw holds twice then simply counts twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from .evaluation import Convention, choose_images, run_cocoeval

if TYPE_CHECKING:
    from .data.coco import CocoKeypoints

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)  # of the differences: the 95 % interval


@dataclass(frozen=True, eq=False)
class _Category:
    """What AP needs of one category: I images, D predictions by falling score (equal ones in the order of COCOeval)."""

    labelled: np.ndarray  # (I,) int64: labelled people of each image
    counted: tuple[np.ndarray, ...]  # for each OKS threshold: image of every prediction that is right or wrong, (D',)
    right: tuple[np.ndarray, ...]  # and which of these are right, rising


@dataclass(frozen=True, eq=False)
class MatchedPeople:
    """People found, matched to the labels of I images; made by ``match_people``."""

    image_ids: tuple[int, ...]  # rising
    categories: tuple[_Category, ...]
    recalls: np.ndarray  # (101,) where COCOeval reads precision
    oks: np.ndarray  # (I,) float64: sum over the labelled people of an image, see ``match_people``

    def ap(self, counts: np.ndarray | None = None) -> float | None:
        """AP (mean over OKS .50 to .95, all areas) where image i counts ``counts[i]`` times, by default once.

        counts: (I,) whole numbers. The mean is over the categories with labelled people, None where there are none.
        With every image once it is COCOeval's own figure to the last bit.
        """
        counts = np.ones(len(self.image_ids), np.int64) if counts is None else counts
        labelled = [int(counts @ category.labelled) for category in self.categories]
        found = [self._precision(c, counts, n) for c, n in zip(self.categories, labelled, strict=True) if n]
        return float(np.mean(np.stack(found, axis=-1).reshape(-1))) if found else None

    def _precision(self, category: _Category, counts: np.ndarray, labelled: int) -> np.ndarray:
        """Precision (T, 101) at each OKS threshold and recall. It is read at right answers alone: at a wrong one recall
        does not rise, and precision falls below that of the right one before."""
        precision = np.zeros((len(category.counted), len(self.recalls)))
        for row, images, right in zip(precision, category.counted, category.right, strict=True):
            weights = counts[images]
            hits = np.cumsum(weights[right])
            envelope = hits / (np.cumsum(weights)[right] + np.spacing(1))
            envelope = np.maximum.accumulate(envelope[::-1])[::-1]
            at = np.searchsorted(hits / labelled, self.recalls)
            reached = at < len(hits)
            row[reached] = envelope[at[reached]]
        return precision


def match_people(
    results: Mapping[int, PoseResult],
    dataset: CocoKeypoints,
    skeleton: Skeleton,
    image_ids: Collection[int] | None = None,
    images: Convention = "all",
) -> MatchedPeople:
    """Match the people found to the labels; arguments and errors are those of ``evaluation.evaluate``.

    The OKS of a labelled person is that of the prediction which fits best, among the 20 best of its image and category,
    whatever its score; 0 where there is none. It needs no threshold that a small change could cross.
    """
    chosen = choose_images(dataset, image_ids, images)
    run = run_cocoeval(results, dataset, skeleton, chosen, by_area=False)
    oks = np.zeros(len(chosen))
    for category in dataset.categories:
        for index, image_id in enumerate(chosen):
            matrix, people = run.ious[image_id, category.id], run._gts[image_id, category.id]
            if len(matrix):
                oks[index] += sum(matrix[:, i].max() for i, person in enumerate(people) if not person["ignore"])
    size = len(chosen)
    categories = tuple(
        _category(run.evalImgs[k * size : (k + 1) * size]) for k in range(len(dataset.categories) if chosen else 0)
    )
    return MatchedPeople(tuple(chosen), categories, run.params.recThrs, oks)


def _category(evaluated: list[dict[str, Any] | None]) -> _Category:
    """From COCOeval's answers for every image of one category; None where it has neither people nor predictions."""
    labelled = np.array([0 if each is None else np.count_nonzero(each["gtIgnore"] == 0) for each in evaluated])
    some = [(index, each) for index, each in enumerate(evaluated) if each is not None]
    if not some:
        return _Category(labelled, (), ())
    images = np.concatenate([np.full(len(each["dtScores"]), index) for index, each in some])
    order = np.argsort(-np.concatenate([each["dtScores"] for _, each in some]), kind="mergesort")
    matched = np.concatenate([each["dtMatches"] for _, each in some], axis=1)[:, order] > 0  # (T, D)
    counted = ~np.concatenate([each["dtIgnore"] for _, each in some], axis=1)[:, order]
    return _Category(
        labelled,
        tuple(images[order][row] for row in counted),
        tuple(np.flatnonzero(hit[row]) for hit, row in zip(matched, counted, strict=True)),
    )


@dataclass(frozen=True)
class APDifference:
    """Keypoint AP of two results on the same images, 0..1, and how sure their difference is."""

    before: float
    after: float
    difference: float  # after - before
    interval: tuple[float, float] | None  # 95 % of the differences of all draws; None for a single image
    resamples: int
    worst_image: int | None  # id of the image that loses most OKS, summed over its people; None where none loses

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def in_points(self) -> str:
        """In points of 100, e.g. ``24.25 -> 24.10 (-0.15, 95 % interval -0.41 to 0.09)``."""
        interval = ""
        if self.interval is not None:
            interval = f", 95 % interval {points(self.interval[0])} to {points(self.interval[1])}"
        return f"{points(self.before)} -> {points(self.after)} ({points(self.difference)}{interval})"


def points(fraction: float) -> str:
    """A figure of 0..1 in points of 100, without a "-0.00"."""
    return f"{round(100 * fraction, 2) + 0.0:.2f}"


def ap_difference(
    before: MatchedPeople, after: MatchedPeople, resamples: int = RESAMPLES, seed: int = 0
) -> APDifference | None:
    """Difference in AP with its paired bootstrap interval (percentiles); None where no labelled person decides it.

    The same arguments give the same answer. Draws without any labelled person, which only tiny sets have, are left out.
    ValueError for results of different images.
    """
    if before.image_ids != after.image_ids:
        raise ValueError("the two results are not of the same images: there is nothing to pair")
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
    interval = None
    if differences:
        low, high = np.percentile(differences, PERCENTILES)
        interval = (float(low), float(high))
    lost = before.oks - after.oks
    worst = int(lost.argmax())  # the first of equal ones
    worst_image = before.image_ids[worst] if lost[worst] > 0 else None
    return APDifference(first, second, second - first, interval, resamples, worst_image)
