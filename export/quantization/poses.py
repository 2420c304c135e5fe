"""How int8 moves the poses of each person, told apart from which candidate suppresses which, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from yolopose.evaluation import iou_matrix, oks_matrix
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from ..parity import AREA_OF_BOX, MATCH_IOU

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
