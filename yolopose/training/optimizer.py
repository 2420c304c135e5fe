"""Optimizer: parameter groups, Muon, learning rate schedule, and the running average of the weights."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .resources import has_bfloat16
from .settings import TrainSettings

# Muon
MOMENTUM = 0.95
UPDATE_SIZE = 0.2  # root mean square of an AdamW update, in learning rates
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration: fast, singular values end in 0.7..1.2
# SGD
SGD_MOMENTUM = 0.937


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Muon, AdamW or SGD over three parameter groups.

    Weight decay applies to convolution weights alone, not to batch norm and biases. Muon updates the weights of dense
    convolutions without a bias; convolutions that predict (with a bias) or are grouped are left to AdamW.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    inner = {
        id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None and m.groups == 1
    }  # fmt: skip
    decay, rate = settings.weight_decay, settings.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) in inner], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim > 1 and id(p) not in inner], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "muon":
        groups[0]["orthogonal"] = True
        return Muon(groups, lr=rate, fused=True)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True)
    return torch.optim.SGD(groups, lr=rate, momentum=SGD_MOMENTUM, nesterov=True, fused=True)


def rate_at(step: int, total: int, warmup: int, final: float) -> float:
    """Factor of the learning rate at ``step`` of ``total``: linear warm-up, then half a cosine down to ``final``."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Muon(torch.optim.AdamW):
    """Muon for parameter groups with ``orthogonal`` set, of tensors (out, ...); AdamW for the others.

    A convolution's weight is a matrix from inputs to outputs, and AdamW's updates of it are nearly of low rank. Muon
    replaces the momentum by the nearest orthogonal matrix, so that all directions are updated equally (Jordan et al.
    2024, https://kellerjordan.github.io/posts/muon). Updates have the size of AdamW's (Liu et al. 2025, arXiv
    2502.16982), so that one learning rate serves both.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        overflow = getattr(self, "found_inf", None)  # set by GradScaler, which leaves the check to fused optimizers
        if overflow is not None and bool(overflow):
            return None
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._orthogonal_step(group)
        return super().step(closure)

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[(parameter.shape[0], parameter[0].numel())].append(parameter)
        for (rows, columns), parameters in by_shape.items():
            updates = orthogonalized(torch.stack([self._momentum(p).view(rows, columns) for p in parameters]))
            size = UPDATE_SIZE * max(rows, columns) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(parameter.shape).to(parameter.dtype), alpha=-group["lr"] * size)
                parameter.grad = None  # so that AdamW leaves it alone

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Nesterov momentum, (out, ...) contiguous."""
        assert parameter.grad is not None
        gradient = parameter.grad.contiguous()
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
            state["step"] = torch.zeros(())  # AdamW requires it when a state is loaded
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM)


def orthogonalized(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> approximately U V^T of each matrix U S V^T, by Newton-Schulz iterations.

    In bfloat16 where the hardware has it, else in float32: emulated, they take most of a step (docs/experiments.md).
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16 if has_bfloat16(matrices.device) else torch.float32)
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class WeightAverage:
    """Exponential moving average of weights and batch norm statistics: the network that is validated and deployed.

    The decay grows from 0 as 1 - exp(-step / ramp) and is limited by the length of the run: an average over a fixed
    number of steps would lag behind in a short run and average too little in a long one.
    """

    def __init__(self, net: nn.Module, decay: float, total_steps: int) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        horizon = max(total_steps / 50, 1.0)  # largest number of steps that it averages over
        self.decay = min(decay, 1 - 1 / horizon) if decay else 0.0
        self.ramp = max(total_steps / 20, 1.0)
        # Tensors are collected once, because this takes as long as averaging them.
        self._kept = _tensors(self.net)
        self._source: tuple[nn.Module, tuple[list[Tensor], list[Tensor]]] | None = None

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """After optimizer step number ``step`` (from 1). ``net`` may change its tensors, but not replace them."""
        decay = self.decay * (1 - math.exp(-step / self.ramp))
        if self._source is None or self._source[0] is not net:
            self._source = net, _tensors(net)
        (kept, kept_counts), (new, new_counts) = self._kept, self._source[1]
        torch._foreach_lerp_(kept, new, 1 - decay)
        if kept_counts:
            torch._foreach_copy_(kept_counts, new_counts)


def _tensors(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Floating point tensors, which are averaged, and integer ones, which are copied."""
    tensors = [tensor.detach() for tensor in net.state_dict().values()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
