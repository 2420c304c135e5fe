"""Settings and their limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from yolopose.benchmarks.settings import DEMO, BenchSettings, split_backend

FILES = (Path("a.onnx"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ()}, "no file was given"),
        ({"data": "d.yaml", "images": Path("val")}, "d.yaml names its own images"),
        ({"evaluation_images": "some"}, "--evaluation-images must be one of"),
        ({"files": (DEMO,), "reference": DEMO}, "--reference needs an artifact to compare with"),
        ({"files": (DEMO,), "device": "cuda:0"}, "checkpoints run on the CPU"),
        ({"files": (Path("best.pt@onnxruntime"),)}, "best.pt@onnxruntime: only artifacts can name a backend"),
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
def test_invalid_settings_name_the_flag(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BenchSettings(**({"files": FILES} | changes))


@pytest.mark.parametrize(("iterations", "rounds", "shares"), [(120, 3, [40, 40, 40]), (8, 3, [3, 3, 2]), (1, 1, [1])])
def test_rounds_share_the_iterations(iterations: int, rounds: int, shares: list[int]) -> None:
    settings = BenchSettings(FILES, iterations=iterations, rounds=rounds)
    assert [settings.iterations_of_round(i) for i in range(rounds)] == shares


def test_checkpoints_are_recognized_by_name() -> None:
    names = ("best.pt", "a.onnx", "demo", "B.PTH", "a.engine", "demo/demo.onnx", "weights/demo")
    settings = BenchSettings(tuple(map(Path, names)))
    assert settings.checkpoints == tuple(map(Path, ("best.pt", "demo", "B.PTH")))
    assert settings.artifacts == tuple(map(Path, ("a.onnx", "a.engine", "demo/demo.onnx", "weights/demo")))


def test_file_may_name_its_backend(tmp_path: Path) -> None:
    for given, file, backend in (
        ("a.onnx", "a.onnx", None),
        ("a.onnx@onnxruntime", "a.onnx", "onnxruntime"),
        ("a.onnx@auto", "a.onnx", "auto"),
        ("b@home.onnx", "b@home.onnx", None),
        ("b@home.onnx@onnxruntime", "b@home.onnx", "onnxruntime"),
        ("real.onnx@onnxruntime", "real.onnx@onnxruntime", None),  # a file has this name
        ("@onnxruntime", "@onnxruntime", None),
        ("absent.onnx@nonsense", "absent.onnx@nonsense", None),
    ):
        (tmp_path / "real.onnx@onnxruntime").touch()
        assert split_backend(tmp_path / given) == (tmp_path / file, backend)
    (tmp_path / "a.onnx").touch()
    with pytest.raises(
        ValueError, match=r"a\.onnx@nonsense: no such file, and 'nonsense' is not a backend; backends: auto"
    ):
        split_backend(tmp_path / "a.onnx@nonsense")
