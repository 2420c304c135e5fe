"""Parameter groups, learning rate schedule, running average and Muon, against computations by hand."""

from __future__ import annotations

import copy
import io
import itertools
import math

import pytest
import torch
from torch import nn

from yolopose.training import optimizer
from yolopose.training.optimizer import (
    MOMENTUM,
    UPDATE_SIZE,
    Muon,
    WeightAverage,
    make_optimizer,
    orthogonalized,
    rate_at,
)
from yolopose.training.settings import OPTIMIZERS, TrainSettings


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_convolution_weights_decay(name: str) -> None:
    model = net()
    model[2].weight.requires_grad_(False)
    optimizer = make_optimizer(model, TrainSettings(optimizer=name, weight_decay=0.1, lr=0.5))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {
        id(model[0].weight): 0.1, id(model[0].bias): 0.0, id(model[1].weight): 0.0, id(model[1].bias): 0.0,
        id(model[2].bias): 0.0,
    }  # fmt: skip
    assert all(group["lr"] == 0.5 for group in optimizer.param_groups)


def test_learning_rate_by_hand() -> None:
    rates = [rate_at(step, 100, 10, 0.02) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[9] == pytest.approx(10 / 11)
    assert rates[10] == max(rates) == 1
    assert rates[55] == pytest.approx(0.51)  # halfway: the mean of 1 and 0.02
    assert rates[100] == pytest.approx(0.02)
    assert all(later < sooner for sooner, later in itertools.pairwise(rates[10:]))
    assert 0.02 < rates[99] < 0.021
    assert rate_at(500, 100, 10, 0.02) == pytest.approx(0.02)  # beyond the end


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (3, 1), (2, 2), (10, 0)])
def test_learning_rate_of_short_runs(total: int, warmup: int) -> None:
    assert all(0 < rate_at(step, total, warmup, 0.02) <= 1 for step in range(total))


def changed(model: nn.Module, step: int) -> None:
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape) + 2 if value.is_floating_point() else torch.tensor(step))


def test_average_by_hand() -> None:
    model, total, decay = net(), 2000, 0.9
    average = WeightAverage(model, decay, total)
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


def test_average_follows_a_replaced_network_without_counts() -> None:
    average = WeightAverage(nn.Linear(2, 2), 0.0, 100)
    for _ in range(2):
        model = nn.Linear(2, 2)
        average.update(model, 1)
        assert all(torch.equal(a, b) for a, b in zip(average.net.parameters(), model.parameters(), strict=True))


def test_average_is_a_separate_network_in_evaluation_mode() -> None:
    model = net()
    average = WeightAverage(model, 0.9, 1000)
    assert not any(p.requires_grad for p in average.net.parameters())
    assert not average.net.training
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    before = copy.deepcopy(average.net.state_dict())
    changed(model, 1)
    for name, value in average.net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("decay", "total"), [(0.0, 100_000), (0.9998, 50), (0.9998, 3)])
def test_average_equals_the_network_without_decay_or_in_short_runs(decay: float, total: int) -> None:
    model = net()
    average = WeightAverage(model, decay, total)
    for step in (1, 2, 1000):
        changed(model, step)
        average.update(model, step)
        for name, value in average.net.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])


def test_decay_depends_on_the_length_of_the_run() -> None:
    assert WeightAverage(net(), 0.9998, 10_000_000).decay == 0.9998
    short = WeightAverage(net(), 0.9998, 1000)
    assert short.decay == pytest.approx(1 - 1 / 20)
    assert short.ramp == 50


@pytest.fixture(params=[False, True], ids=["float32", "bfloat16"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(optimizer, "has_bfloat16", lambda device: request.param)
    return bool(request.param)


def test_orthogonalizes_in_bfloat16_where_the_hardware_has_it(bfloat16: bool) -> None:
    assert orthogonalized(torch.randn(1, 4, 9)).dtype == (torch.bfloat16 if bfloat16 else torch.float32)


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16)])
def test_singular_values_become_about_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(shape) * 1e-3).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


@pytest.mark.usefixtures("bfloat16")
def test_orthogonalized_matrix_is_u_v_transposed() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(1, 12, 30)
    u, _, vt = torch.linalg.svd(matrix[0], full_matrices=False)
    ours = orthogonalized(matrix)[0].float()
    assert torch.cosine_similarity(ours.flatten(), (u @ vt).flatten(), dim=0) > 0.98


def test_orthogonalized_zeros_are_finite() -> None:
    assert orthogonalized(torch.zeros(1, 4, 9)).isfinite().all()


def convolutions() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))


def muon_of(net: nn.Module, lr: float = 0.01) -> Muon:
    weights = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    return Muon(
        [{"params": weights, "orthogonal": True, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=lr
    )


def train_step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 6, 6, generator=generator)
    net(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_muon_update_has_the_size_of_adamw() -> None:
    net = convolutions()
    before = net[0].weight.detach().clone()
    train_step(net, muon_of(net), 0)
    moved = (net[0].weight.detach() - before * (1 - 0.01 * 0.1)) / 0.01
    assert float(moved.square().mean().sqrt()) == pytest.approx(UPDATE_SIZE, rel=0.35)


def test_biases_and_batch_norm_follow_adamw() -> None:
    net, other = convolutions(), convolutions()
    train_step(net, muon_of(net), 0)
    train_step(other, torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.0), 0)
    assert torch.equal(net[1].weight, other[1].weight)
    assert torch.equal(net[2].bias, other[2].bias)


def test_momentum_is_in_the_state() -> None:
    net = convolutions()
    optimizer = muon_of(net)
    images = torch.randn(2, 3, 6, 6)
    net(images).square().mean().backward()
    gradient = net[0].weight.grad.clone()
    optimizer.step()
    assert torch.allclose(optimizer.state[net[0].weight]["momentum"], gradient * (1 - MOMENTUM))


def test_muon_continues_exactly_from_its_state() -> None:
    net, other = convolutions(), convolutions()
    optimizer = muon_of(net)
    for seed in range(4):
        train_step(net, optimizer, seed)
    first = muon_of(other)
    for seed in range(2):
        train_step(other, first, seed)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = muon_of(other)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for seed in range(2, 4):
        train_step(other, second, seed)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_overflow_of_fp16_skips_the_step() -> None:
    """GradScaler sets found_inf of fused optimizers and calls their step nevertheless."""
    net = convolutions()
    optimizer = muon_of(net)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert not optimizer.state
