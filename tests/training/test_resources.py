"""Memory that a training keeps, as a process that runs nothing else sees it; processes that make batches."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from yolopose.training import processes as resources

# Page faults of making, filling and dropping 64 MiB: each block that comes anew from the system has 16,384 pages.
SCRIPT = """
import resource, sys, torch
from yolopose.training.resources import keep_memory
keep_memory(torch.device(sys.argv[1]))
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(16 * 2**20).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(faults() for _ in range(12)))
"""


def _faults(device: str) -> int:
    """The fewest of a round: where blocks lie decides after how many they fit into what was freed."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, device], capture_output=True, text=True, check=True)
    return min(int(count) for count in run.stdout.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what glibc asks of Linux")
def test_memory_stays_for_training_on_a_cpu_alone() -> None:
    assert _faults("cpu") < 10
    assert _faults("cuda") > 30  # as glibc has it; with huge pages 32


@pytest.mark.parametrize(
    ("cores", "device", "in_memory", "workers"),
    [
        (1, "cpu", True, 0), (2, "cpu", True, 0), (2, "cpu", False, 1), (2, "cuda", True, 1), (4, "cpu", True, 3),
        (16, "cuda", True, 8), (16, "cuda", False, 8),
    ],
)  # fmt: skip
def test_workers(monkeypatch: pytest.MonkeyPatch, cores: float, device: str, in_memory: bool, workers: int) -> None:
    monkeypatch.setattr(resources, "usable_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert resources.workers_for(None, torch.device(device), in_memory) == workers
    assert resources.workers_for(5, torch.device(device), in_memory) == 5


def test_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "usable_cores", lambda: 4.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert resources.workers_for(None, torch.device("cpu"), True) == 0
    assert resources.workers_for(None, torch.device("cuda"), True) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the other core is free
    assert resources.workers_for(None, torch.device("cpu"), True) == 1
