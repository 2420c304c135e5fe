"""The proof without a GPU: its parts on the CPU and on a simulated GPU, what it reports, and what it calls a failure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulated_gpu import SimulatedGpu, simulate_gpu
from yolopose.benchmarks.gpu import proof as proof_module
from yolopose.benchmarks.gpu.contestants import compare, misplaced, operators_by_provider, time_contestant, time_tail
from yolopose.benchmarks.gpu.proof import _profiles, main
from yolopose.benchmarks.gpu.worker import GpuTask
from yolopose.export.command import main as export
from yolopose.runtime.errors import BackendError, BackendUnavailable


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network at 64 x 64, as an artifact and as a plan."""
    folder = tmp_path_factory.mktemp("made")
    words = ["--weights", "demo", "--output", str(folder / "demo.engine"), "--format", "engine", "--imgsz", "64"]
    with pytest.MonkeyPatch.context() as patch:
        simulate_gpu(patch)
        assert export([*words, "--limit", "2", "--profile", "1:1:2"]) == 0
    return folder


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimulatedGpu:
    return simulate_gpu(monkeypatch)


def task(made: Path, **changes: Any) -> GpuTask:
    base = GpuTask(
        "time", "demo", str(made / "demo.onnx"), "onnxruntime", "cpu", batch=2, iterations=2, warmup=1, limit=2
    )
    return replace(base, **changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "torch-graph", "torch:fp16"])
def test_contestants_are_timed(made: Path, backend: str) -> None:
    found = time_contestant(task(made, backend=backend))
    assert [len(values) for values in found["samples_ms"].values()] == [2]
    assert all(value > 0 for values in found["samples_ms"].values() for value in values)


def test_pytorch_without_a_gpu_is_said(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for step in (time_contestant, time_tail):
        with pytest.raises(BackendUnavailable, match=r"PyTorch .* sees no GPU"):
            step(task(made, backend="torch", device="cuda:0"))


def test_a_plan_is_timed_beside_its_bare_run(made: Path, gpu: SimulatedGpu) -> None:
    plan = task(made, backend="tensorrt", artifact=str(made / "demo.engine"), device="cuda:0")
    found = time_contestant(plan)
    assert {name: len(values) for name, values in found["samples_ms"].items()} == {"infer": 2, "bare": 2}
    assert found["version"] == "tensorrt 10.16.1.11"


def test_the_tail(made: Path) -> None:
    found = time_tail(task(made, batch=1))
    assert {name: len(values) for name, values in found["samples_ms"].items()} == {"deployed": 2, "network": 2}


def test_parity_is_the_gate_of_an_export(made: Path) -> None:
    found = compare(task(made, step="parity"))
    assert found["verdict"] in ("passed", "unverified")
    assert found["images"] == 2
    assert found["max_px"] is None or found["max_px"] <= 0.05


def test_operators_are_counted_by_provider(made: Path) -> None:
    found = operators_by_provider(task(made, step="placement"))
    assert found["providers"]["CPUExecutionProvider"]["Conv"] > 40
    assert found["misplaced"] == {}


def node(provider: str, operator: str, kind: str, *shape: int) -> dict[str, Any]:
    arguments = {"provider": provider, "op_name": operator, "output_type_shape": [{kind: list(shape)}]}
    return {"cat": "Node", "args": arguments}


def test_what_is_misplaced() -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    right = [node(cuda, "TopK", "float", 1, 300), node(cpu, "Gather", "int64"), node(cpu, "Concat", "int64", 3)]
    assert misplaced([*right, {"cat": "Session", "args": {}}]) == {}
    wrong = [
        node(cpu, "TopK", "float", 1, 300),
        node(cpu, "Range", "int64", 300),
        node(cuda, "MemcpyToHost", "int64", 1),
    ]
    assert misplaced([*right, *wrong]) == {"MemcpyToHost": 1, "Range": 1, "TopK": 1}


def test_each_batch_has_a_profile_and_none_is_left_out() -> None:
    assert list(_profiles([8, 1, 32])) == ["--profile", "1:1:1", "--profile", "2:8:8", "--profile", "9:32:32"]
    assert list(_profiles([4])) == ["--profile", "1:4:4"]


class Children:
    """Answers of processes, without them."""

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
            raise BackendError("the process ended with exit code 1. Its last words:\ncudaErrorIllegalAddress")
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


def test_the_report(
    made: Path, gpu: SimulatedGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    children = Children()
    assert prove(made, tmp_path, children, monkeypatch) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gpu"] == {"name": "Simulated Orin", "compute_capability": "8.7", "cuda": "12.6"}
    (text,) = (path.read_text(encoding="utf-8") for path in tmp_path.glob("simulated-orin_2*.md"))
    assert "| demo.onnx | onnxruntime | PyTorch | passed | 30 | 30 | 0.01 | 1 |" in text
    assert "not here: parity, demo.onnx on onnxruntime:eager: CUDAExecutionProvider did not start" in text
    assert "| onnxruntime (1) | demo.onnx | 2 | 4.000 | 4.000 | 6 | 2.00x | 2.0% [2.0%, 2.0%] |" in text
    assert "batch 1: 0.100 ms" in text
    assert len(list(tmp_path.glob("simulated-orin_2*.json"))) == 1
    timed = [(task.backend, task.batch) for task in children.tasks if task.step == "time"]
    assert timed.count(("onnxruntime", 64)) == 3
    assert ("tensorrt", 64) not in timed  # more than its profile
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


def test_without_a_gpu(gpu: SimulatedGpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.fails["cudaGetDeviceCount"] = 100
    assert main(["--output", str(tmp_path)]) == 1
    assert "cudaErrorNoDevice" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    for words in (["--batches", "0"], ["--rounds", "0"], ["--imgsz", "0"]):
        assert main([*words, "--output", str(tmp_path)]) == 2
