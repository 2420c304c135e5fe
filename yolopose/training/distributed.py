"""Several processes as one: who am I, and means over all of them. With one process everything here does nothing."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_over_processes(value: Tensor) -> Tensor:
    """``value`` averaged over all processes, without gradient."""
    value = value.detach().float()
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value


def mean_positives(count: Tensor) -> Tensor:
    """Positives a process, averaged over all, at least 1 over all of them: what losses are divided by.

    Gradients are averaged over processes, so sums divided by this equal those of one process with the whole batch.
    """
    return mean_over_processes(count).clamp(min=1 / world_size())


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether ``flag`` is set in any process: all take the same branch."""
    if not dist.is_initialized():
        return flag
    return bool(mean_over_processes(torch.tensor(float(flag), device=device)) > 0)


def gathered(value: Value) -> list[Value]:
    """``value`` of every process, by rank; anything that can be pickled."""
    if not dist.is_initialized():
        return [value]
    values: list[Value] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
