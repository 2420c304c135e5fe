"""The steps of the proof, on the CPU and on a simulated GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulated_gpu import SimulatedGpu
from yolopose.benchmarks.gpu.steps import (
    GpuTask,
    compare,
    misplaced,
    operators_by_provider,
    time_configuration,
    time_tail,
)
from yolopose.runtime.errors import BackendUnavailable


def task(made: Path, **changes: Any) -> GpuTask:
    base = GpuTask(
        "time", "demo", str(made / "demo.onnx"), "onnxruntime", "cpu", batch=2, iterations=2, warmup=1, limit=2
    )
    return replace(base, **changes)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "torch-graph", "torch:fp16"])
def test_configurations_are_timed(made: Path, backend: str) -> None:
    found = time_configuration(task(made, backend=backend))
    assert [len(values) for values in found["samples_ms"].values()] == [2]
    assert all(value > 0 for values in found["samples_ms"].values() for value in values)


def test_pytorch_without_a_gpu_is_unavailable(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for step in (time_configuration, time_tail):
        with pytest.raises(BackendUnavailable, match=r"PyTorch .* finds no GPU"):
            step(task(made, backend="torch", device="cuda:0"))


def test_plan_is_timed_with_its_bare_run(made: Path, gpu: SimulatedGpu) -> None:
    plan = task(made, backend="tensorrt", artifact=str(made / "demo.engine"), device="cuda:0")
    found = time_configuration(plan)
    assert {name: len(values) for name, values in found["samples_ms"].items()} == {"infer": 2, "bare": 2}
    assert found["version"] == "tensorrt 10.16.1.11"


def test_tail(made: Path) -> None:
    found = time_tail(task(made, batch=1))
    assert {name: len(values) for name, values in found["samples_ms"].items()} == {"deployed": 2, "network": 2}


def test_parity_uses_the_gate_of_an_export(made: Path) -> None:
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


def test_misplaced_operators() -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    right = [node(cuda, "TopK", "float", 1, 300), node(cpu, "Gather", "int64"), node(cpu, "Concat", "int64", 3)]
    assert misplaced([*right, {"cat": "Session", "args": {}}]) == {}
    wrong = [
        node(cpu, "TopK", "float", 1, 300),
        node(cpu, "Range", "int64", 300),
        node(cuda, "MemcpyToHost", "int64", 1),
    ]
    assert misplaced([*right, *wrong]) == {"MemcpyToHost": 1, "Range": 1, "TopK": 1}
