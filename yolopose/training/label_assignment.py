"""Which anchor points learn which person: what every rule of matching needs.

People and points are (B, G) and (B, N); a rule works on the few pairs that may match, as a table with a row a person.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batch import People

CENTRE_RADIUS = 2.5  # strides


class Assignment(NamedTuple):
    """P matched pairs: image, point and person are indices into B, N and G."""

    image: Tensor  # (P,) int64
    point: Tensor  # (P,) int64
    person: Tensor  # (P,) int64


class Guess(NamedTuple):
    """What the network predicts, without gradient, float32."""

    boxes: Tensor  # (B, N, 4) xyxy px
    scores: Tensor  # (B, N, C) 0..1
    keypoints: Tensor  # (B, N, K, 2) px


def centres_of(priors: Tensor) -> Tensor:
    """(1, P, N) -> (2, N) px."""
    return (priors[0, :2] + 0.5) * priors[0, 2]


def where_inside(priors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """(1, P, N) priors and (B, G, 4) px -> two (B, G, N) bool: in the box; near the centre of the box."""
    x, y = centres_of(priors)
    strides = priors[0, 2]
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    in_box = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    reach = CENTRE_RADIUS * strides
    near = ((x - (x1 + x2) / 2).abs() < reach) & ((y - (y1 + y2) / 2).abs() < reach)
    return in_box, near


def in_ignored(priors: Tensor, people: People) -> Tensor:
    """(B, N) bool: the point's centre lies in a region to ignore."""
    x, y = centres_of(priors)[:, None, None]
    x1, y1, x2, y2 = people.boxes[..., None].unbind(2)
    return ((x > x1) & (x < x2) & (y > y1) & (y < y2) & people.ignore[..., None]).any(1)


class Rows:
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

    def matches(self, owner: Tensor, points: int, most: int) -> Assignment:
        """owner: (B * points,) the row of who learns each point, -1 nobody; persons were image * most + person."""
        taken = (owner >= 0).nonzero().squeeze(1)
        return Assignment(taken // points, taken % points, self.names[owner[taken]] % most)


def owners(costs: Tensor, cells: Tensor, chosen: Tensor, count: int) -> Tensor:
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
