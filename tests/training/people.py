"""People and predictions for tests of losses and label assignment."""

from __future__ import annotations

import torch
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import priors_of_level
from yolopose.training.label_assignment import AnchorPredictions, Assignment

SIGMAS = (0.05, 0.05, 0.1)
SIZE = 64  # px
PRIORS = torch.cat([priors_of_level(SIZE // s, SIZE // s, (s,), torch.zeros(1)) for s in (8, 16)], dim=2)
POINTS = PRIORS.shape[2]


def some_people(batch: int = 2, most: int = 3, size: float = 64, classes: int = 1, seed: int = 1) -> People:
    """Valid people with 3 keypoints, boxes within ``size`` px, some keypoints not labeled."""
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
    """Only padding."""
    return People(*(torch.zeros_like(part) for part in some_people(batch, most)))


def chosen(people: People, index: Tensor | slice) -> People:
    """Images ``index`` of the batch."""
    return People(*(part[index] for part in people))


def predictions_near(people: People, seed: int, spread: float, classes: int = 1) -> AnchorPredictions:
    """Each point of PRIORS predicts a random person of its image, ``spread`` px off."""
    rng = torch.Generator().manual_seed(seed)
    batch, most = people.valid.shape
    who = torch.randint(max(most, 1), (batch, POINTS), generator=rng)
    row = torch.arange(batch)[:, None]
    boxes = people.boxes[row, who] if most else torch.zeros(batch, POINTS, 4)
    keypoints = people.keypoints[row, who] if most else torch.zeros(batch, POINTS, len(SIGMAS), 2)
    return AnchorPredictions(
        boxes + spread * torch.randn(boxes.shape, generator=rng),
        torch.rand(batch, POINTS, classes, generator=rng),
        keypoints + spread * torch.randn(keypoints.shape, generator=rng),
    )


def pairs(assignment: Assignment) -> set[tuple[int, int, int]]:
    """(image, point, person) of each match."""
    return set(zip(*(part.tolist() for part in assignment), strict=True))
