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

    if not len(cost):
        return Matches(image, point, person)

    batch, most, points = in_box.shape
    rows = _Rows(image * most + person)
    costs, cells = rows.table(cost, torch.inf), rows.table(image * points + point, 0)
    owner = _owners(costs, cells, _cheapest(costs, rows.table(overlap, 0.0)), batch * points)
    taken = (owner >= 0).nonzero().squeeze(1)
    return Matches(taken // points, taken % points, rows.names[owner[taken]] % most)


class _Rows:
    """Pairs that are sorted by person, as a table with a row for each: few points may match one person.

    names: (R,) what the persons are called in ``persons``, (pairs,) rising.
    """

    def __init__(self, persons: Tensor) -> None:
        self.names, self._row, counts = persons.unique_consecutive(return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        self._place = torch.arange(len(persons), device=persons.device) - starts[self._row]
        self._shape = len(counts), int(counts.max())

    def table(self, values: Tensor, empty: float) -> Tensor:
        """(pairs,) -> (R, L), rows filled up with ``empty``."""
        table = values.new_full(self._shape, empty)
        table[self._row, self._place] = values
        return table


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
    """(R, L) bool: the k cheapest points of each person, k from its best overlaps, at least 1."""
    most = min(MOST_POINTS, costs.shape[1])
    k = overlaps.topk(most, dim=1).values.sum(dim=1).int().clamp(min=1)
    values, places = costs.topk(most, dim=1, largest=False)
    taken = (torch.arange(most, device=costs.device) < k[:, None]) & values.isfinite()
    return torch.zeros_like(costs, dtype=torch.bool).scatter_(1, places, taken)


def _owners(costs: Tensor, cells: Tensor, chosen: Tensor, count: int) -> Tensor:
    """(count,) int64: the row of the person who learns each cell, -1 where nobody does.

    costs: (R, L), inf where a row is filled up; cells: (R, L) the point, of ``count`` in all pictures; chosen: (R, L).
    """
    owner = cells.new_full((count,), -1)
    nobody = len(costs)
    waiting = chosen.any(1)
    while True:
        row, place = chosen.nonzero(as_tuple=True)
        cell, cost = cells[row, place], costs[row, place]
        least = costs.new_full((count,), torch.inf).scatter_reduce_(0, cell, cost, "amin")
        cheaper = cost == least[cell]  # between equals the earlier person
        asking = cells.new_full((count,), nobody).scatter_reduce_(0, cell[cheaper], row[cheaper], "amin")
        owner = torch.where(asking < nobody, asking, owner)
        served = torch.zeros(nobody + 1, dtype=torch.bool, device=costs.device)
        served[owner + 1] = True
        waiting = waiting & ~served[1:]
        row = waiting.nonzero().squeeze(1)
        cheapest = costs[row].masked_fill(owner[cells[row]] >= 0, torch.inf).min(dim=1)
        free = cheapest.values.isfinite()
        if not free.any():
            return owner
        chosen = torch.zeros_like(chosen)
        chosen[row[free], cheapest.indices[free]] = True
