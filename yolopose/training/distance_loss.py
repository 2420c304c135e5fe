"""Loss of the distance head (YOLOv8, YOLO11, YOLO26): task-aligned label assignment, then box, distribution of
distances, class, keypoints and visibility.

The class target of a point is its alignment quality (``assign``), 0 at unmatched points. Box terms, CIoU and the
distribution focal loss (Li et al. 2020, https://arxiv.org/abs/2006.04388, equation 6), are weighted by the same
quality. Class and box terms are divided by the sum of qualities over all processes, keypoint terms by the number of
matched points whose person has labeled keypoints. Weights are those with which YOLOv8 was trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads import HeadOutput
from ..model.heads.distance import DistanceHead
from .distributed import mean_positives
from .head_loss import HeadLoss, scored_points
from .label_assignment import Assignment, PairTable, anchor_centers, inside_or_near, resolve_conflicts
from .settings import LossSettings
from .similarity import ciou, iou

BOX, DISTRIBUTION, CLASSES, VISIBILITY = 7.5, 1.5, 0.5, 1.0
KEYPOINTS = {"oks": 12.0, "l1": 1.2, "scaled-l1": 12.0}

# Task-aligned assignment
MAX_POINTS = 10  # per person; 1 for a head that gives each person once
SCORE_POWER, IOU_POWER = 0.5, 6.0  # alpha and beta with which YOLOv8 was trained
EPSILON = 1e-3  # lower bound of scores and IoUs: early in training no box overlaps a person


class DistanceLoss(HeadLoss[DistanceHead]):
    """Terms "box", "classes", "keypoints" and "visibility"; "distribution" too if distances have more than one bin."""

    keypoint_weights = KEYPOINTS
    visibility_weight = VISIBILITY

    def __init__(self, head: DistanceHead, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__(head, sigmas, settings)
        self.max_points = 1 if head.settings.one_to_one else MAX_POINTS

    def terms(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        with torch.no_grad():
            boxes, scores = self.boxes_and_scores(raw)
        assignment, quality = assign(boxes, scores, raw.priors, people, self.max_points)
        matched = self.positives(raw, people, assignment)
        counts = torch.stack((quality.sum(), matched.labeled.sum().float()))
        total, with_keypoints = mean_positives(counts).unbind()

        overlap = ciou(matched.boxes, matched.people.boxes)
        terms = {
            "box": BOX * ((1 - overlap) * quality).sum() / total,
            "classes": CLASSES * _class_errors(raw, people, assignment, quality).sum() / total,
            **self.keypoint_terms(matched, with_keypoints),
        }
        bins = self.head.settings.bins
        if bins > 1:
            errors = _distribution_errors(matched.encoded_boxes, matched.people.boxes, matched.priors, bins)
            terms["distribution"] = DISTRIBUTION * (errors * quality).sum() / total
        return terms


def _class_errors(raw: HeadOutput, people: People, assignment: Assignment, quality: Tensor) -> Tensor:
    """(B, C, N), 0 at unmatched points in crowd regions."""
    logits = raw.classes.float()
    target = torch.zeros_like(logits)
    target[assignment.image, people.labels[assignment.image, assignment.person], assignment.point] = quality
    errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(scored_points(raw.priors, people, assignment)[:, None], errors, 0.0)


def _distribution_errors(encoded: Tensor, boxes: Tensor, priors: Tensor, bins: int) -> Tensor:
    """(4 * bins, P) logits, (P, 4) xyxy px -> (P,): cross-entropy of the two bins next to a distance, mean of 4."""
    centers, stride = anchor_centers(priors).T, priors[0, 2, :, None]  # (P, 2), (P, 1)
    distances = torch.cat((centers - boxes[:, :2], boxes[:, 2:] - centers), dim=1) / stride  # (P, 4)
    distances = distances.clamp(0, bins - 1)
    below = distances.floor().clamp(max=bins - 2).long()
    share = distances - below  # of the bin above
    logs = encoded.unflatten(0, (4, bins)).log_softmax(dim=1).permute(2, 0, 1)  # (P, 4, bins)
    lower, upper = (logs.gather(2, (below + step)[..., None]).squeeze(2) for step in (0, 1))
    return -(lower * (1 - share) + upper * share).mean(1)


@torch.no_grad()
def assign(boxes: Tensor, scores: Tensor, priors: Tensor, people: People, max_points: int) -> tuple[Assignment, Tensor]:
    """Task-aligned assignment (TOOD, Feng et al. 2021, https://arxiv.org/abs/2108.07755, section 3.2).

    The alignment of a point with a person is t = score^SCORE_POWER * IoU^IOU_POWER, of the score for the person's class
    and of the predicted box. Each person takes the ``max_points`` points of largest t inside its box, or near its
    center if the box holds none. A point that several people take goes to the largest t; a person who loses all points
    takes the best free one, as in SimOTA.

    boxes: (B, N, 4) predicted, xyxy px; scores: (B, N, C) in 0..1; priors: (1, 3, N) column, row and stride -> P pairs
    and (P,) their quality in 0..1: t, scaled so that the best point of a person has the person's highest IoU.
    """
    inside, near = inside_or_near(priors, people.boxes)
    possible = torch.where(inside.any(-1, keepdim=True), inside, near)
    image, person, point = (possible & people.valid[..., None]).nonzero(as_tuple=True)
    overlap = iou(boxes[image, point], people.boxes[image, person])
    if not len(overlap):
        return Assignment(image, point, person), overlap
    score = scores[image, point, people.labels[image, person]]
    alignment = SCORE_POWER * score.clamp(EPSILON, 1).log() + IOU_POWER * overlap.clamp(EPSILON, 1).log()

    batch, people_per_image, points = inside.shape
    table = PairTable(image * people_per_image + person)
    costs = table.fill(-torch.nan_to_num(alignment, nan=-100.0), torch.inf)
    cells = table.fill(image * points + point, 0)
    values, columns = costs.topk(min(max_points, costs.shape[1]), dim=1, largest=False)
    chosen = torch.zeros_like(costs, dtype=torch.bool).scatter_(1, columns, values.isfinite())
    owner = resolve_conflicts(costs, cells, chosen, batch * points)
    assignment = table.assignment(owner, points, people_per_image)

    # Best t and highest IoU among the points that each person received.
    received = (owner[cells] == torch.arange(len(costs), device=costs.device)[:, None]) & costs.isfinite()
    best_cost = costs.masked_fill(~received, torch.inf).amin(1)
    best_overlap = table.fill(overlap, 0.0).masked_fill(~received, 0.0).amax(1)
    row, column = received.nonzero(as_tuple=True)
    quality = scores.new_zeros(batch * points)
    quality[cells[row, column]] = (best_cost[row] - costs[row, column]).exp() * best_overlap[row]
    return assignment, quality[assignment.image * points + assignment.point]
