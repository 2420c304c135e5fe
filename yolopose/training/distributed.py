"""Several processes that train one network (torchrun): joining, leaving, and values shared between them.

Without torchrun there is one process, and the functions here return its own values.
"""

from __future__ import annotations

import atexit
import os
import sys
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")

MAX_WAIT_HOURS = 4  # while the first process validates, the others wait: possibly longer than PyTorch's ten minutes


def join(device: str) -> None:
    """Become one of the processes that torchrun started; device: as given to --device."""
    gpu = device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(hours=MAX_WAIT_HOURS))


def exit_process(code: int) -> NoReturn:
    """End one of several processes without C++ destructors, after all that Python does at exit.

    DistributedDataParallel keeps gloo's threads running after destroy_process_group (PyTorch 2.13), and a process that
    ends while they run is sometimes aborted ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def rank() -> int:
    """Number of this process; 0 is the first, which writes files and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
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
    """Positives per process: the mean over all processes, at least 1 in total. Losses are divided by it.

    DDP averages gradients over processes, so sums divided by this equal those of one process with the whole batch.
    """
    return mean_over_processes(count).clamp(min=1 / world_size())


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether ``flag`` is set in any process, so that all take the same branch. A barrier: it waits for all."""
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
