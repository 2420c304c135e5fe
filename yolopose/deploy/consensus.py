"""Consensus keypoints: the mean over the candidates that suppression throws away, and a score of the whole pose.

NMS keeps the candidate with the highest box score. The candidates it suppresses are predictions of the same person from
neighboring cells, and their mean is more accurate than any one of them. Supporter j of person m has the weight

    w = score_j * (IoU(m, j) - s) / (1 - s), 0 where IoU(m, j) <= s    (s: ``PoseInfo.support_iou``)

which falls to 0 at the edge, so that rounding never moves a keypoint by much. With all weights divided by their sum:

    keypoint xy, score v   weighted means over the supporters, the person itself among them
    spread                 square root of the weighted mean of the squared distance to the mean, px
    agreement e            exp(-spread^2 / (2 area (2 sigma)^2)), an OKS between the supporters
    pose score             score * (sum v^2 / sum v) * (sum v e / sum v), sums over keypoints

A mean weighted by v needs no threshold of visibility. Supporters may have any score above 0, so that neither keypoints
nor pose scores depend on the score threshold. Measurements: docs/experiments.md.

``consensus_of`` is the form in numpy, for the reference; ``Consensus.forward`` the one in the graph, with static shapes
and without intermediates larger than (C, M) or (M, supporters, K, 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yolopose.runtime.contract import PoseInfo

from ..evaluation import AREA_OF_BOX
from .nms import Candidates, Survivors, take

TINY = 1e-9  # instead of a sum of 0
FAR = 1e9  # px; boxes beyond it count as infinite, because their areas would exceed float32


class Poses(NamedTuple):
    """Poses of P people: keypoints (P, K, 2) px, keypoint scores (P, K), pose scores (P,), spread (P, K) px."""

    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    pose_scores: np.ndarray
    spread: np.ndarray


def consensus_of(
    people: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    keypoints: np.ndarray,
    keypoint_scores: np.ndarray,
    info: PoseInfo,
    sigmas: Sequence[float],
) -> Poses:
    """Consensus of the candidates at the indices ``people`` (P,), all arrays float32.

    boxes (N, 4) xyxy, scores (N,), keypoints (N, K, 2) and keypoint_scores (N, K) of the N candidates, by descending
    score. labels (N,): candidates with another label do not support.
    """
    p, k = len(people), len(sigmas)
    poses = Poses(*(np.zeros(shape, np.float32) for shape in ((p, k, 2), (p, k), (p,), (p, k))))
    deviations = 2 * AREA_OF_BOX * (2 * np.asarray(sigmas, np.float32)) ** 2
    for row, person in enumerate(people):
        chosen, weights, area = _supporters(int(person), boxes, scores, labels, info)
        points, visible = keypoints[chosen], keypoint_scores[chosen]  # (n, K, 2), (n, K)
        mean = (weights[:, None, None] * points).sum(0)
        squared = (weights[:, None] * ((points - mean) ** 2).sum(2)).sum(0)  # (K,)
        visibility = (weights[:, None] * visible).sum(0)
        agreement = np.exp(-squared / (deviations * max(area, 1.0)))
        total = max(float(visibility.sum()), TINY)
        poses.keypoints[row], poses.keypoint_scores[row], poses.spread[row] = mean, visibility, np.sqrt(squared)
        poses.pose_scores[row] = (
            scores[person] * ((visibility**2).sum() / total) * ((visibility * agreement).sum() / total)
        )
    return poses


def _supporters(
    person: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, info: PoseInfo
) -> tuple[np.ndarray, np.ndarray, float]:
    """Indices (n,) of the supporters by descending weight, their weights with sum 1, area of the person's box, px^2."""
    one, least = boxes[person], np.float32(info.support_iou)
    with np.errstate(invalid="ignore", over="ignore"):  # boxes that are not finite support nobody
        extent = np.maximum(np.minimum(one[2:], boxes[:, 2:]) - np.maximum(one[:2], boxes[:, :2]), 0)
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        intersection, area = extent[:, 0] * extent[:, 1], sides[:, 0] * sides[:, 1]
        union = area[person] + area - intersection
        supports = (intersection > least * union) & (scores > 0) & (labels == labels[person])
        weights = np.where(supports, (intersection / np.maximum(union, TINY) - least) * scores, np.float32(0))
    chosen = np.argsort(-weights, kind="stable")[: info.supporters]
    chosen = chosen[weights[chosen] > 0]
    if len(chosen) == 0:  # a box without area has no IoU, not even with itself
        return np.array([person]), np.ones(1, np.float32), float(area[person])
    return chosen, weights[chosen] / weights[chosen].sum(), float(area[person])


