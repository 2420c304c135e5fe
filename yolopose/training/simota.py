"""SimOTA with keypoints: which anchor points learn which person (YOLOX; YOLOX-Pose of mmpose adds OKS to the cost).

An anchor point may learn a person if its centre lies in the person's box or within 2.5 strides of the box's centre.
Costs compare what the network now predicts there with the person; each person takes its k cheapest points, k being the
sum of its ten best IoUs, at least 1; a point wanted twice goes to the cheaper person. Who has lost all points that way
(in a crowd, early in training) takes the cheapest that is free, which the papers leave out: nobody who can be seen is
taught as background. Everything is computed for a whole batch on the (person, point) pairs that may match.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batch import People
from .iou import iou
from .keypoint_loss import oks
from .matching import Guess, Matches, Rows, owners, where_inside

MOST_POINTS = 10
IOU_WEIGHT = OKS_WEIGHT = 3.0
OUTSIDE = 1e5  # cost of a point that is not both in the box and near its centre
SMALL = 1e-6


@torch.no_grad()
def assign(guess: Guess, priors: Tensor, people: People, sigmas: Tensor) -> Matches:
    """priors: (1, P, N) column, row and stride of each point; sigmas: (K,)."""
    in_box, near = where_inside(priors, people.boxes)
    image, person, point = ((in_box | near) & people.valid[..., None]).nonzero(as_tuple=True)
    both = in_box[image, person, point] & near[image, person, point]
    overlap, cost = _pair_costs(guess, people, sigmas, image, person, point)
    cost += OUTSIDE * ~both

    if not len(cost):
        return Matches(image, point, person)

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
