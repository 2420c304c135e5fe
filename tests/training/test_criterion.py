"""Auxiliary heatmaps: targets are the OKS at each cell; cells without known labels are not trained."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.data.batch import People
from yolopose.training import criterion
from yolopose.training.criterion import MIN_WIDTH, PRIOR_BIAS, Heatmaps
from yolopose.training.similarity import oks

from .people import SIGMAS, chosen, nobody, some_people

STRIDE, CELLS = 8, (6, 8)  # 48 x 64 px


def branch() -> Heatmaps:
    torch.manual_seed(0)
    return Heatmaps(4, STRIDE, SIGMAS)


def by_hand(people: People, image: int, k: int, row: int, column: int) -> float:
    best = 0.0
    for person in range(people.valid.shape[1]):
        if people.visible[image, person, k]:
            x, y = people.keypoints[image, person, k].tolist()
            scale = max(2 * SIGMAS[k] * math.sqrt(people.areas[image, person]), MIN_WIDTH * STRIDE)
            squared = (x - (column + 0.5) * STRIDE) ** 2 + (y - (row + 0.5) * STRIDE) ** 2
            best = max(best, math.exp(-squared / scale**2 / 2))
    return best


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 3))
def test_target_is_a_gaussian_of_each_labeled_keypoint(seed: int, most: int) -> None:
    people = some_people(2, most, seed=seed)
    people = people._replace(areas=people.areas * 100)  # so that some are wider than the minimum width
    target = branch().targets(people, CELLS)
    assert target.shape == (2, len(SIGMAS), *CELLS)
    assert target.dtype == torch.float32
    expected = [
        [[[by_hand(people, b, k, r, c) for c in range(CELLS[1])] for r in range(CELLS[0])] for k in range(len(SIGMAS))]
        for b in range(2)
    ]
    torch.testing.assert_close(target, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_target_of_a_large_person_equals_oks() -> None:
    people = some_people(1, 1)._replace(areas=torch.tensor([[300.0**2]]), visible=torch.ones(1, 1, 3).bool())
    target = branch().targets(people, CELLS)
    cell = torch.tensor([3.5 * STRIDE, 2.5 * STRIDE]).expand(3, 2)
    for k in range(3):
        alone = torch.arange(3) == k
        same = oks(cell, people.keypoints[0, 0], alone, people.areas[0, 0], torch.tensor(SIGMAS))
        torch.testing.assert_close(target[0, k, 2, 3], same)


def test_every_keypoint_in_the_image_has_a_cell_with_a_high_target() -> None:
    people = some_people(4, 3)._replace(areas=torch.zeros(4, 3))
    target = branch().targets(people, (8, 8)).amax((2, 3))
    assert (target[people.visible.any(1)] > 0.77).all()  # at most half a cell away in x and y
    assert not target[~people.visible.any(1)].any()


def gradient_of(net: Heatmaps, people: People, batch: int = 2) -> torch.Tensor:
    logits = torch.zeros(batch, len(SIGMAS), *CELLS, requires_grad=True)
    net.loss(logits, people).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("people", [nobody(), nobody(most=2), some_people()])
def test_loss_and_gradient_are_finite(people: People) -> None:
    net = branch()
    logits = net(torch.randn(2, 4, *CELLS))
    assert logits.shape == (2, len(SIGMAS), *CELLS)
    assert abs(logits.mean().item() - PRIOR_BIAS) < 1
    loss = net.loss(logits, people)
    loss.backward()
    assert loss.ndim == 0
    assert loss.item() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    half = net.loss(logits.detach().bfloat16(), people)
    assert half.dtype == torch.float32


def test_perfect_heatmaps_have_zero_loss() -> None:
    net, people = branch(), some_people()
    target = net.targets(people, CELLS)
    logits = target.logit(eps=1e-6).requires_grad_()
    loss = net.loss(logits, people)
    assert loss.item() < 1e-6
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_unlabeled_people_and_crowds_are_trained_only_near_keypoints_of_others() -> None:
    net, people = branch(), some_people(2, 2)
    box = torch.tensor([8.0, 8, 40, 32])  # covers cells 1..4 by 1..3
    people = people._replace(boxes=torch.stack((people.boxes[:, 0], box.expand(2, 4)), dim=1))
    people.visible[:, 1] = False
    covered = torch.zeros(CELLS, dtype=torch.bool)
    covered[1:4, 1:5] = True
    far = net.targets(people, CELLS) < 0.01
    for as_crowd in (False, True):
        flag = torch.tensor([[False, as_crowd]] * 2)
        gradient = gradient_of(net, people._replace(ignore=flag, valid=~flag))
        assert ((gradient == 0) == (covered & far)).all()
    assert (covered & ~far).any()
    padding = people._replace(valid=torch.tensor([[True, False]] * 2))
    assert (gradient_of(net, padding) != 0).all()


def test_mean_of_two_half_batches_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    net, people = branch(), some_people(4, 3)
    logits = torch.randn(4, len(SIGMAS), *CELLS)
    whole = net.loss(logits, people)
    count = people.visible.sum() / 2
    monkeypatch.setattr(criterion, "mean_positives", lambda _: count)
    halves = [net.loss(logits[rows], chosen(people, rows)) for rows in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole)
