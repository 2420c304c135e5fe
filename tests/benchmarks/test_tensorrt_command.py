"""``yolopose-bench`` and ``yolopose-run`` with a plan on a simulated GPU; the benchmark runs in child processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simulated_gpu import SimulatedGpu, simulate_gpu
from tests.simulated_gpu.tensorrt import simulated_tensorrt
from yolopose.benchmarks.command import main
from yolopose.export.tensorrt import build_engine
from yolopose.export.tensorrt_options import EngineConfig, usual_profile
from yolopose.runtime.backends.cuda import find_gpu
from yolopose.runtime.command import main as run
from yolopose.runtime.contract import read_contract


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    return simulate_gpu(monkeypatch)


@pytest.fixture
def plan(gpu: SimulatedGpu, artifact: Path, tmp_path: Path) -> Path:
    path = tmp_path / "dots.trt"
    config = EngineConfig((usual_profile(read_contract(artifact).input, 4),))
    build_engine(artifact, path, config, simulated_tensorrt(), find_gpu(), lambda text: None)
    return path


def test_benchmark_of_an_artifact_and_its_plan(
    artifact: Path, plan: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(artifact), str(plan), "--images", str(photographs), "--iterations", "6", "--rounds", "2", "--json"]
    assert main([*words, "--warmup", "1", "--batch", "4", "--output", str(tmp_path / "out")]) == 0
    document = json.loads(capsys.readouterr().out)
    onnx, trt = document["artifacts"]
    assert (onnx["backend"]["name"], trt["backend"]["name"]) == ("onnxruntime", "tensorrt")
    assert (trt["backend"]["version"], trt["backend"]["device"]) == ("10.16.1.11", "cuda:0")
    assert trt["latency"]["bare"]["n"] == 6
    assert trt["overhead"] is not None
    assert set(trt["throughput"]) == {"1", "4"}
    assert "dots.trt" in (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")


def test_benchmark_reports_a_plan_that_cannot_run(
    plan: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YOLOPOSE_SIMULATED_TENSORRT", "11.4.0.106")
    assert main([str(plan), "--images", str(photographs), "--iterations", "3"]) == 1
    assert "was built by TensorRT 10.16.1.11, here is tensorrt 11.4.0.106" in capsys.readouterr().err


def test_run_draws_people(plan: Path, photographs: Path, tmp_path: Path) -> None:
    assert run([str(plan), "--source", str(photographs), "--output", str(tmp_path / "people")]) == 0
    assert len(list((tmp_path / "people").glob("*.*"))) >= len(list(photographs.iterdir()))


def test_environment_variable_chooses_pycuda(
    plan: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("YOLOPOSE_CUDA", "pycuda")
    assert main([str(plan), "--images", str(photographs), "--iterations", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"][0]["backend"]["name"] == "tensorrt"
    monkeypatch.setenv("YOLOPOSE_CUDA", "cupy")
    assert main([str(plan), "--images", str(photographs), "--iterations", "3"]) == 2
    assert "YOLOPOSE_CUDA must be cuda-python or pycuda, got 'cupy'" in capsys.readouterr().err