class Consensus(nn.Module):
    """The consensus in the graph. sigmas: of the K keypoints (``Skeleton.sigmas``)."""

    def __init__(self, info: PoseInfo, sigmas: Sequence[float], class_aware: bool) -> None:
        super().__init__()
        self.variances: Tensor
        self.info, self.class_aware = info, class_aware
        variances = 2 * AREA_OF_BOX * (2 * torch.tensor(sigmas, dtype=torch.float32)) ** 2
        self.register_buffer("variances", variances[:, None])  # (K, 1); times the area of the box, px^2

    def forward(
        self,
        candidates: Candidates,
        people: Survivors,
        boxes: Tensor,
        labels: Tensor,
        decode: Callable[[Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keypoints (B, M, K, 3), pose scores (B, M), spread (B, M, K); rows past the people are arbitrary.

        candidates: selected with ``supporters=True``; boxes (B, 4, C) xyxy and labels (B, C) of them. decode: anchors
        (B, n) int64 -> xy (B, K, 2, n) px, scores (B, K, n).
        """
        count = min(self.info.supporters, candidates.scores.shape[1])
        weights, supporters = torch.topk(self._weights(candidates, people, boxes, labels), count, dim=2)  # (B, M, S)
        # Without weight, the person itself: its values are finite where those of another may not be.
        supporters = torch.where(weights > 0, supporters, people.rows[:, :, None])
        total = weights.sum(dim=2, keepdim=True)
        weights = torch.where(total > 0, weights / total.clamp(min=TINY), 1.0 / count)
        # People last: backends broadcast and sum over the axis before it several times as fast as over the last.
        weights = weights.mT[:, None]  # (B, 1, S, M)
        anchors = torch.gather(candidates.anchors, 1, supporters.mT.flatten(1))  # (B, S * M)
        xy, visible = decode(anchors)
        points = xy.unflatten(3, (count, -1))  # (B, K, 2, S, M)
        mean = (points * weights[:, :, None]).sum(dim=3, keepdim=True)  # (B, K, 2, 1, M)
        offsets = points - mean
        squared = ((offsets * offsets).sum(dim=2) * weights).sum(dim=2)  # (B, K, M)
        visibility = (visible.unflatten(2, (count, -1)) * weights).sum(dim=2)  # (B, K, M)
        agreement = torch.exp(-squared / (self.variances * _areas(take(boxes, people.rows)).clamp(min=1)[:, None]))
        seen = visibility.sum(dim=1).clamp(min=TINY)
        pose = people.scores * ((visibility * visibility).sum(dim=1) / seen) * ((visibility * agreement).sum(1) / seen)
        keypoints = torch.cat((mean[:, :, :, 0], visibility[:, :, None]), dim=2).permute(0, 3, 1, 2)  # (B, M, K, 3)
        return keypoints, pose, squared.sqrt().permute(0, 2, 1)

    def _weights(self, candidates: Candidates, people: Survivors, boxes: Tensor, labels: Tensor) -> Tensor:
        """(B, M, C): not normalized, 0 where candidate C does not support person M."""
        finite = (boxes.abs() < FAR).all(dim=1, keepdim=True)
        boxes = torch.where(finite, boxes, 0.0)  # boxes without area have no IoU, not even with themselves
        own = take(boxes, people.rows)  # (B, 4, M)
        low, high, own_low, own_high = boxes[:, :2], boxes[:, 2:], own[:, :2], own[:, 2:]
        extent = torch.minimum(own_high[..., None], high[:, :, None]) - torch.maximum(
            own_low[..., None], low[:, :, None]
        )
        extent = extent.clamp(min=0)  # (B, 2, M, C)
        intersection = extent[:, 0] * extent[:, 1]  # (B, M, C)
        union = (_areas(own) + TINY)[:, :, None] + _areas(boxes)[:, None] - intersection
        weights = (intersection / union - self.info.support_iou).clamp(min=0)
        weights = weights * candidates.scores.clamp(min=0)[:, None]
        if self.class_aware:
            weights = weights * (torch.gather(labels, 1, people.rows)[:, :, None] == labels[:, None])
        return weights


def _areas(boxes: Tensor) -> Tensor:
    """(B, 4, n) xyxy -> (B, n)."""
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return sides[:, 0] * sides[:, 1]
