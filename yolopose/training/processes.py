"""Several processes as one: who am I, and means over all of them. With one process everything here does nothing.

What of the machine a training may use: device, processes that make batches, memory for pictures.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from yolopose.runtime.machine import machine_now, usable_cores

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


MOST_WORKERS = 8
MEMORY_SHARE = 0.3  # of free memory that decoded pictures may take
_PICTURE_SHARE = 0.75  # of a square that a photograph of 4:3 fills
_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def local_processes() -> int:
    """Processes of this training on this machine: they share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def device_for(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``. ValueError for what is none of them or not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.device_count():
        raise ValueError(f"--device {name}: this PyTorch sees no GPU; give --device cpu")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if world_size() > 1:
        raise ValueError(f"--device {name}: every process of torchrun takes a GPU of its own; give --device cuda")
    if device.index >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return device


def usual_precision(device: torch.device) -> str:
    """The fastest that hurts nothing: bfloat16 where the hardware computes in it, emulation would be slow."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(machine_now().isa) else "fp32"


def use_threads(count: int | None) -> None:
    """Threads of PyTorch on a CPU; None: PyTorch's own choice."""
    if count is None:
        return
    if count < 1:
        raise ValueError(f"--threads must be at least 1, got {count}")
    torch.set_num_threads(count)


def keep_memory(device: torch.device) -> None:
    """For training on a CPU: freed memory stays with the process, for the next step.

    glibc hands large blocks back to the system and gets them anew, cleared page by page: a tenth of a step. Elsewhere
    (another C library) nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type == "cpu" and mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # no limit


def workers_for(wanted: int | None, device: torch.device, in_memory: bool) -> int:
    """Processes that make batches: as wanted, else one for each core but the network's own.

    None where the network's threads take both of two cores, or the only one, and pictures are decoded: a worker that
    interrupts one thread of the network holds up the other, which waits for it, and that costs more than to make the
    batch in between on both (docs/experiments.md). Call ``use_threads`` before.
    """
    if wanted is None:
        cores = int(usable_cores() / local_processes())
        if device.type == "cpu" and cores <= min(2, torch.get_num_threads()) and in_memory:
            return 0
        return max(1, min(MOST_WORKERS, cores - 1))
    if wanted < 0:
        raise ValueError(f"--workers must not be negative, got {wanted}")
    return wanted


def pictures_bytes(count: int, side: float) -> float:
    """Of ``count`` decoded photographs whose longer side is ``side`` px, in every process on this machine."""
    return count * side * side * 3 * _PICTURE_SHARE * local_processes()


def free_memory() -> float:
    """Bytes that can be had without swapping, of this machine and within the container's limit (cgroup 2)."""
    free = []
    if found := re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE):
        free.append(1024.0 * int(found[1]))
    else:  # no Linux: half of what is built in
        free.append(0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used = (_text(_CGROUP / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        free.append(max(float(limit) - float(used), 0.0))
    return min(free)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
