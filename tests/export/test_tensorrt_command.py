"""``yolopose-export --format engine`` on a simulated GPU, from weights and from an .onnx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.simulated_gpu import ROOT, SimulatedGpu, simulate_gpu
from tests.simulated_gpu.tensorrt import simulated_tensorrt
from yolopose.export import gate
from yolopose.export import verify as verify_module
from yolopose.export.command import main
from yolopose.runtime import PoseEstimator
from yolopose.runtime.contract import ParityInfo, Range, read_contract

SMALL = ("--imgsz", "64", "96", "--limit", "2", "--batch", "2")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    return simulate_gpu(monkeypatch)


@pytest.fixture(scope="module")
def artifact(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny.onnx"
    assert main(["--weights", str(tiny_weights), "--output", str(path), *SMALL]) == 0
    return path


def export(*words: object) -> int:
    return main([str(word) for word in words])


def test_plan_from_weights_is_verified(
    gpu: SimulatedGpu, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--weights", tiny_weights, "--format", "engine", "--output", tmp_path / "here.engine", "--json", *SMALL)
    assert export(*words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == str(tmp_path / "here.engine")
    assert document["steps"][-1] == "TensorRT 10.16.1.11, Simulated Orin: built"
    assert document["comparison"]["max_px"] <= 0.05
    assert document["contract"]["parity"]["images"] == 2
    assert document["contract"]["engine"]["gpu"]["name"] == "Simulated Orin"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tiny.onnx", "here.engine", "here.engine.json", "here.engine.log"}
    with PoseEstimator(tmp_path / "here.engine") as plan, PoseEstimator(tmp_path / "tiny.onnx") as onnx:
        image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        plan.score_threshold = onnx.score_threshold = 0.001
        np.testing.assert_allclose(plan(image).keypoints, onnx(image).keypoints, atol=1e-3)
    assert export(*words) == 0
    assert json.loads(capsys.readouterr().out)["steps"][-1].endswith("up to date")


def test_plan_refused_by_the_gate_is_kept_as_rejected(
    gpu: SimulatedGpu,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = verify_module.verify
    verified: list[Path] = []

    def verify(artifact: Path, *arguments: Any, **more: Any) -> Any:
        verified.append(artifact)
        with pytest.MonkeyPatch.context() as patch:
            if artifact.suffix == ".engine":
                patch.setattr(gate, "FLOAT32_PX", -1.0)
            return real(artifact, *arguments, **more)

    monkeypatch.setattr("yolopose.export.pipeline.verify", verify)
    plan = tmp_path / "here.engine"
    assert export("--weights", tiny_weights, "--format", "engine", "--output", plan, *SMALL) == 3
    errors = capsys.readouterr().err
    assert "the plan: float32 must match PyTorch within tolerance" in errors
    assert "kept as" in errors
    assert [path.suffix for path in verified] == [".onnx", ".engine"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tiny.onnx", "here.engine.rejected", "here.engine.rejected.json", "here.engine.log"}


def test_plan_without_verification_is_unverified(
    gpu: SimulatedGpu,
    tiny_weights: Path,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A plan from an .onnx is verified once it is exported from weights, though up to date; a stripped one never is."""
    weights = ("--weights", tiny_weights, "--format", "engine", *SMALL)
    assert export(*weights, "--output", tmp_path / "bare.engine", "--strip", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document.get("comparison")) == ("unverified", None)
    assert export(*weights, "--output", tmp_path / "bare.engine", "--strip") == 0
    assert "unverified: the plan was not compared" in capsys.readouterr().out
    plan = tmp_path / "a.engine"
    assert export("--weights", tmp_path / "tiny.onnx", "--format", "engine", "--output", plan) == 0
    assert read_contract(plan).parity == ParityInfo(verdict="unverified", images=0)
    content = plan.read_bytes()
    assert export(*weights, "--output", plan) == 0
    assert "is up to date" in capsys.readouterr().err
    parity = read_contract(plan).parity
    assert parity is not None
    assert parity.images == 2
    assert plan.read_bytes() == content


