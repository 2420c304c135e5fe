from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulated_gpu import SimulatedGpu, simulate_gpu
from yolopose.export.command import main as export


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo network at 64 x 64, as an artifact and as a plan."""
    folder = tmp_path_factory.mktemp("made")
    words = ["--weights", "demo", "--output", str(folder / "demo.engine"), "--format", "engine", "--imgsz", "64"]
    with pytest.MonkeyPatch.context() as patch:
        simulate_gpu(patch)
        assert export([*words, "--limit", "2", "--profile", "1:1:2"]) == 0
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    return simulate_gpu(monkeypatch)
