"""Label assignment: what the rules that match anchor points with people have in common.

Each rule is in the module of its loss: SimOTA in ``anchor_free_loss``, task-aligned assignment in ``distance_loss``,
YOLOv5's anchor shape matching in ``anchor_loss``.

B images, N anchor points, G people (rows of ``People``). SimOTA and task-aligned assignment work on the few pairs of
person and point that may match: a table with one row for each person.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batch import People

CENTER_RADIUS = 2.5  # strides


class Assignment(NamedTuple):
    """P matched pairs of anchor point and person; no (image, point) occurs twice."""

    image: Tensor  # (P,) int64, index into B
    point: Tensor  # (P,) int64, index into N
    person: Tensor  # (P,) int64, index into G


class AnchorPredictions(NamedTuple):
    """Decoded predictions of all anchor points, float32, without gradient."""

    boxes: Tensor  # (B, N, 4) xyxy px
    scores: Tensor  # (B, N, C) in 0..1
    keypoints: Tensor  # (B, N, K, 2) px


def anchor_centers(priors: Tensor) -> Tensor:
    """(1, P, N) priors of a head -> (2, N) x and y of each anchor point, px."""
    return (priors[0, :2] + 0.5) * priors[0, 2]


def inside_or_near(priors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Where anchor points lie relative to the boxes of people.

    (1, P, N) priors and (B, G, 4) xyxy px -> two (B, G, N) bool: the point is inside the box; the point is within
    CENTER_RADIUS strides of the box's center, in x and in y.
    """
    x, y = anchor_centers(priors)
    strides = priors[0, 2]
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    reach = CENTER_RADIUS * strides
    near = ((x - (x1 + x2) / 2).abs() < reach) & ((y - (y1 + y2) / 2).abs() < reach)
    return inside, near


def in_crowd(priors: Tensor, people: People) -> Tensor:
    """(1, P, N) priors -> (B, N) bool: the anchor point lies inside a crowd region."""
    image, row = people.ignore.nonzero(as_tuple=True)
    centers = anchor_centers(priors)
    boxes = people.boxes[image, row][..., None]  # (R, 4, 1)
    inside = ((centers > boxes[:, :2]) & (centers < boxes[:, 2:])).all(dim=1)
    hits = torch.zeros(len(people.ignore), priors.shape[-1], device=priors.device)
    return hits.index_add_(0, image, inside.to(hits.dtype)) > 0


class PairTable:
    """Candidate pairs, sorted by person, as a table with a row for each of the R people who have any.

    person_ids: (R,) which person each row is. L is the largest number of pairs of one person.
    """

    def __init__(self, person_ids: Tensor) -> None:
        """person_ids: (pairs,) int64 rising, the person of each pair, unique over all images."""
        self.person_ids, self._row, counts = person_ids.unique_consecutive(return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        self._column = torch.arange(len(person_ids), device=person_ids.device) - starts[self._row]
        self._shape = len(counts), int(counts.max())

    def fill(self, values: Tensor, empty: float) -> Tensor:
        """(pairs,) -> (R, L), with ``empty`` where a row has fewer than L pairs."""
        table = values.new_full(self._shape, empty)
        table[self._row, self._column] = values
        return table

    def assignment(self, owner: Tensor, points: int, people: int) -> Assignment:
        """owner: (B * points,) as from ``resolve_conflicts``; person ids must be image * people + person."""
        taken = (owner >= 0).nonzero().squeeze(1)
        return Assignment(taken // points, taken % points, self.person_ids[owner[taken]] % people)


def resolve_conflicts(costs: Tensor, cells: Tensor, chosen: Tensor, count: int) -> Tensor:
    """Assign each chosen point to one person -> (count,) int64: row of the person, -1 for points without one.

    A point that several people chose goes to the lowest cost; between equal costs to the earlier person. A person who
    loses all points takes the cheapest one that is free, until there is none.

    costs: (R, L), infinite where a row is filled up; cells: (R, L) int64, the point's index among ``count`` points of
    all images; chosen: (R, L) bool.
    """
    owner = cells.new_full((count,), -1)
    rows = len(costs)
    waiting = chosen.any(1)
    while True:
        row, column = chosen.nonzero(as_tuple=True)
        cell, cost = cells[row, column], costs[row, column]
        least = costs.new_full((count,), torch.inf).scatter_reduce_(0, cell, cost, "amin")
        cheapest = cost == least[cell]
        winner = cells.new_full((count,), rows).scatter_reduce_(0, cell[cheapest], row[cheapest], "amin")
        owner = torch.where(winner < rows, winner, owner)
        served = torch.zeros(rows + 1, dtype=torch.bool, device=costs.device)
        served[owner + 1] = True
        waiting = waiting & ~served[1:]
        row = waiting.nonzero().squeeze(1)
        best = costs[row].masked_fill(owner[cells[row]] >= 0, torch.inf).min(dim=1)
        free = best.values.isfinite()
        if not free.any():
            return owner
        chosen = torch.zeros_like(chosen)
        chosen[row[free], best.indices[free]] = True
