"""Parameter groups, learning rate by step, running average: each against a hand computation."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from yolopose.training.optimizer import Average, make_optimizer, rate_at
from yolopose.training.settings import OPTIMIZERS, TrainSettings


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_convolution_weights_alone_decay(name: str) -> None:
    model = net()
    model[2].weight.requires_grad_(False)
    optimizer = make_optimizer(model, TrainSettings(optimizer=name, weight_decay=0.1, lr=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        id(model[0].weight): 0.1, id(model[0].bias): 0.0, id(model[1].weight): 0.0, id(model[1].bias): 0.0,
        id(model[2].bias): 0.0,
    }  # fmt: skip
    assert all(group["lr"] == 0.5 for group in optimizer.param_groups)


def test_rate() -> None:
    rates = [rate_at(step, 100, 10, 0.02) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] == pytest.approx(10 / 11)
    assert rates[10] == max(rates) == 1
    assert rates[55] == pytest.approx(0.51)  # half-way: the mean of 1 and 0.02
    assert rates[100] == pytest.approx(0.02)
    assert all(later < sooner for sooner, later in itertools.pairwise(rates[10:]))
    assert 0.02 < rates[99] < 0.021
    assert rate_at(500, 100, 10, 0.02) == pytest.approx(0.02)  # beyond the end


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (3, 1), (2, 2), (10, 0)])
def test_rate_of_the_shortest_runs(total: int, warmup: int) -> None:
    assert all(0 < rate_at(step, total, warmup, 0.02) <= 1 for step in range(total))


def changed(model: nn.Module, step: int) -> None:
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape) + 2 if value.is_floating_point() else torch.tensor(step))


def test_average_by_hand() -> None:
    model, total, decay = net(), 2000, 0.9
    average = Average(model, decay, total)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(1, 6):
        changed(model, step)
        average.update(model, step)
        now = decay * (1 - math.exp(-step / (total / 20)))
        for name, value in model.state_dict().items():
            mixed = now * expected[name] + (1 - now) * value if value.is_floating_point() else value.clone()
            expected[name] = mixed
    for name, value in average.net.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert average.net[1].num_batches_tracked == 5


def test_average_of_another_network_and_of_one_without_counts() -> None:
    average = Average(nn.Linear(2, 2), 0.0, 100)
    for _ in range(2):
        model = nn.Linear(2, 2)
        average.update(model, 1)
        assert all(torch.equal(a, b) for a, b in zip(average.net.parameters(), model.parameters(), strict=True))


def test_average_is_another_network_for_use_alone() -> None:
    model = net()
    average = Average(model, 0.9, 1000)
    assert not any(p.requires_grad for p in average.net.parameters())
    assert not average.net.training
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    before = copy.deepcopy(average.net.state_dict())
    changed(model, 1)
    for name, value in average.net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("decay", "total"), [(0.0, 100_000), (0.9998, 50), (0.9998, 3)])
def test_without_decay_or_time_it_is_the_network(decay: float, total: int) -> None:
    model = net()
    average = Average(model, decay, total)
    for step in (1, 2, 1000):
        changed(model, step)
        average.update(model, step)
        for name, value in average.net.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_memory_is_bound_to_the_length_of_the_run() -> None:
    assert Average(net(), 0.9998, 10_000_000).decay == 0.9998
    short = Average(net(), 0.9998, 1000)
    assert short.decay == pytest.approx(1 - 1 / 20)
    assert short.ramp == 50
