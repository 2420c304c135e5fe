"""SimOTA with keypoints: which anchor points learn which person (YOLOX; YOLOX-Pose of mmpose adds OKS to the cost).

An anchor point may learn a person if its centre lies in the person's box or within 2.5 strides of the box's centre.
Costs compare what the network now predicts there with the person; each person takes its k cheapest points, k being the
sum of its ten best IoUs, at least 1; a point wanted twice goes to the cheaper person. Who has lost all points that way
(in a crowd, early in training) takes the cheapest that is free, which the papers leave out: nobody who can be seen is
taught as background. Everything is computed for a whole batch on the (person, point) pairs that may match.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batch import People
from .iou import iou
from .keypoint_loss import oks

CENTRE_RADIUS = 2.5  # strides
MOST_POINTS = 10
IOU_WEIGHT = OKS_WEIGHT = 3.0
OUTSIDE = 1e5  # cost of a point that is not both in the box and near its centre
SMALL = 1e-6


class Matches(NamedTuple):
    """P matched pairs: image, point and person are indices into B, N and G."""

    image: Tensor  # (P,) int64
    point: Tensor  # (P,) int64
    person: Tensor  # (P,) int64


class Guess(NamedTuple):
    """What the network predicts, without gradient, float32."""

    boxes: Tensor  # (B, N, 4) xyxy px
    scores: Tensor  # (B, N, C) 0..1
    keypoints: Tensor  # (B, N, K, 2) px


@torch.no_grad()
def assign(guess: Guess, priors: Tensor, people: People, sigmas: Tensor) -> Matches:
    """priors: (1, P, N) column, row and stride of each point; sigmas: (K,)."""
    centres, strides = (priors[0, :2] + 0.5) * priors[0, 2], priors[0, 2]
    in_box, near = _where_inside(centres, strides, people.boxes)
    image, person, point = ((in_box | near) & people.valid[..., None]).nonzero(as_tuple=True)
    both = in_box[image, person, point] & near[image, person, point]
    overlap, cost = _pair_costs(guess, people, sigmas, image, person, point)
    cost += OUTSIDE * ~both

    shape = in_box.shape
    costs = torch.full(shape, torch.inf, device=cost.device)
    costs[image, person, point] = cost
    overlaps = torch.zeros(shape, device=cost.device)
    overlaps[image, person, point] = overlap
    owner = _owners(costs, _cheapest(costs, overlaps))
    image, point = (owner >= 0).nonzero(as_tuple=True)
    return Matches(image, point, owner[image, point])


def _where_inside(centres: Tensor, strides: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(2, N) px, (N,) px and (B, G, 4) -> two (B, G, N) bool: in the box; near the centre of the box."""
    x, y = centres
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    in_box = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    reach = CENTRE_RADIUS * strides
    near = ((x - (x1 + x2) / 2).abs() < reach) & ((y - (y1 + y2) / 2).abs() < reach)
    return in_box, near


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
    """(B, G, N) bool: the k cheapest points of each person, k from its best overlaps, at least 1."""
    most = min(MOST_POINTS, costs.shape[2])
    k = overlaps.topk(most, dim=2).values.sum(dim=2).int().clamp(min=1)
    values, indices = costs.topk(most, dim=2, largest=False)
    taken = (torch.arange(most, device=costs.device) < k[..., None]) & values.isfinite()
    return torch.zeros_like(costs, dtype=torch.bool).scatter_(2, indices, taken)


def _owners(costs: Tensor, chosen: Tensor) -> Tensor:
    """(B, N) int64: the person who learns each point, -1 where nobody does.

    costs: (B, G, N), inf where a person may not learn a point; chosen: (B, G, N) bool.
    """
    batch, people, points = costs.shape
    owner = torch.full((batch, points), -1, dtype=torch.int64, device=costs.device)
    if not people:
        return owner
    waiting = chosen.any(2)
    while True:
        asked = torch.where(chosen, costs, torch.inf).min(dim=1)
        owner = torch.where(asked.values.isfinite(), asked.indices, owner)
        served = torch.zeros(batch, people + 1, dtype=torch.bool, device=costs.device).scatter_(1, owner + 1, True)
        waiting = waiting & ~served[:, 1:]
        image, person = waiting.nonzero(as_tuple=True)
        cheapest = costs[image, person].masked_fill(owner[image] >= 0, torch.inf).min(dim=1)
        free = cheapest.values.isfinite()
        if not free.any():
            return owner
        chosen = torch.zeros_like(chosen)
        chosen[image[free], person[free], cheapest.indices[free]] = True
