"""Non-maximum suppression (NMS) with static shapes, in operators that every backend has.

Greedy NMS visits candidates by descending score and keeps a candidate unless a kept one before it overlaps too much.
Written as ``keep = valid and not any(suppresses & keep)`` over the C best candidates, this is a fixed-point equation.
Because ``suppresses`` is strictly triangular, its only solution is the greedy answer. Iteration starts from ``keep =
valid``; after round t every candidate whose suppression chain is at most t deep has its final value. R rounds therefore
equal greedy NMS wherever chains are no deeper than R, and two equal last rounds show that this was so.

No shape depends on the data, so batches of any size, CUDA graphs and TensorRT without plugins work. Chain depths and
candidates measured on photographs: docs/experiments.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from yolopose.runtime.contract import NmsInfo


class Candidates(NamedTuple):
    """The C best anchors of each image by score; rows with ``valid`` False are not candidates.

    They are supporters (``select_candidates``) where their score is above 0, else padding.
    """

    scores: Tensor  # (B, C) descending, -1 for padding
    anchors: Tensor  # (B, C) int64 index of the anchor, 0 for padding
    valid: Tensor  # (B, C) bool
    total: Tensor  # (B,) int64 number of anchors above the threshold, also those beyond C


class Survivors(NamedTuple):
    """The M best candidates that NMS keeps; rows past ``total`` are padding."""

    scores: Tensor  # (B, M) descending, 0 past total
    rows: Tensor  # (B, M) int64 index into the C candidates
    valid: Tensor  # (B, M) bool
    total: Tensor  # (B,) int64, at most M
    people_cut: Tensor  # (B,) bool: more than M were kept
    converged: Tensor  # (B,) bool: the rounds reached the greedy answer


def take(values: Tensor, index: Tensor) -> Tensor:
    """Columns ``index`` (B, n) of ``values`` (B, F, N): (B, F, n)."""
    return torch.gather(values, 2, index[:, None].expand(-1, values.shape[1], -1))


def select_candidates(
    scores: Tensor, score_threshold: Tensor, num_candidates: int, supporters: bool = False
) -> Candidates:
    """The ``num_candidates`` (C) best anchors whose score exceeds the threshold.

    scores: (B, N) float32 in 0..1; score_threshold: (B, 1). N may be smaller than C, and is unknown during export.
    Therefore C columns of padding are appended to the scores, so that TopK always has C columns. supporters: rows that
    the candidates leave free hold the next anchors by score, for ``consensus``.
    """
    above = scores > score_threshold
    ranked = torch.where(scores > 0 if supporters else above, scores, torch.full_like(scores, -1.0))
    padding = torch.full_like(score_threshold, -1.0).expand(-1, num_candidates)
    top_scores, anchors = torch.topk(torch.cat((ranked, padding), dim=1), num_candidates, dim=1)
    filled = top_scores > -1.0
    valid = top_scores > score_threshold if supporters else filled
    return Candidates(top_scores, torch.where(filled, anchors, 0), valid, above.sum(dim=1))


def pairwise_overlaps(boxes: Tensor, iou_threshold: Tensor) -> Tensor:
    """(B, C, C) bool: IoU of boxes i and j exceeds the threshold.

    boxes: (B, 4, C) xyxy in pixels; iou_threshold: (B, 1). The comparison is intersection > threshold x union, which
    needs no division and is false for boxes without area.
    """
    x1, y1, x2, y2 = (boxes[:, i] for i in range(4))  # (B, C) each
    width = torch.minimum(x2[:, :, None], x2[:, None]) - torch.maximum(x1[:, :, None], x1[:, None])
    height = torch.minimum(y2[:, :, None], y2[:, None]) - torch.maximum(y1[:, :, None], y1[:, None])
    intersection = width.clamp(min=0) * height.clamp(min=0)
    area = (x2 - x1).clamp(min=0) * (y2 - y1).clamp(min=0)
    union = area[:, :, None] + area[:, None] - intersection
    return intersection > iou_threshold[:, :, None] * union


def keep_best(candidates: Candidates, iou_threshold: Tensor, nms: NmsInfo) -> Survivors:
    """The ``nms.max_people`` best candidates of a one-to-one head, which needs no suppression.

    The IoU threshold has no effect but stays an input of the graph; ``converged`` reads it and is true for 0..1.
    """
    images = candidates.scores.shape[0]  # len() would make the batch of the example constant
    rows = torch.arange(nms.max_people, device=candidates.scores.device).expand(images, -1)
    scores, valid = candidates.scores[:, : nms.max_people], candidates.valid[:, : nms.max_people]
    return Survivors(
        scores=scores.clamp(min=0.0),
        rows=rows,
        valid=valid,
        total=valid.sum(dim=1),
        people_cut=candidates.total > nms.max_people,
        converged=iou_threshold[:, 0] >= 0,
    )


def suppress(
    candidates: Candidates, boxes: Tensor, labels: Tensor | None, iou_threshold: Tensor, nms: NmsInfo
) -> Survivors:
    """NMS of the candidates in ``nms.rounds`` rounds, then the ``nms.max_people`` best.

    boxes: (B, 4, C) xyxy of the candidates; iou_threshold: (B, 1). labels: (B, C) integer; candidates with different
    labels do not suppress each other; None for a single class.
    """
    overlaps = pairwise_overlaps(boxes, iou_threshold)
    if labels is not None:
        overlaps = overlaps & (labels[:, :, None] == labels[:, None])
    suppresses = overlaps.float().tril(diagonal=-1)  # (B, C, C): [i, j] is 1 if j < i may suppress i
    valid = candidates.valid[:, :, None].float()  # (B, C, 1)
    keep = valid
    previous = valid
    for _ in range(nms.rounds):
        previous = keep
        keep = torch.relu(valid - torch.matmul(suppresses, keep))  # 1 if valid and not suppressed by a kept one
    converged = ((keep - previous).abs().sum(dim=(1, 2))) < 0.5
    kept = keep[:, :, 0]
    ranked = torch.where(kept > 0.5, candidates.scores, torch.full_like(candidates.scores, -1.0))
    scores, rows = torch.topk(ranked, nms.max_people, dim=1)
    alive = scores > -1.0
    return Survivors(
        scores=scores.clamp(min=0.0),
        rows=rows,
        valid=alive,
        total=alive.sum(dim=1),
        people_cut=kept.sum(dim=1) > nms.max_people + 0.5,
        converged=converged,
    )
