"""Memory that a training keeps, as a process that runs nothing else sees it."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
