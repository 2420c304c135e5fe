"""The proof with simulated child processes on a simulated GPU: its report, and what counts as a failure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.simulated_gpu import SimulatedGpu
from yolopose.benchmarks.gpu import proof as proof_module
from yolopose.benchmarks.gpu.proof import _profiles, main
from yolopose.benchmarks.gpu.steps import GpuTask
from yolopose.runtime.errors import BackendError, BackendUnavailable


def test_each_batch_size_has_a_profile_without_gaps() -> None:
    assert list(_profiles([8, 1, 32])) == ["--profile", "1:1:1", "--profile", "2:8:8", "--profile", "9:32:32"]
    assert list(_profiles([4])) == ["--profile", "1:4:4"]


class Children:
    """Answers of child processes, without the processes."""

    def __init__(
        self,
        verdict: str = "passed",
        misplaced: dict[str, int] | None = None,
        crashes: str = "none",
        absent: tuple[str, ...] = ("onnxruntime:eager",),
    ) -> None:
        self.absent = absent
        self.tasks: list[GpuTask] = []
        self.crashes = crashes
        self.verdict, self.misplaced = verdict, misplaced or {}

    def __call__(self, task: GpuTask) -> dict[str, Any]:
        self.tasks.append(task)
        if task.backend in self.absent:
            raise BackendUnavailable("CUDAExecutionProvider did not start")
        if task.backend == self.crashes:
            raise BackendError("the process ended with exit code 1. Its stderr:\ncudaErrorIllegalAddress")
        if task.step == "parity":
            counts = {"images": 2, "people": 30, "matched": 30, "max_px": 0.01, "mean_oks": 1.0, "reference": "PyTorch"}
            return {"verdict": self.verdict, "reason": "0 people differ", **counts}
        if task.step == "placement":
            return {"providers": {"CUDAExecutionProvider": {"Conv": 50}}, "misplaced": self.misplaced}
        if task.step == "tail":
            return {"samples_ms": {"deployed": [1.2, 1.2], "network": [1.0, 1.1]}, "version": "2"}
        ms = {"torch": 4.0, "onnxruntime": 2.0}.get(task.backend, 1.0) * task.batch
        bare = {} if task.backend.startswith("torch") else {"bare": [ms * 0.98] * task.iterations}
        return {"samples_ms": {"infer": [ms] * task.iterations, **bare}, "version": "1"}


def prove(made: Path, output: Path, children: Children, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(proof_module, "_CHILD", children)
    monkeypatch.setattr(proof_module.prove, "__defaults__", (children,))
    monkeypatch.setattr(proof_module, "TESTS", output / "none")
    words = ["--artifact", str(made / "demo.onnx"), "--artifact", str(made / "demo.engine"), "--output", str(output)]
    return main([*words, "--batches", "1", "2", "64", "--iterations", "6", "--rounds", "3", "--json"])


def test_report(
    made: Path, gpu: SimulatedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Children()
    assert prove(made, tmp_path, children, monkeypatch) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gpu"] == {"name": "Simulated Orin", "compute_capability": "8.7", "cuda": "12.6"}
    (text,) = (path.read_text(encoding="utf-8") for path in tmp_path.glob("simulated-orin_2*.md"))
    assert "| demo.onnx | onnxruntime | PyTorch | passed | 30 | 30 | 0.01 | 1 |" in text
    assert "not available here: parity, demo.onnx on onnxruntime:eager: CUDAExecutionProvider did not start" in text
    assert "| onnxruntime (1) | demo.onnx | 2 | 4.000 | 4.000 | 6 | 2.00x | 2.0% [2.0%, 2.0%] |" in text
    assert "batch 1: 0.100 ms" in text
    assert len(list(tmp_path.glob("simulated-orin_2*.json"))) == 1
    timed = [(task.backend, task.batch) for task in children.tasks if task.step == "time"]
    assert timed.count(("onnxruntime", 64)) == 3
    assert ("tensorrt", 64) not in timed  # more than its profile accepts
    assert ("onnxruntime:eager", 1) not in timed  # could not run


@pytest.mark.parametrize(
    "children",
    [
        Children(verdict="failed"),
        Children(misplaced={"TopK": 1}),
        Children(crashes="torch-graph"),
        Children(absent=("onnxruntime", "onnxruntime:eager", "tensorrt")),
    ],
)
def test_failures_end_in_exit_code_1_with_the_report_written(
    made: Path,
    gpu: SimulatedGpu,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    children: Children,
) -> None:
    assert prove(made, tmp_path, children, monkeypatch) == 1
    assert "failures, see" in capsys.readouterr().err
    (text,) = (path.read_text(encoding="utf-8") for path in tmp_path.glob("*.md"))
    assert "- FAILED: " in text


def test_missing_gpu_or_wrong_flags(gpu: SimulatedGpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.fails["cudaGetDeviceCount"] = 100
    assert main(["--output", str(tmp_path)]) == 1
    assert "cudaErrorNoDevice" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    for words in (["--batches", "0"], ["--rounds", "0"], ["--imgsz", "0"], ["--device", "cuda:x"]):
        assert main([*words, "--output", str(tmp_path)]) == 2