def test_plan_from_an_artifact_needs_neither_torch_nor_onnx(artifact: Path, tmp_path: Path, gpu: SimulatedGpu) -> None:
    script = f"""
import sys
for name in ("torch", "onnx", "onnxscript", "cv2"):
    sys.modules[name] = None
from yolopose.export.command import main
code = main(["--weights", {str(artifact)!r}, "--format", "engine", "--output", {str(tmp_path)!r}, "--json"])
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["built"], document["verdict"]) == (True, "unverified")
    assert document["contract"]["engine"]["profiles"] == [
        {"name": "usual", "batch": [2, 2, 2], "height": [64, 64, 64], "width": [96, 96, 96]}
    ]
    assert read_contract(tmp_path / "tiny.engine").input.batch == Range(2, 2, 2)


def test_output_for_an_unverified_plan(
    artifact: Path, tmp_path: Path, gpu: SimulatedGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--weights", artifact, "--format", "engine", "--output", tmp_path / "a.trt")
    assert export(*words) == 0
    captured = capsys.readouterr()
    assert (
        f"unverified: the plan was not compared with its network; yolopose-bench {tmp_path / 'a.trt'}" in captured.out
    )
    assert "TensorRT: Building (3 steps)" in captured.err
    assert export(*words) == 0
    assert "is up to date" in capsys.readouterr().err


def test_strip_and_refit(artifact: Path, tmp_path: Path, gpu: SimulatedGpu, capsys: pytest.CaptureFixture[str]) -> None:
    engine = ("--weights", artifact, "--format", "engine", "--output")
    assert export(*engine, tmp_path / "bare.engine", "--strip") == 0
    assert (tmp_path / "bare.engine").stat().st_size < 1000
    assert export(*engine, tmp_path / "full.engine", "--refit", tmp_path / "bare.engine") == 0
    with PoseEstimator(tmp_path / "full.engine") as estimate:
        estimate(np.zeros((64, 96, 3), np.uint8))
    assert (
        export("--weights", artifact.with_suffix(".pt"), "--format", "engine", "--refit", tmp_path / "bare.engine") == 2
    )
    assert "--refit takes the weights of an .onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fails", "message"), [("refit", "Unique node_7: no converter"), ("fill", "backbone.stem.weight")]
)
def test_refit_rejects_weights_that_do_not_fit(
    artifact: Path,
    tmp_path: Path,
    gpu: SimulatedGpu,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: str,
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", simulated_tensorrt(fails=fails))
    engine = ("--weights", artifact, "--format", "engine", "--output")
    assert export(*engine, tmp_path / "bare.engine", "--strip") == 0
    assert export(*engine, tmp_path / "full.engine", "--refit", tmp_path / "bare.engine") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "full.engine").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--level", "3"), 2, "--level belongs to --format engine"),
        (("--format", "engine", "--level", "7"), 2, "must lie in 0..5, got 7"),
        (("--format", "engine", "--int8", "--target", "cpu"), 2, "--target cpu is not"),
        (("--format", "engine", "--output", "a.plan"), 2, "must end in .engine or .trt"),
        (("--format", "engine", "--profile", "3"), 2, "batch 3 is not accepted by the artifact: 2 only"),
        (("--format", "engine", "--weights", "none.onnx"), 1, "none.onnx"),
        (("--format", "engine", "--fp16"), 2, "--fp16 is for weights"),
        (("--format", "engine", "--explain"), 2, "--explain is for weights"),
        (("--format", "engine", "--refit", "none.engine"), 1, "none.engine"),
    ],
)
def test_rejects_flags(
    artifact: Path,
    gpu: SimulatedGpu,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    weights = artifact.with_suffix(".pt") if "--int8" in words else artifact
    assert export("--weights", weights, *words) == code
    assert message in capsys.readouterr().err


def test_missing_tensorrt_or_gpu_is_reported_before_the_export(
    tiny_weights: Path,
    tmp_path: Path,
    gpu: SimulatedGpu,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--weights", tiny_weights, "--format", "engine", "--output", tmp_path / "a.engine", *SMALL)
    gpu.fails["cudaGetDeviceCount"] = 100
    assert export(*words) == 1
    assert "cudaErrorNoDevice" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert export(*words) == 1
    assert 'pip install "yolopose[tensorrt]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
