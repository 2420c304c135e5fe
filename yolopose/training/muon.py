"""Muon for convolutions, AdamW for the rest (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

A convolution's weight is a matrix from its inputs to its outputs. AdamW's updates of it are nearly of low rank: a few
directions learn, the others hardly. Muon replaces the momentum by the nearest orthogonal matrix, so that all directions
move equally. Sizes of updates are those of AdamW (Liu et al. 2025, arXiv 2502.16982), so one learning rate serves both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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
