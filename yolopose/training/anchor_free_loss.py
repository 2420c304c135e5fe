"""SimOTA with keypoints: which anchor points learn which person (YOLOX; YOLOX-Pose of mmpose adds OKS to the cost).

An anchor point may learn a person if its centre lies in the person's box or within 2.5 strides of the box's centre.
Costs compare what the network now predicts there with the person; each person takes its k cheapest points, k being the
sum of its ten best IoUs, at least 1; a point wanted twice goes to the cheaper person. Who has lost all points that way
(in a crowd, early in training) takes the cheapest that is free, which the papers leave out: nobody who can be seen is
taught as background. Everything is computed for a whole batch on the (person, point) pairs that may match.

The losses of YOLOX-Pose (mmpose's yoloxpose_head.py has the weights): box, objectness, class, keypoints, visibility.

Each term is a sum over matched anchor points divided by their number over all processes; keypoint terms, by the number
of those whose person has labelled keypoints. Objectness is 1 at every matched point; the class score learns how good
the point is, OKS^0.5, so that their product ranks people as COCO does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads import HeadOutput, at_anchors
from ..model.heads.anchor_free import AnchorFreeHead
from .label_assignment import Assignment, Guess, Rows, in_ignored, owners, where_inside
from .processes import mean_positives
from .settings import LossSettings
from .similarity import KeypointLoss, iou, oks

MOST_POINTS = 10
IOU_WEIGHT = OKS_WEIGHT = 3.0
OUTSIDE = 1e5  # cost of a point that is not both in the box and near its centre
SMALL = 1e-6


@torch.no_grad()
def assign(guess: Guess, priors: Tensor, people: People, sigmas: Tensor) -> Assignment:
    """priors: (1, P, N) column, row and stride of each point; sigmas: (K,)."""
    in_box, near = where_inside(priors, people.boxes)
    image, person, point = ((in_box | near) & people.valid[..., None]).nonzero(as_tuple=True)
    both = in_box[image, person, point] & near[image, person, point]
    overlap, cost = _pair_costs(guess, people, sigmas, image, person, point)
    cost += OUTSIDE * ~both

    if not len(cost):
        return Assignment(image, point, person)

    batch, most, points = in_box.shape
    rows = Rows(image * most + person)
    costs, cells = rows.table(cost, torch.inf), rows.table(image * points + point, 0)
    owner = owners(costs, cells, _cheapest(costs, rows.table(overlap, 0.0)), batch * points)
    return rows.matches(owner, points, most)


def _pair_costs(
    guess: Guess, people: People, sigmas: Tensor, image: Tensor, person: Tensor, point: Tensor
) -> tuple[Tensor, Tensor]:
    """IoU and cost of each pair, both (pairs,)."""
    overlap = iou(guess.boxes[image, point], people.boxes[image, person])
    visible = people.visible[image, person]
    similarity = oks(
        guess.keypoints[image, point], people.keypoints[image, person], visible, people.areas[image, person], sigmas
    )
    scores = guess.scores[image, point].clamp(SMALL, 1 - SMALL)
    wanted = F.one_hot(people.labels[image, person], scores.shape[1]).float()
    cost = F.binary_cross_entropy(scores.sqrt().clamp(max=1 - SMALL), wanted, reduction="none").sum(-1)
    cost -= IOU_WEIGHT * (overlap + SMALL).log()
    cost -= torch.where(visible.any(-1), OKS_WEIGHT * (similarity + SMALL).log(), 0.0)
    return overlap, torch.nan_to_num(cost, nan=OUTSIDE, posinf=OUTSIDE)


def _cheapest(costs: Tensor, overlaps: Tensor) -> Tensor:
    """(R, L) bool: the k cheapest points of each person, k from its best overlaps, at least 1."""
    most = min(MOST_POINTS, costs.shape[1])
    k = overlaps.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)
    values, places = costs.topk(most, dim=1, largest=False)
    taken = (torch.arange(most, device=costs.device) < k[:, None]) & values.isfinite()
    return torch.zeros_like(costs, dtype=torch.bool).scatter_(1, places, taken)


BOX, OBJECTNESS, CLASSES, VISIBILITY = 5.0, 1.0, 1.0, 1.0
# So that each keypoint loss begins at about the same size; OKS as in mmpose.
KEYPOINTS = {"oks": 30.0, "l1": 3.0, "scaled-l1": 30.0}
QUALITY_POWER = 0.5  # of OKS as the target of the class score


class AnchorFreeLoss(nn.Module):
    """Losses of an anchor-free head for a batch of people. Computed in float32."""

    def __init__(self, head: AnchorFreeHead, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__()
        self.head = [head]  # in a list: its weights are the network's, not the loss's
        self.keypoints_weight = settings.weight_among(KEYPOINTS)
        self.keypoint_loss = KeypointLoss(sigmas, settings.keypoint_loss, settings.robust)

    def forward(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        """Weighted terms, scalars whose sum is the loss; finite for any people, none included."""
        head = self.head[0]
        matches = assign(_guess(head, raw), raw.priors, people, self.keypoint_loss.sigmas)
        image, point, person = matches
        priors = raw.priors[:, :, point]
        wanted = People(*(part[image, person] for part in people))
        labelled = wanted.visible.any(-1)
        counts = torch.stack((labelled.new_tensor(len(labelled), dtype=torch.int64), labelled.sum()))
        positives, with_keypoints = mean_positives(counts).unbind()

        overlap = iou(head.decode_boxes(at_anchors(raw.boxes, image, point).float(), priors)[0].T, wanted.boxes)
        encoded = at_anchors(raw.keypoints, image, point).float()
        found = head.decode_keypoints(encoded, priors)[0][0].permute(2, 0, 1)  # (P, K, 2)
        similarity = oks(found.detach(), wanted.keypoints, wanted.visible, wanted.areas, self.keypoint_loss.sigmas)
        quality = torch.where(labelled, similarity.pow(QUALITY_POWER), overlap.detach())
        classes = at_anchors(raw.classes, image, point).float()[0].T
        target = F.one_hot(wanted.labels, classes.shape[1]) * quality[:, None]
        pose = self.keypoint_loss(found, wanted.keypoints, wanted.visible, wanted.areas, priors[0, 2])
        seen = head.keypoint_logits(encoded, priors)[0].T  # (P, K)
        seen = F.binary_cross_entropy_with_logits(seen, wanted.visible.float(), reduction="none").mean(-1)
        return {
            "box": BOX * (1 - overlap.square()).sum() / positives,
            "objectness": OBJECTNESS * self._objectness(raw, people, matches) / positives,
            "classes": CLASSES * F.binary_cross_entropy_with_logits(classes, target, reduction="sum") / positives,
            "keypoints": self.keypoints_weight * pose.sum() / with_keypoints,
            "visibility": VISIBILITY * torch.where(labelled, seen, 0.0).sum() / with_keypoints,
        }

    def _objectness(self, raw: HeadOutput, people: People, matches: Assignment) -> Tensor:
        """Sum over all points but those, unmatched, whose centre lies in a region to ignore."""
        logits = raw.objectness[:, 0].float()
        target = torch.zeros_like(logits)
        target[matches.image, matches.point] = 1
        terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if people.ignore.any():
            terms = terms * ~(in_ignored(raw.priors, people) & (target == 0))
        return terms.sum()


@torch.no_grad()
def _guess(head: AnchorFreeHead, raw: HeadOutput) -> Guess:
    """What all points predict; the losses decode the few that are matched once more, with a gradient."""
    raw = HeadOutput(*(part.float() for part in raw))
    boxes = head.decode_boxes(raw.boxes, raw.priors).mT
    xy, _ = head.decode_keypoints(raw.keypoints, raw.priors)
    return Guess(boxes, head.scores(raw.objectness, raw.classes).mT, xy.permute(0, 3, 1, 2))
