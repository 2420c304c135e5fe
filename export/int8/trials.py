"""How int8 moves the poses of each person, told apart from which candidate suppresses which, and what that costs.

What a graph loses against the float32 one on the images of the search: in poses, and in keypoint AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from yolopose.bootstrap import match_people
from yolopose.data.image_set import ImageSet
from yolopose.evaluation import iou_matrix, oks_matrix
from yolopose.runtime.backends.base import OUTPUT_NAMES, RawPeople
from yolopose.runtime.contract import InputInfo
from yolopose.runtime.estimator import people_in_image
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from ..graph import feed, in_batches, letterboxed, open_session
from ..verify import AREA_OF_BOX, MATCH_IOU

PEOPLE = 10  # best ones of an image that count in ``pose_loss``


@dataclass(frozen=True)
class Change:
    """From the n people of an image, as float32 finds them, to the candidates nearest to them in pose."""

    oks: np.ndarray  # (n,) with that candidate; 0 where no box overlaps
    keypoints: np.ndarray  # (n, K, 2) px moved
    scores: np.ndarray  # (n,) added; the whole score is lost where nobody is found


def change(expected: PoseResult, found: PoseResult, skeleton: Skeleton) -> Change:
    """found: all candidates, not suppressed: one of several near-equal ones is chosen by chance, which is no change."""
    n = len(expected)
    moved, scores = np.zeros_like(expected.keypoints), -expected.scores.astype(np.float64)
    if n == 0 or len(found) == 0:
        return Change(np.zeros(n), moved, scores)
    sides = np.maximum(expected.boxes[:, 2:] - expected.boxes[:, :2], 1.0).astype(np.float64)
    seen = np.full((*expected.keypoints.shape[:2], 1), 2.0)
    truth = np.concatenate([expected.keypoints, seen], axis=2)
    oks = np.nan_to_num(oks_matrix(found.keypoints, truth, AREA_OF_BOX * sides.prod(1), skeleton.sigmas))
    oks[~(iou_matrix(found.boxes, expected.boxes) >= MATCH_IOU)] = 0
    nearest, best = oks.argmax(0), oks.max(0)
    there = best > 0
    moved[there] = (found.keypoints[nearest] - expected.keypoints)[there]
    scores[there] = (found.scores[nearest].astype(np.float64) - expected.scores)[there]
    return Change(best, moved, scores)


def pose_loss(expected: Sequence[PoseResult], changes: Sequence[Change]) -> float:
    """1 - OKS of the best people of each image, weighted by their scores; 0..1. Smooth where AP jumps."""
    lost = total = 0.0
    for people, moved in zip(expected, changes, strict=True):
        weights = people.scores[:PEOPLE].astype(np.float64)
        lost += float(weights @ (1 - moved.oks[:PEOPLE]))
        total += float(weights.sum())
    return lost / total if total else 0.0


def signed(expected: PoseResult, moved: Change, rng: np.random.Generator) -> PoseResult:
    """The people with their changes, each person's with a random sign (a wild bootstrap).

    One run of int8 is one draw of rounding errors, which on a few hundred images raise or lower AP by chance. With
    random signs the same errors, as large for each person and as correlated between keypoints as they are, are drawn
    as often as wanted; the mean of AP over draws is what such errors cost.
    """
    signs = rng.choice((-1.0, 1.0), len(expected))
    scores = np.clip(expected.scores + np.where(moved.oks > 0, signs, 1.0) * moved.scores, 0, 1)
    order = np.argsort(-scores, kind="stable")
    keypoints = expected.keypoints + signs[:, None, None] * moved.keypoints
    changed = replace(expected, keypoints=keypoints.astype(np.float32), scores=scores.astype(np.float32))
    return changed[order]


SCORE = 0.01  # keypoint AP wants the weak candidates too
DRAWS = 16
IOU, NO_SUPPRESSION = 0.65, 1.0
SAME = 0.999  # OKS of a person with itself


@dataclass(frozen=True)
class Trial:
    """pose_loss: 1 - mean OKS with float32. drop, error: points of keypoint AP that this costs, and the standard error
    of that mean over draws; None where there are no labels."""

    pose_loss: float
    drop: float | None = None
    error: float | None = None


class Trials:
    """Runs graphs with the contract's inputs and outputs on ONNX Runtime's CPU provider, image by image."""

    def __init__(
        self,
        model: onnx.ModelProto,
        images: ImageSet,
        given: InputInfo,
        skeleton: Skeleton,
    ) -> None:
        self.images, self.skeleton = images, skeleton
        self.rows = given.batch.min
        self.frames = letterboxed(images, given)
        self._expected = self._people(model, len(self.frames), IOU)
        # The M rows of an artifact may fill with candidates of the strongest people: the others cannot count.
        unchanged = self._changes(model, len(self.frames))
        pairs = zip(self._expected, unchanged, strict=True)
        self._expected = [people[np.flatnonzero(same.oks > SAME)] for people, same in pairs]
        self._ap = self._ap_of(self._expected)

    def loss(self, model: onnx.ModelProto, count: int) -> float:
        """``pose_loss`` on the first ``count`` images."""
        return pose_loss(self._expected[:count], self._changes(model, count))

    def run(self, model: onnx.ModelProto) -> Trial:
        """All images; where they are labelled also the keypoint AP that the changes of poses and scores cost."""
        changes = self._changes(model, len(self.frames))
        loss = pose_loss(self._expected, changes)
        if self._ap is None:
            return Trial(loss)
        drops = []
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            pairs = zip(self._expected, changes, strict=True)
            ap = self._ap_of([signed(people, moved, rng) for people, moved in pairs])
            assert ap is not None
            drops.append(100 * (self._ap - ap))
        return Trial(loss, float(np.mean(drops)), float(np.std(drops, ddof=1) / DRAWS**0.5))

    def labelled_people(self) -> list[tuple[object, ...]]:
        """What the labels of the images say, for a fingerprint; empty without labels."""
        labels = self.images.labels
        if labels is None:
            return []
        people = [person for image_id in self.images.image_ids for person in labels.people[image_id]]
        return [(p.image_id, p.area, p.is_crowd, p.keypoints.tolist()) for p in people]

    def _changes(self, model: onnx.ModelProto, count: int) -> list[Change]:
        found = self._people(model, count, NO_SUPPRESSION)
        return [change(*pair, self.skeleton) for pair in zip(self._expected[:count], found, strict=True)]

    def _people(self, model: onnx.ModelProto, count: int, iou_threshold: float) -> list[PoseResult]:
        """People of the first ``count`` images at score 0.01, in pixels of the images."""
        session = open_session(model)
        people = []
        for batch in in_batches(self.frames[:count], self.rows):
            frames = [frame for frame, _ in batch]
            raw = RawPeople(*session.run(OUTPUT_NAMES, feed(frames, SCORE, iou_threshold, self.rows)))
            people += [people_in_image(raw, row, placement) for row, (_, placement) in enumerate(batch)]
        return people

    def _ap_of(self, people: list[PoseResult]) -> float | None:
        if self.images.labels is None:
            return None
        by_id = dict(zip(self.images.image_ids, people, strict=True))
        return match_people(by_id, self.images.labels, self.skeleton, image_ids=self.images.image_ids).ap()
