from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulated_gpu import SimulatedGpu, simulate_gpu

from .plans import built


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedGpu]:
    """A simulated GPU; afterwards everything must be released and no context current."""
    simulated = simulate_gpu(monkeypatch)
    yield simulated
    gc.collect()
    assert not simulated.used()
    assert simulated.context == 0


@pytest.fixture
def plan(gpu: SimulatedGpu, artifact: Path, tmp_path: Path) -> Path:
    """A plan of the dot model for batches of 1 to 4 at its optimal size."""
    return built(artifact, tmp_path / "dots.engine")
