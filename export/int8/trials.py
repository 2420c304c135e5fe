"""What an int8 graph loses against the float32 graph on the images of the search: poses, and keypoint AP.

Every person of the float32 graph is compared with the nearest in pose of the other graph: with best keypoints among all
candidates, before suppression, because which of several near-equal candidates suppresses the others is chance; with
consensus keypoints among the people, because all candidates of a person then have nearly the same pose, whatever their
scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from yolopose.bootstrap import match_image_set
from yolopose.data.image_set import ImageSet
from yolopose.evaluation import AP_SCORE_THRESHOLD, MATCH_IOU, iou_matrix, oks_to_reference
from yolopose.runtime.backends.base import RawPeople
from yolopose.runtime.contract import POSE_SCORES, InputInfo
from yolopose.runtime.estimator import people_in_image
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from ..graph import feed, in_batches, letterboxed, open_session

POSE_LOSS_PEOPLE = 10  # people of an image that count in ``pose_loss``, best first
AP_DRAWS = 16  # bootstrap samples over which the AP drop is averaged
IOU, NO_SUPPRESSION = 0.65, 1.0  # IoU thresholds
SAME_PERSON_OKS = 0.999  # OKS of a person with itself is at least this


@dataclass(frozen=True)
class PoseChange:
    """From the n people of an image in float32 to the nearest in pose of another graph."""

    oks: np.ndarray  # (n,) with that candidate; 0 where no box overlaps
    keypoints: np.ndarray  # (n, K, 2) px, difference
    pose_scores: np.ndarray  # (n,) difference; minus the whole pose score where no box overlaps


def pose_change(expected: PoseResult, candidates: PoseResult, skeleton: Skeleton) -> PoseChange:
    """expected: people in float32; candidates: those of the other graph among which the nearest are looked for."""
    n = len(expected)
    keypoints, scores = np.zeros_like(expected.keypoints), -expected.pose_scores.astype(np.float64)
    if n == 0 or len(candidates) == 0:
        return PoseChange(np.zeros(n), keypoints, scores)
    oks = np.nan_to_num(oks_to_reference(candidates, expected, skeleton))
    oks[~(iou_matrix(candidates.boxes, expected.boxes) >= MATCH_IOU)] = 0
    nearest, best = oks.argmax(0), oks.max(0)
    found = best > 0
    keypoints[found] = (candidates.keypoints[nearest] - expected.keypoints)[found]
    scores[found] = (candidates.pose_scores[nearest].astype(np.float64) - expected.pose_scores)[found]
    return PoseChange(best, keypoints, scores)


def pose_loss(expected: Sequence[PoseResult], changes: Sequence[PoseChange]) -> float:
    """1 - OKS of the best people of each image, weighted by their scores; 0..1. It is smooth, where AP has steps."""
    lost = total = 0.0
    for people, change in zip(expected, changes, strict=True):
        weights = people.scores[:POSE_LOSS_PEOPLE].astype(np.float64)
        lost += float(weights @ (1 - change.oks[:POSE_LOSS_PEOPLE]))
        total += float(weights.sum())
    return lost / total if total else 0.0


def bootstrap_sample(expected: PoseResult, change: PoseChange, rng: np.random.Generator) -> PoseResult:
    """The people with their changes, where the change of each person gets a random sign (wild bootstrap).

    One run of an int8 graph is a single draw of rounding errors, which raise or lower the AP of a few hundred images by
    chance. Random signs draw errors of the same size per person, with the same correlation between keypoints, as often
    as needed; the mean AP over the draws shows what such errors cost. C. F. J. Wu, Annals of Statistics 14, 1986.
    """
    signs = rng.choice((-1.0, 1.0), len(expected))
    scores = np.clip(expected.pose_scores + np.where(change.oks > 0, signs, 1.0) * change.pose_scores, 0, 1)
    keypoints = expected.keypoints + signs[:, None, None] * change.keypoints
    return replace(expected, keypoints=keypoints.astype(np.float32), pose_scores=scores.astype(np.float32))


@dataclass(frozen=True)
class Trial:
    """Loss of one int8 graph against float32. ``drop`` and ``error`` are None without labels."""

    pose_loss: float  # see ``pose_loss``
    drop: float | None = None  # points of keypoint AP, mean over draws
    error: float | None = None  # standard error of that mean

    @property
    def loss(self) -> float:
        """What the search minimizes: the AP drop, without labels the pose loss."""
        return self.pose_loss if self.drop is None else self.drop

    @property
    def description(self) -> str:
        poses = f"mean OKS with float32 {1 - self.pose_loss:.4f}"
        if self.drop is None:
            return poses
        return f"{poses}, keypoint AP lost {self.drop:.2f} points, standard error {self.error:.2f}"


class Trials:
    """Runs graphs on the images of the search, with ONNX Runtime on the CPU, and compares them with ``model``.

    model: the float32 graph; all graphs have inputs and outputs as in the contract. given: the input of the contract.
    """

    def __init__(self, model: onnx.ModelProto, images: ImageSet, given: InputInfo, skeleton: Skeleton) -> None:
        self.images, self.skeleton = images, skeleton
        self.rows = given.batch.min
        self.frames = letterboxed(images, given)
        consensus = any(output.name == POSE_SCORES for output in model.graph.output)
        self._compared_at = IOU if consensus else NO_SUPPRESSION
        self._expected = self._people(model, len(self.frames), IOU)
        # Without suppression, candidates of a few people may fill all M rows of an artifact: leave out the others.
        unchanged = self._changes(model, len(self.frames))
        pairs = zip(self._expected, unchanged, strict=True)
        self._expected = [people[np.flatnonzero(change.oks > SAME_PERSON_OKS)] for people, change in pairs]
        self._ap = self._ap_of(self._expected)

    def loss(self, model: onnx.ModelProto, count: int) -> float:
        """``pose_loss`` on the first ``count`` images."""
        return pose_loss(self._expected[:count], self._changes(model, count))

    def run(self, model: onnx.ModelProto) -> Trial:
        """The losses on all images."""
        changes = self._changes(model, len(self.frames))
        loss = pose_loss(self._expected, changes)
        if self._ap is None:
            return Trial(loss)
        drops = []
        for draw in range(AP_DRAWS):
            rng = np.random.default_rng(draw)
            pairs = zip(self._expected, changes, strict=True)
            ap = self._ap_of([bootstrap_sample(people, change, rng) for people, change in pairs])
            assert ap is not None
            drops.append(100 * (self._ap - ap))
        return Trial(loss, float(np.mean(drops)), float(np.std(drops, ddof=1) / AP_DRAWS**0.5))

    def labels(self) -> list[tuple[object, ...]]:
        """All labels of the images, for a fingerprint; empty without labels."""
        labels = self.images.labels
        if labels is None:
            return []
        people = [person for image_id in self.images.image_ids for person in labels.people[image_id]]
        return [(p.image_id, p.area, p.is_crowd, p.keypoints.tolist()) for p in people]

    def _changes(self, model: onnx.ModelProto, count: int) -> list[PoseChange]:
        candidates = self._people(model, count, self._compared_at)
        pairs = zip(self._expected[:count], candidates, strict=True)
        return [pose_change(people, found, self.skeleton) for people, found in pairs]

    def _people(self, model: onnx.ModelProto, count: int, iou_threshold: float) -> list[PoseResult]:
        """People of the first ``count`` images above ``AP_SCORE_THRESHOLD``, in pixels of the images."""
        session = open_session(model)
        people = []
        for batch in in_batches(self.frames[:count], self.rows):
            frames = [frame for frame, _ in batch]
            raw = RawPeople(*session.run(None, feed(frames, AP_SCORE_THRESHOLD, iou_threshold, self.rows)))
            people += [people_in_image(raw, row, placement) for row, (_, placement) in enumerate(batch)]
        return people

    def _ap_of(self, people: list[PoseResult]) -> float | None:
        """None without labels, or if no labeled person counts."""
        return None if self.images.labels is None else match_image_set(people, self.images, self.skeleton).ap()
