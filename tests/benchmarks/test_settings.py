from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from yolopose.benchmarks.settings import BenchSettings

ARTIFACTS = (Path("a.onnx"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifacts": ()}, "no artifact"),
        ({"data": Path("labels.json")}, "--data needs --images"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
        ({"batch": 0}, "--batch must be at least 1"),
        ({"limit": 0}, "--limit must be at least 1"),
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"warmup": -1}, "--warmup must be at least 0"),
        ({"rounds": 0}, "--rounds must be at least 1"),
        ({"imgsz": (0, 64)}, "--imgsz must be positive"),
        ({"score": math.nan}, "--score must lie in 0..1, got nan"),
        ({"iou": 1.5}, "--iou must lie in 0..1, got 1.5"),
        ({"evaluation_score": -0.1}, "--evaluation-score must lie in 0..1"),
        ({"iterations": 2, "rounds": 3}, r"--iterations \(2\) must be at least --rounds \(3\)"),
    ],
)
def test_wrong_settings_name_the_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchSettings(**({"artifacts": ARTIFACTS} | changes))


@pytest.mark.parametrize(("iterations", "rounds", "shares"), [(120, 3, [40, 40, 40]), (8, 3, [3, 3, 2]), (1, 1, [1])])
def test_rounds_share_the_iterations(iterations: int, rounds: int, shares: list[int]) -> None:
    settings = BenchSettings(ARTIFACTS, iterations=iterations, rounds=rounds)
    assert [settings.iterations_of_round(i) for i in range(rounds)] == shares
