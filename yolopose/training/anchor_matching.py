"""Which anchors learn which person: the matching of YOLOv5 that the paper takes over, without a loop over people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..data.batch import People
from .iou import ciou

MAX_RATIO = 4.0  # between a side of a person's box and that of an anchor; the head can give (2 sigmoid)^2 < 4 at most
MIN_SIDE = 1e-3  # px; a box without width still has a best anchor


class Matches(NamedTuple):
    """M pairs of an anchor and the person that it learns; no (image, prior) stands twice."""

    images: Tensor  # (M,) int64, index into the batch
    priors: Tensor  # (M,) int64, index into the N of HeadOutput
    people: Tensor  # (M,) int64, index into the G of People


def level_sizes(priors: Tensor, strides: Sequence[int]) -> Tensor:
    """(1, 5, N) priors of an AnchorHead -> (L, 2) int64 columns and rows of each level, without waiting for the GPU."""
    columns_rows, stride = priors[0, :2], priors[0, 2]
    sizes = [torch.where(stride == level, columns_rows, -1.0).amax(dim=1) + 1 for level in strides]
    return torch.stack(sizes).long()


def match_anchors(people: People, shapes: Tensor, strides: Tensor, sizes: Tensor) -> Matches:
    """Match every valid person with at least one anchor, as far as anchors suffice.

    shapes: (L, A, 2) float32 anchor width and height, px; strides: (L,) float32; sizes: (L, 2) from ``level_sizes``.

    A person goes to all anchor shapes whose sides are within a factor of MAX_RATIO of its own, on all levels; there to
    the cell with its centre and to the neighbour on the nearer side, across and down, where the picture has one.

    Two differences from the reference. A person that no shape fits (a lying body at the picture's edge, a speck) takes
    the shape that fits best: left out, it would be taught as background. An anchor that several people claim learns
    one of them, where the reference lets the last written win its objectness and the others pull at its box: first
    comes the person for whom it is the best shape at the centre's cell, so that nobody loses everything to a
    neighbour who has other anchors; then the one whose box has the higher CIoU with the anchor around its cell's
    centre; between equal boxes the earlier row.
    """
    images, rows = people.valid.nonzero(as_tuple=True)
    boxes = people.boxes[images, rows].float()
    fits, best = _fitting_shapes((boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE), shapes)
    cells, usable = _cells((boxes[:, :2] + boxes[:, 2:]) / 2, strides, sizes)

    candidates = fits[..., None] & usable[:, :, None]  # (P, L, A, 3)
    person, level, shape, place = candidates.nonzero(as_tuple=True)
    column, row = cells[person, level, place].unbind(-1)
    width, height = sizes[level].unbind(-1)
    cells_of_level = sizes.prod(dim=1)
    starts = shapes.shape[1] * (cells_of_level.cumsum(0) - cells_of_level)
    prior = starts[level] + shape * (height * width) + row * width + column

    centres = (torch.stack((column, row), dim=-1) + 0.5) * strides[level, None]
    half = shapes[level, shape] / 2
    overlap = ciou(torch.cat((centres - half, centres + half), dim=-1), boxes[person])
    home = best[person, level, shape] & (place == 0)
    total = shapes.shape[1] * cells_of_level.sum()
    kept = _first_of_each(images[person] * total + prior, torch.where(home, overlap + 4, overlap))  # CIoU: -2..1
    return Matches(images[person[kept]], prior[kept], rows[person[kept]])


def _fitting_shapes(sides: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 2) sides and (L, A, 2) shapes, px -> two (P, L, A) bool: shapes that a person takes; the best of them."""
    ratios = sides[:, None, None] / shapes
    worst = torch.maximum(ratios, 1 / ratios).amax(dim=-1)
    flat = worst.flatten(1)
    best = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.argmin(dim=1, keepdim=True), True)
    return (worst < MAX_RATIO) | best.view_as(worst), best.view_as(worst)


def _cells(centres: Tensor, strides: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 2) centres px -> (P, L, 3, 2) int64 column and row of own cell, neighbour across, neighbour down; and
    (P, L, 3) bool: which of them exist. A centre outside the picture counts as on its edge."""
    grid = (centres[:, None] / strides[:, None]).clamp(min=0)  # (P, L, 2), in cells
    grid = torch.minimum(grid, sizes.to(grid.dtype))
    own = torch.minimum(grid.floor().long(), sizes - 1)
    inside = grid - own
    step = (inside > 0.5).long() - (inside < 0.5).long()  # 0 in the very middle: neither side is nearer
    none = torch.zeros_like(step[..., 0])
    steps = torch.stack(
        (torch.zeros_like(step), torch.stack((step[..., 0], none), -1), torch.stack((none, step[..., 1]), -1)), dim=2
    )
    cells = own[:, :, None] + steps
    exists = ((cells >= 0) & (cells < sizes[:, None])).all(dim=-1)
    moved = (steps != 0).any(dim=-1)
    moved[..., 0] = True
    return cells, exists & moved


def _first_of_each(keys: Tensor, values: Tensor) -> Tensor:
    """(M,) keys and values -> indices, by rising key, of the highest value of each key; the earlier one of equals."""
    order = values.argsort(descending=True, stable=True)
    order = order[keys[order].argsort(stable=True)]
    ordered = keys[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]
