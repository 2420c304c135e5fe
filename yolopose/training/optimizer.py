"""Muon for convolutions, AdamW for the rest (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

A convolution's weight is a matrix from its inputs to its outputs. AdamW's updates of it are nearly of low rank: a few
directions learn, the others hardly. Muon replaces the momentum by the nearest orthogonal matrix, so that all directions
move equally. Sizes of updates are those of AdamW (Liu et al. 2025, arXiv 2502.16982), so one learning rate serves both.

Optimizer with its parameter groups, learning rate by step, and the running average of the weights.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .settings import TrainSettings

MOMENTUM = 0.95
UPDATE_SIZE = 0.2  # root mean square of an AdamW update, in learning rates
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration: fast, singular values end in 0.7..1.2


class Muon(torch.optim.AdamW):
    """AdamW whose parameter groups with ``orthogonal`` set, of tensors (out, ...), follow orthogonalised momentum."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        overflow = getattr(self, "found_inf", None)  # set by GradScaler, which leaves it to fused optimizers to heed
        if overflow is not None and bool(overflow):
            return None
        for group in self.param_groups:
            if group.get("orthogonal"):
                self._orthogonal_step(group)
        return super().step(closure)

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        alike: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                alike[(parameter.shape[0], parameter[0].numel())].append(parameter)
        for (rows, columns), parameters in alike.items():
            moved = orthogonalised(torch.stack([self._momentum(p).view(rows, columns) for p in parameters]))
            size = UPDATE_SIZE * max(rows, columns) ** 0.5
            for parameter, update in zip(parameters, moved, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view(parameter.shape).to(parameter.dtype), alpha=-group["lr"] * size)
                parameter.grad = None  # done: nothing is left for AdamW

    def _momentum(self, parameter: Tensor) -> Tensor:
        """Nesterov's, (out, ...) contiguous."""
        assert parameter.grad is not None
        gradient = parameter.grad.contiguous()
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
            state["step"] = torch.zeros(())  # AdamW asks for it when a state is loaded
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum"], MOMENTUM)


def orthogonalised(matrices: Tensor) -> Tensor:
    """(n, rows, columns) -> about U V^T of each matrix U S V^T, by Newton-Schulz iterations in bfloat16."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Weight decay for weights of convolutions alone: batch norm and biases set levels, which must stay free.

    Muon is for layers between layers; what predicts (the convolutions with a bias) and what sees one channel at a time
    is left to AdamW.
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
    return torch.optim.SGD(groups, lr=rate, momentum=0.937, nesterov=True, fused=True)


def rate_at(step: int, total: int, warmup: int, final: float) -> float:
    """Factor of the learning rate at ``step`` of ``total``: linear warm-up, then half a cosine down to ``final``."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class Average:
    """Exponential moving average of weights and batch norm statistics; what is validated and deployed.

    The decay grows from 0 as 1 - exp(-step / ramp), and is bound to the length of the run: an average over a fixed
    number of steps would lag behind a short run and follow a long one too closely.
    """

    def __init__(self, net: nn.Module, decay: float, total_steps: int) -> None:
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        horizon = max(total_steps / 50, 1.0)  # steps that it remembers, at most
        self.decay = min(decay, 1 - 1 / horizon) if decay else 0.0
        self.ramp = max(total_steps / 20, 1.0)
        # Of floating point, and whole numbers, which are copied. Gathered once: it takes as long as averaging.
        self._mine = _by_kind(self.net)
        self._theirs: tuple[nn.Module, tuple[list[Tensor], list[Tensor]]] | None = None

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """After optimizer step number ``step`` (from 1). ``net`` may change its tensors, but not exchange them."""
        decay = self.decay * (1 - math.exp(-step / self.ramp))
        if self._theirs is None or self._theirs[0] is not net:
            self._theirs = net, _by_kind(net)
        (kept, kept_counts), (new, new_counts) = self._mine, self._theirs[1]
        torch._foreach_lerp_(kept, new, 1 - decay)
        if kept_counts:
            torch._foreach_copy_(kept_counts, new_counts)


def _by_kind(net: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors of floating point, and the others."""
    tensors = [tensor.detach() for tensor in net.state_dict().values()]
    return [t for t in tensors if t.is_floating_point()], [t for t in tensors if not t.is_floating_point()]
