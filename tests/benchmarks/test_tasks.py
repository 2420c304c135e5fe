"""Tasks as JSON, child processes and their errors, and files of people."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolopose.benchmarks.tasks import (
    CheckpointTask,
    EstimatorOptions,
    NetworkTask,
    PeopleTask,
    Task,
    TimeTask,
    load_people,
    run_child,
    save_people,
    task_from_dict,
    task_to_dict,
)
from yolopose.runtime.errors import ArtifactError, BackendError, SourceError, UsageError
from yolopose.runtime.result import PoseResult

OPTIONS = EstimatorOptions("/a.onnx", "auto", None, 2, [64, 96], 0.25, 0.65)


def people_task(artifact: str, image: str = "/nowhere/1.png") -> PeopleTask:
    options = EstimatorOptions(artifact, "auto", None, 1, None, 0.25, 0.65)
    return PeopleTask(options, [image], {"/nowhere/people.npz": 0.25})


@pytest.mark.parametrize(
    "task",
    [
        TimeTask(OPTIONS, ["/1.png"], 10, 2, [1, 8]),
        PeopleTask(OPTIONS, ["/1.png"], {"/people.npz": 0.001}),
        NetworkTask(OPTIONS, "/network.onnx", ["/1.png"], 10, 2),
        CheckpointTask("/best.pt", None, [64, 96], 0.65, 100, 300, ["/1.png"], {"/r.npz": 0.25}, None, "/network.onnx"),
    ],
    ids=lambda task: type(task).__name__,
)
def test_json_round_trip(task: Task) -> None:
    assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that children find, to be written to tmp_path/crashing.py; shows that sys.path is passed on."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return "crashing"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.stdin.read(); sys.exit('bad luck')", "exit code 1 before it gave an answer.*\nbad luck"),
        ("import os; os.write(2, b'heap'); os.abort()", "signal SIGABRT before it gave an answer.*\nheap"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"SIGKILL \(often: out of memory\).*\n\(nothing\)"),
        ("import sys; print('only\\n' * 50, 'end'); sys.exit(7)", "exit code 7.*\n(only\n){19} end$"),
        ("raise RuntimeError('unforeseen')", "exit code 1.*\n(.*\n)*RuntimeError: unforeseen"),
    ],
    ids=["exit", "abort", "killed", "long log", "traceback"],
)
def test_crash_quotes_last_lines_of_stderr(tmp_path: Path, module: str, source: str, message: str) -> None:
    (tmp_path / "crashing.py").write_text(source, encoding="utf-8")
    with pytest.raises(BackendError, match=message) as caught:
        run_child(people_task("/nowhere/a.onnx"), module)
    assert "/nowhere/a.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("SourceError", SourceError),
        ("ContractTooNew", ArtifactError),
        ("UsageError", UsageError),
        ("ValueError", ValueError),
        ("OSError", OSError),
    ],
)
def test_error_of_child_is_raised_again(tmp_path: Path, module: str, kind: str, expected: type[Exception]) -> None:
    (tmp_path / "crashing.py").write_text(
        "import json, pathlib, sys\n"
        "answer = {'error': {'type': '" + kind + "', 'message': 'which, what, what to do'}}\n"
        "pathlib.Path(json.load(sys.stdin)['answer']).write_text(json.dumps(answer))\n",
        encoding="utf-8",
    )
    with pytest.raises(expected, match="which, what, what to do") as caught:
        run_child(people_task("/nowhere/a.onnx"), module)
    assert type(caught.value).__name__ == kind


def test_interrupt_kills_child(tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashing.py").write_text("import time; time.sleep(600)", encoding="utf-8")
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(process: subprocess.Popen[bytes], request: bytes) -> None:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_child(people_task("/nowhere/a.onnx"), module)
    (process,) = started
    assert process.poll() == -signal.SIGKILL


def test_working_directory_does_not_shadow_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Path
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("python -m always searches the working directory before 3.11")
    (tmp_path / "yolopose").mkdir()
    (tmp_path / "yolopose" / "__init__.py").write_text("raise SystemExit('the wrong yolopose')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"/nowhere/1\.png"):
        run_child(people_task(str(artifact)))


def some_people(count: int, keypoints: int, seed: int) -> PoseResult:
    rng = np.random.default_rng(seed)
    return PoseResult(
        boxes=rng.normal(100, 50, (count, 4)),
        scores=np.sort(rng.random(count))[::-1],
        labels=rng.integers(0, 3, count),
        keypoints=rng.normal(100, 50, (count, keypoints, 2)),
        keypoint_scores=rng.random((count, keypoints)),
        num_candidates=int(rng.integers(0, 9000)),
        flags=int(rng.integers(0, 8)),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6), keypoints=st.integers(1, 5))
def test_people_file_round_trip_is_bit_equal(tmp_path: Path, counts: list[int], keypoints: int) -> None:
    sent = [some_people(count, keypoints, seed) for seed, count in enumerate(counts)]
    save_people(tmp_path / "people.npz", sent)
    received = load_people(tmp_path / "people.npz")
    assert len(received) == len(sent)
    for before, after in zip(sent, received, strict=True):
        for name in ("boxes", "scores", "labels", "keypoints", "keypoint_scores"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
            assert getattr(after, name).dtype == getattr(before, name).dtype
        assert (after.num_candidates, after.flags) == (before.num_candidates, before.flags)


def test_saving_no_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results"):
        save_people(tmp_path / "people.npz", [])
