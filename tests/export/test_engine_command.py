"""``yolopose-export --format engine`` on a played GPU, from weights and from an .onnx, and what a plan then gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.played_gpu import ROOT, Machine, play
from yolopose.export import verify as verify_module
from yolopose.export.command import main
from yolopose.export.tensorrt_options import profile_from_text
from yolopose.runtime import PoseEstimator
from yolopose.runtime.contract import InputInfo, ParityInfo, Range, read_contract

from .fake_tensorrt import fake_tensorrt

SMALL = ("--imgsz", "64", "96", "--limit", "2", "--batch", "2")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return play(monkeypatch)


@pytest.fixture(scope="module")
def artifact(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "tiny.onnx"
    assert main(["--weights", str(tiny_weights), "--output", str(path), *SMALL]) == 0
    return path


def export(*words: object) -> int:
    return main([str(word) for word in words])


def test_from_weights_it_is_verified_like_an_artifact(
    machine: Machine, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--weights", tiny_weights, "--format", "engine", "--output", tmp_path / "here.engine", "--json", *SMALL)
    assert export(*words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["artifact"] == str(tmp_path / "here.engine")
    assert document["steps"][-1] == "TensorRT 10.16.1.11, Played Orin: built"
    assert document["comparison"]["max_px"] <= 0.05
    assert document["contract"]["parity"]["images"] == 2
    assert document["contract"]["engine"]["gpu"]["name"] == "Played Orin"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tiny.onnx", "here.engine", "here.engine.json", "here.engine.log"}
    with PoseEstimator(tmp_path / "here.engine") as plan, PoseEstimator(tmp_path / "tiny.onnx") as onnx:
        image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        plan.score_threshold = onnx.score_threshold = 0.001
        np.testing.assert_allclose(plan(image).keypoints, onnx(image).keypoints, atol=1e-3)
    assert export(*words) == 0
    assert json.loads(capsys.readouterr().out)["steps"][-1].endswith("up to date")


def test_a_plan_that_fails_the_gate_is_kept_aside(
    machine: Machine,
    tiny_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = verify_module.verify
    judged: list[Path] = []

    def verify(artifact: Path, *arguments: Any, **more: Any) -> Any:
        judged.append(artifact)
        with pytest.MonkeyPatch.context() as patch:
            if artifact.suffix == ".engine":
                patch.setattr(verify_module, "FLOAT32_PX", -1.0)
            return real(artifact, *arguments, **more)

    monkeypatch.setattr("yolopose.export.pipeline.verify", verify)
    plan = tmp_path / "here.engine"
    assert export("--weights", tiny_weights, "--format", "engine", "--output", plan, *SMALL) == 3
    said = capsys.readouterr().err
    assert "the plan: float32 must match PyTorch within tolerance" in said
    assert "kept as" in said
    assert [path.suffix for path in judged] == [".onnx", ".engine"]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"tiny.onnx", "here.engine.rejected", "here.engine.rejected.json", "here.engine.log"}


def test_what_nobody_judged_is_not_called_passed(
    machine: Machine,
    tiny_weights: Path,
    artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A plan from an .onnx, then from the weights: it is up to date, and judged all the same; a stripped one never."""
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


def test_from_an_artifact_neither_torch_nor_onnx_is_needed(artifact: Path, tmp_path: Path, machine: Machine) -> None:
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


def test_what_is_said_of_a_plan_that_nobody_compared(
    artifact: Path, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--weights", artifact, "--format", "engine", "--output", tmp_path / "a.trt")
    assert export(*words) == 0
    told = capsys.readouterr()
    assert f"unverified: the plan was not compared with its network; yolopose-bench {tmp_path / 'a.trt'}" in told.out
    assert "TensorRT: Building (3 steps)" in told.err
    assert export(*words) == 0
    assert "is up to date" in capsys.readouterr().err


def test_strip_and_refit(artifact: Path, tmp_path: Path, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
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
    ("fails", "said"), [("refit", "Unique node_7: no converter"), ("fill", "backbone.stem.weight")]
)
def test_weights_that_do_not_fit(
    artifact: Path,
    tmp_path: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fails: str,
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(fails=fails))
    engine = ("--weights", artifact, "--format", "engine", "--output")
    assert export(*engine, tmp_path / "bare.engine", "--strip") == 0
    assert export(*engine, tmp_path / "full.engine", "--refit", tmp_path / "bare.engine") == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "full.engine").exists()


GIVEN = InputInfo(height=Range(32, 640, 1280, 32), width=Range(32, 640, 1280, 32), batch=Range(1, 1, 64))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8", {"name": "8", "batch": [8, 8, 8], "height": [640, 640, 640], "width": [640, 640, 640]}),
        ("1:4:8@320", {"name": "1:4:8@320", "batch": [1, 4, 8], "height": [320] * 3, "width": [320] * 3}),
        (
            "live=1@320:640:960x1280",
            {"name": "live", "batch": [1, 1, 1], "height": [320, 640, 960], "width": [320, 640, 1280]},
        ),
    ],
)
def test_profiles(text: str, wanted: dict[str, Any]) -> None:
    assert profile_from_text(text, GIVEN).to_dict() == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1:2", "--profile must be as 8, 1:4:8@640"),
        ("x", "got 'x'"),
        ("8:4:2", "8, 4, 2"),
        ("65", "profile 65: batch 65 is not one that the artifact takes: 1 to 64"),
        ("1@650", "height 650 is not one that the artifact takes: 32 to 1280 in steps of 32"),
        ("0", "need 1 <= min"),
    ],
)
def test_profiles_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        profile_from_text(text, GIVEN)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--level", "3"), 2, "--level belongs to --format engine"),
        (("--format", "engine", "--level", "7"), 2, "must lie in 0..5, got 7"),
        (("--format", "engine", "--int8", "--target", "cpu"), 2, "--target cpu is not"),
        (("--format", "engine", "--output", "a.plan"), 2, "must end in .engine or .trt"),
        (("--format", "engine", "--profile", "3"), 2, "batch 3 is not one that the artifact takes: 2 only"),
        (("--format", "engine", "--weights", "none.onnx"), 1, "none.onnx"),
        (("--format", "engine", "--fp16"), 2, "--fp16 is for weights"),
        (("--format", "engine", "--explain"), 2, "--explain is for weights"),
        (("--format", "engine", "--refit", "none.engine"), 1, "none.engine"),
    ],
)
def test_flags_that_cannot_be(
    artifact: Path, machine: Machine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    weights = artifact.with_suffix(".pt") if "--int8" in words else artifact
    assert export("--weights", weights, *words) == code
    assert said in capsys.readouterr().err


def test_without_tensorrt_or_gpu_it_is_said_before_anything_is_exported(
    tiny_weights: Path,
    tmp_path: Path,
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--weights", tiny_weights, "--format", "engine", "--output", tmp_path / "a.engine", *SMALL)
    machine.fails["cudaGetDeviceCount"] = 100
    assert export(*words) == 1
    assert "cudaErrorNoDevice" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert export(*words) == 1
    assert 'pip install "yolopose[tensorrt]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
