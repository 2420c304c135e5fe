"""People and predictions for tests of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from yolopose.data.batch import People

SIGMAS = (0.05, 0.05, 0.1)


def some_people(batch: int = 2, most: int = 3, size: float = 64, classes: int = 1, seed: int = 1) -> People:
    """Valid people of 3 keypoints, boxes within ``size`` px, some keypoints not labelled."""
    rng = torch.Generator().manual_seed(seed)
    corner, sides = size * 0.6 * torch.rand(batch, most, 2, generator=rng), torch.rand(batch, most, 2, generator=rng)
    sides = size * (0.1 + 0.3 * sides)
    visible = torch.rand(batch, most, len(SIGMAS), generator=rng) > 0.3
    keypoints = corner[:, :, None] + sides[:, :, None] * torch.rand(batch, most, len(SIGMAS), 2, generator=rng)
    return People(
        torch.cat((corner, corner + sides), dim=-1), keypoints * visible[..., None], visible, 0.5 * sides.prod(-1),
        torch.randint(classes, (batch, most), generator=rng), torch.ones(batch, most, dtype=torch.bool),
        torch.zeros(batch, most, dtype=torch.bool),
    )  # fmt: skip


def nobody(batch: int = 2, most: int = 0) -> People:
    """Padding alone."""
    return People(*(torch.zeros_like(part) for part in some_people(batch, most)))


def chosen(people: People, index: Tensor | slice) -> People:
    """Pictures ``index`` of the batch."""
    return People(*(part[index] for part in people))
