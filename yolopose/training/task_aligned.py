"""Task-aligned matching (TOOD, Feng et al. 2021, https://arxiv.org/abs/2108.07755, section 3.2).

How well an anchor point now does for a person is t = s^A * u^B: its score for the person's class, and the IoU of its
box. Each person takes the ``most`` points of largest t whose centres lie in its box, or near its centre where the box
holds none; a point wanted twice goes to the larger t, and who has lost all takes the best that is free, as in
simota.py. What the score of a point shall be is t, scaled so that the best point of a person gets that person's best
IoU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.batch import People
from .iou import iou
from .matching import Matches, Rows, owners, where_inside

SCORE_POWER, IOU_POWER = 0.5, 6.0  # A, B: those that YOLOv8 was trained with
SMALL = 1e-3  # of scores and IoUs: early in training nobody overlaps


@torch.no_grad()
def assign(boxes: Tensor, scores: Tensor, priors: Tensor, people: People, most: int) -> tuple[Matches, Tensor]:
    """Predicted boxes (B, N, 4) xyxy px and scores (B, N, C) in 0..1; priors: (1, P, N) column, row and stride of each
    point -> P matched pairs and (P,) the scores that they shall have, in 0..1."""
    in_box, near = where_inside(priors, people.boxes)
    possible = torch.where(in_box.any(-1, keepdim=True), in_box, near)
    image, person, point = (possible & people.valid[..., None]).nonzero(as_tuple=True)
    overlap = iou(boxes[image, point], people.boxes[image, person])
    if not len(overlap):
        return Matches(image, point, person), overlap
    found = scores[image, point, people.labels[image, person]]
    alignment = SCORE_POWER * found.clamp(SMALL, 1).log() + IOU_POWER * overlap.clamp(SMALL, 1).log()

    batch, count, points = in_box.shape
    rows = Rows(image * count + person)
    costs = rows.table(-torch.nan_to_num(alignment, nan=-100.0), torch.inf)
    cells = rows.table(image * points + point, 0)
    values, places = costs.topk(min(most, costs.shape[1]), dim=1, largest=False)
    chosen = torch.zeros_like(costs, dtype=torch.bool).scatter_(1, places, values.isfinite())
    owner = owners(costs, cells, chosen, batch * points)
    matches = rows.matches(owner, points, count)

    # of the points that each person has got: its best t and its best IoU
    got = (owner[cells] == torch.arange(len(costs), device=costs.device)[:, None]) & costs.isfinite()
    best_cost = costs.masked_fill(~got, torch.inf).amin(1)
    best_overlap = rows.table(overlap, 0.0).masked_fill(~got, 0.0).amax(1)
    row, place = got.nonzero(as_tuple=True)
    quality = scores.new_zeros(batch * points)
    quality[cells[row, place]] = (best_cost[row] - costs[row, place]).exp() * best_overlap[row]
    return matches, quality[matches.image * points + matches.point]
