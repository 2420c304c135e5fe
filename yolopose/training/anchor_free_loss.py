"""Loss of the YOLOX-Pose head: SimOTA label assignment, then box, objectness, class, keypoints and visibility.

Weights are those of YOLOX-Pose in mmpose (yoloxpose_head.py). Each term is a sum over matched anchor points divided by
their number over all processes; keypoint terms are divided by the number of those whose person has labeled keypoints.
The objectness target is 1 at every matched point. The class target is OKS^0.5, the quality of the point's pose, so that
the product of the two scores ranks people as COCO does.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads import HeadOutput
from ..model.heads.anchor_free import AnchorFreeHead
from .distributed import mean_positives
from .head_loss import HeadLoss, scored_points
from .label_assignment import AnchorPredictions, Assignment, PairTable, inside_or_near, resolve_conflicts
from .similarity import iou, oks

BOX, OBJECTNESS, CLASSES, VISIBILITY = 5.0, 1.0, 1.0, 1.0
# All keypoint losses begin at about the same size; the weight of OKS is that of mmpose.
KEYPOINTS = {"oks": 30.0, "l1": 3.0, "scaled-l1": 30.0}
QUALITY_POWER = 0.5  # of OKS, as the target of the class score

# SimOTA
MAX_POINTS = 10  # per person
IOU_WEIGHT = OKS_WEIGHT = 3.0  # of the costs
OUTSIDE_COST = 1e5  # for points that are not both inside the box and near its center
EPSILON = 1e-6


class AnchorFreeLoss(HeadLoss[AnchorFreeHead]):
    """Terms "box", "objectness", "classes", "keypoints" and "visibility"."""

    keypoint_weights = KEYPOINTS
    visibility_weight = VISIBILITY

    def terms(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        assignment = assign(self._predictions(raw), raw.priors, people, self.keypoint_loss.sigmas)
        matched = self.positives(raw, people, assignment)
        wanted, labeled = matched.people, matched.labeled
        counts = torch.stack((labeled.new_tensor(len(labeled), dtype=torch.int64), labeled.sum()))
        positives, with_keypoints = mean_positives(counts).unbind()

        overlap = iou(matched.boxes, wanted.boxes)
        similarity = oks(
            matched.keypoints.detach(), wanted.keypoints, wanted.visible, wanted.areas, self.keypoint_loss.sigmas
        )
        quality = torch.where(labeled, similarity.pow(QUALITY_POWER), overlap.detach())
        target = F.one_hot(wanted.labels, matched.classes.shape[1]) * quality[:, None]
        classes = F.binary_cross_entropy_with_logits(matched.classes, target, reduction="sum")
        return {
            "box": BOX * (1 - overlap.square()).sum() / positives,
            "objectness": OBJECTNESS * _objectness(raw, people, assignment) / positives,
            "classes": CLASSES * classes / positives,
            **self.keypoint_terms(matched, with_keypoints),
        }

    @torch.no_grad()
    def _predictions(self, raw: HeadOutput) -> AnchorPredictions:
        boxes, scores = self.boxes_and_scores(raw)
        xy, _ = self.head.decode_keypoints(raw.keypoints.float(), raw.priors)
        return AnchorPredictions(boxes, scores, xy.permute(0, 3, 1, 2))


def _objectness(raw: HeadOutput, people: People, assignment: Assignment) -> Tensor:
    """Sum over all points but unmatched ones in crowd regions."""
    logits = raw.objectness[:, 0].float()
    target = torch.zeros_like(logits)
    target[assignment.image, assignment.point] = 1
    terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(scored_points(raw.priors, people, assignment), terms, 0.0).sum()


@torch.no_grad()
def assign(predictions: AnchorPredictions, priors: Tensor, people: People, sigmas: Tensor) -> Assignment:
    """SimOTA with keypoints (YOLOX, Ge et al. 2021; mmpose's YOLOX-Pose adds OKS to the cost), for a whole batch.

    A point may match a person if it lies inside the person's box or within 2.5 strides of the box's center. Each person
    takes its k cheapest points, k being the sum of its ten highest IoUs, at least 1; a point that several people take
    goes to the lowest cost. One addition to the papers: a person who loses all points that way (in a crowd, early in
    training) takes the cheapest free one, because otherwise a visible person would be trained as background.

    priors: (1, 3, N) column, row and stride of each point; sigmas: (K,)
    """
    inside, near = inside_or_near(priors, people.boxes)
    image, person, point = ((inside | near) & people.valid[..., None]).nonzero(as_tuple=True)
    both = inside[image, person, point] & near[image, person, point]
    overlap, cost = _pair_costs(predictions, people, sigmas, image, person, point)
    cost += OUTSIDE_COST * ~both
    if not len(cost):
        return Assignment(image, point, person)

    batch, people_per_image, points = inside.shape
    table = PairTable(image * people_per_image + person)
    costs, cells = table.fill(cost, torch.inf), table.fill(image * points + point, 0)
    owner = resolve_conflicts(costs, cells, _cheapest(costs, table.fill(overlap, 0.0)), batch * points)
    return table.assignment(owner, points, people_per_image)


def _pair_costs(
    predictions: AnchorPredictions, people: People, sigmas: Tensor, image: Tensor, person: Tensor, point: Tensor
) -> tuple[Tensor, Tensor]:
    """IoU and cost of each pair, both (pairs,)."""
    overlap = iou(predictions.boxes[image, point], people.boxes[image, person])
    visible = people.visible[image, person]
    similarity = oks(
        predictions.keypoints[image, point], people.keypoints[image, person], visible, people.areas[image, person],
        sigmas,
    )  # fmt: skip
    scores = predictions.scores[image, point].clamp(EPSILON, 1 - EPSILON)
    wanted = F.one_hot(people.labels[image, person], scores.shape[1]).float()
    cost = F.binary_cross_entropy(scores.sqrt().clamp(max=1 - EPSILON), wanted, reduction="none").sum(-1)
    cost -= IOU_WEIGHT * (overlap + EPSILON).log()
    cost -= torch.where(visible.any(-1), OKS_WEIGHT * (similarity + EPSILON).log(), 0.0)
    return overlap, torch.nan_to_num(cost, nan=OUTSIDE_COST, posinf=OUTSIDE_COST)


def _cheapest(costs: Tensor, overlaps: Tensor) -> Tensor:
    """(R, L) bool: the k cheapest points of each person, k from its highest IoUs, at least 1."""
    most = min(MAX_POINTS, costs.shape[1])
    k = overlaps.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)
    values, columns = costs.topk(most, dim=1, largest=False)
    taken = (torch.arange(most, device=costs.device) < k[:, None]) & values.isfinite()
    return torch.zeros_like(costs, dtype=torch.bool).scatter_(1, columns, taken)
