"""What a training uses of the machine: device, precision, threads, worker processes, memory for images."""

from __future__ import annotations

import ctypes
import os
import re
from functools import cache
from pathlib import Path

import torch

from yolopose.runtime.errors import UsageError
from yolopose.runtime.machine import machine_now, usable_cores

from .distributed import world_size

MAX_WORKERS = 8
MEMORY_SHARE = 0.3  # of free memory that decoded images may take
_FILLED = 0.75  # share of a square that an image of 4:3 fills
_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc


def device_for(name: str) -> torch.device:
    """Device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Raises UsageError for other names and absent GPUs."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.device_count():
        raise UsageError(f"--device {name}: this PyTorch sees no GPU; give --device cpu")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if world_size() > 1:
        raise UsageError(f"--device {name}: every process of torchrun takes a GPU of its own; give --device cuda")
    if device.index >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    return device


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes in bfloat16. Elsewhere PyTorch emulates it, on a CPU at a quarter of the speed."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(machine_now().isa))


def default_precision(device: torch.device) -> str:
    """The fastest precision that does not lower accuracy."""
    if has_bfloat16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def use_threads(count: int | None) -> None:
    """Set PyTorch's CPU threads; None leaves PyTorch's default. Raises UsageError."""
    if count is None:
        return
    if count < 1:
        raise UsageError(f"--threads must be at least 1, got {count}")
    torch.set_num_threads(count)


def local_processes() -> int:
    """Processes of this training on this machine; they share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def workers_for(wanted: int | None, device: torch.device, in_memory: bool) -> int:
    """Processes that make batches: ``wanted``, by default one per core but the network's own. Raises UsageError.

    The default is 0 where the network's threads use both of two cores, or the only one, and images are decoded already:
    a worker that interrupts one thread of the network delays the other, which waits for it, and this costs more than
    making the batch in between on both (docs/experiments.md). Call ``use_threads`` before.
    """
    if wanted is None:
        cores = int(usable_cores() / local_processes())
        if device.type == "cpu" and cores <= min(2, torch.get_num_threads()) and in_memory:
            return 0
        return max(1, min(MAX_WORKERS, cores - 1))
    if wanted < 0:
        raise UsageError(f"--workers must not be negative, got {wanted}")
    return wanted


def keep_memory(device: torch.device) -> None:
    """Let the C library keep freed memory for the next step, for training on a CPU.

    glibc returns large blocks to the system and requests them again, cleared page by page: a tenth of the time of a
    step. With other C libraries nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if device.type == "cpu" and mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # no limit


def images_fit(size: float) -> bool:
    """Whether ``size`` bytes of decoded images fit in memory. Call it before they are loaded."""
    return size < MEMORY_SHARE * free_memory()


def image_bytes(count: int, side: float) -> float:
    """Memory of ``count`` decoded images whose longer side is ``side`` px, for all processes on this machine."""
    return count * side * side * 3 * _FILLED * local_processes()


def free_memory() -> float:
    """Bytes available without swapping, on this machine and within the container's limit (cgroup 2)."""
    free = []
    if found := re.search(r"^MemAvailable:\s+(\d+) kB", _read(Path("/proc/meminfo")), re.MULTILINE):
        free.append(1024.0 * int(found[1]))
    else:  # not Linux: half of the installed memory
        free.append(0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit, used = (_read(_CGROUP / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        free.append(max(float(limit) - float(used), 0.0))
    return min(free)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
