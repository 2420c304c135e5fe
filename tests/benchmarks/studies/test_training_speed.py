"""The study of training speed: its report, and the number of steps that it needs."""

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


def test_reports_bare_and_whole_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(save_scenes(tmp_path), "--epochs", "10") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images_per_second"] > 0
    assert document["bare_images_per_second"] > 0
    low, high = document["share_of_bare_range"]
    assert low <= document["share_of_bare"] <= high
    assert 0 < document["waiting"] < 1  # without workers, training waits for every batch
    assert document["gmacs"] > 0


def test_rejects_too_few_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(save_scenes(tmp_path), "--epochs", "2") == 2
    assert "13 steps are measured; --epochs 2 of this data has fewer" in capsys.readouterr().err
