"""The measurement of training speed: what it reports, and that it asks for enough steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.training.small import CONFIGS, save_scenes
from yolopose.benchmarks.studies import training_speed as speed
from yolopose.model.sizes import SIZES


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", CONFIGS["yolox"])
    for name in ("ROUNDS", "STEPS", "READY"):
        monkeypatch.setattr(speed, name, 2)


def _run(labels: Path, *more: str) -> int:
    given = [
        "--data",
        str(labels),
        "--model",
        "tiny",
        "--batch",
        "4",
        "--precision",
        "fp32",
        "--workers",
        "0",
        "--json",
    ]
    return speed.main([*given, *more])


def test_figures_of_both_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(save_scenes(tmp_path), "--epochs", "10") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images_per_second"] > 0
    assert document["bare_images_per_second"] > 0
    low, high = document["share_of_bare_range"]
    assert low <= document["share_of_bare"] <= high
    assert 0 < document["waiting"] < 1  # without workers every batch is waited for
    assert document["gmacs"] > 0


def test_too_few_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(save_scenes(tmp_path), "--epochs", "2") == 2
    assert "13 steps are measured" in capsys.readouterr().err
