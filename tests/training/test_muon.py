"""Muon: orthogonal updates for convolutions, AdamW for the rest."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from yolopose.training.optimizer import MOMENTUM, UPDATE_SIZE, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16)])
def test_singular_values_end_near_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape) * 1e-3).float())
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_directions_are_kept() -> None:
    """U V^T, not just any orthogonal matrix."""
    torch.manual_seed(1)
    matrix = torch.randn(1, 12, 30)
    u, _, vt = torch.linalg.svd(matrix[0], full_matrices=False)
    ours = orthogonalised(matrix)[0].float()
    assert torch.cosine_similarity(ours.flatten(), (u @ vt).flatten(), dim=0) > 0.98


def test_zero_gradient_stays_finite() -> None:
    assert orthogonalised(torch.zeros(1, 4, 9)).isfinite().all()


def _net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1))


def _optimizer(net: nn.Module, lr: float = 0.01) -> Muon:
    weights = [p for p in net.parameters() if p.ndim > 1]
    levels = [p for p in net.parameters() if p.ndim <= 1]
    return Muon(
        [{"params": weights, "orthogonal": True, "weight_decay": 0.1}, {"params": levels, "weight_decay": 0.0}], lr=lr
    )


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 6, 6, generator=generator)
    net(images).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_update_has_the_size_of_adamw() -> None:
    net = _net()
    before = net[0].weight.detach().clone()
    _step(net, _optimizer(net), 0)
    moved = (net[0].weight.detach() - before * (1 - 0.01 * 0.1)) / 0.01
    assert float(moved.square().mean().sqrt()) == pytest.approx(UPDATE_SIZE, rel=0.35)


def test_levels_follow_adamw() -> None:
    """Biases and batch norm move exactly as under AdamW of the same learning rate."""
    net, other = _net(), _net()
    _step(net, _optimizer(net), 0)
    _step(other, torch.optim.AdamW(other.parameters(), lr=0.01, weight_decay=0.0), 0)
    assert torch.equal(net[1].weight, other[1].weight)
    assert torch.equal(net[2].bias, other[2].bias)


def test_momentum_is_kept_in_the_state() -> None:
    net = _net()
    optimizer = _optimizer(net)
    images = torch.randn(2, 3, 6, 6)
    net(images).square().mean().backward()
    gradient = net[0].weight.grad.clone()
    optimizer.step()
    assert torch.allclose(optimizer.state[net[0].weight]["momentum"], gradient * (1 - MOMENTUM))


def test_state_goes_on_exactly() -> None:
    net, other = _net(), _net()
    optimizer = _optimizer(net)
    for seed in range(4):
        _step(net, optimizer, seed)
    first = _optimizer(other)
    for seed in range(2):
        _step(other, first, seed)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = _optimizer(other)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    for seed in range(2, 4):
        _step(other, second, seed)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_gradient_that_overflowed_leaves_the_step_out() -> None:
    """GradScaler hands found_inf to fused optimizers and calls their step all the same."""
    net = _net()
    optimizer = _optimizer(net)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.found_inf = torch.ones(())  # type: ignore[attr-defined]
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))
    assert not optimizer.state
