"""Resources of a training: memory that the process keeps, number of workers, device, image memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from yolopose.runtime.errors import UsageError
from yolopose.training import resources

# Page faults of allocating, filling and freeing 64 MiB: a block that is new from the system has 16,384 pages.
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
    """The fewest of several rounds: the position of blocks decides when they fit into freed memory."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, device], capture_output=True, text=True, check=True)
    return min(int(count) for count in run.stdout.split())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults under glibc on Linux")
def test_freed_memory_is_kept_only_for_training_on_a_cpu() -> None:
    assert _faults("cpu") < 10
    assert _faults("cuda") > 30  # glibc's default; with huge pages 32


@pytest.mark.parametrize(
    ("cores", "device", "in_memory", "workers"),
    [
        (1, "cpu", True, 0), (2, "cpu", True, 0), (2, "cpu", False, 1), (2, "cuda", True, 1), (4, "cpu", True, 3),
        (16, "cuda", True, 8), (16, "cuda", False, 8),
    ],
)  # fmt: skip
def test_default_workers(
    monkeypatch: pytest.MonkeyPatch, cores: float, device: str, in_memory: bool, workers: int
) -> None:
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
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the network leaves one core free
    assert resources.workers_for(None, torch.device("cpu"), True) == 1


def test_rejects_values_that_flags_do_not_accept() -> None:
    with pytest.raises(UsageError, match="--workers must not be negative, got -1"):
        resources.workers_for(-1, torch.device("cpu"), True)
    with pytest.raises(UsageError, match="--threads must be at least 1, got 0"):
        resources.use_threads(0)
    with pytest.raises(UsageError, match="--device must be auto, cpu, cuda or cuda:N, got 'tpu'"):
        resources.device_for("tpu")


def test_images_fit_in_a_share_of_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    size = resources.image_bytes(100, 640)
    assert size == 100 * 640 * 480 * 3
    monkeypatch.setattr(resources, "free_memory", lambda: 4 * size)
    assert resources.images_fit(size)
    monkeypatch.setattr(resources, "free_memory", lambda: 3 * size)
    assert not resources.images_fit(size)
