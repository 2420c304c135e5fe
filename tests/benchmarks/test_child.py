from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from yolopose.benchmarks.tasks import Opening, PeopleTask, run_child
from yolopose.runtime.errors import ArtifactError, BackendError, SourceError


def task(artifact: str, image: str = "/nowhere/1.png") -> PeopleTask:
    return PeopleTask(Opening(artifact, "auto", None, 1, None, 0.25, 0.65), [image], {"/nowhere/people.npz": 0.25})


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module that children find, to be written to tmp_path/crashing.py; proves that sys.path is passed on."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return "crashing"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import sys; sys.stdin.read(); sys.exit('bad luck')", "exit code 1 before it had an answer.*\nbad luck"),
        ("import os; os.write(2, b'heap'); os.abort()", "signal SIGABRT before it had an answer.*\nheap"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", r"SIGKILL \(often: out of memory\).*\n\(nothing\)"),
        ("import sys; print('only\\n' * 50, 'end'); sys.exit(7)", "exit code 7.*\n(only\n){19} end$"),
        ("raise RuntimeError('unforeseen')", "exit code 1.*\n(.*\n)*RuntimeError: unforeseen"),
    ],
    ids=["exit", "abort", "killed", "long log", "traceback"],
)
def test_a_crash_quotes_the_last_words(tmp_path: Path, module: str, source: str, message: str) -> None:
    (tmp_path / "crashing.py").write_text(source, encoding="utf-8")
    with pytest.raises(BackendError, match=message) as caught:
        run_child(task("/nowhere/a.onnx"), module)
    assert "/nowhere/a.onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("SourceError", SourceError), ("ContractTooNew", ArtifactError), ("ValueError", ValueError), ("OSError", OSError)],
)
def test_an_error_there_is_the_same_error_here(
    tmp_path: Path, module: str, kind: str, expected: type[Exception]
) -> None:
    (tmp_path / "crashing.py").write_text(
        "import json, pathlib, sys\n"
        "answer = {'error': {'type': '" + kind + "', 'message': 'which, what, what to do'}}\n"
        "pathlib.Path(json.load(sys.stdin)['answer']).write_text(json.dumps(answer))\n",
        encoding="utf-8",
    )
    with pytest.raises(expected, match="which, what, what to do") as caught:
        run_child(task("/nowhere/a.onnx"), module)
    assert type(caught.value).__name__ == kind


def test_an_interrupted_command_leaves_no_child_behind(
    tmp_path: Path, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crashing.py").write_text("import time; time.sleep(600)", encoding="utf-8")
    started: list[subprocess.Popen[bytes]] = []

    def interrupted(process: subprocess.Popen[bytes], request: bytes) -> None:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_child(task("/nowhere/a.onnx"), module)
    (process,) = started
    assert process.poll() == -signal.SIGKILL


def test_the_worker_passes_on_what_the_runtime_raises(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"/nowhere/a\.onnx"):
        run_child(task("/nowhere/a.onnx"))
    with pytest.raises(SourceError, match=r"/nowhere/1\.png"):
        run_child(task(str(artifact)))


def test_the_working_directory_does_not_shadow_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifact: Path
) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("python -m cannot leave the working directory out before 3.11")
    (tmp_path / "yolopose").mkdir()
    (tmp_path / "yolopose" / "__init__.py").write_text("raise SystemExit('the wrong yolopose')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=r"/nowhere/1\.png"):
        run_child(task(str(artifact)))
