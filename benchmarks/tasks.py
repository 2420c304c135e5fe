"""People of many images in one .npz file: how results travel from the child process that found them.

What a child process is asked to do, as plain dataclasses that travel as JSON on its stdin.

Running one task in a process of its own, and turning what goes wrong there into an error here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from yolopose.runtime import errors
from yolopose.runtime.result import PoseResult

_ARRAYS = ("boxes", "scores", "labels", "keypoints", "keypoint_scores")


def save_people(path: Path, results: Sequence[PoseResult]) -> None:
    """Rows of all images one after the other, with the number of people of each image; nothing is rounded."""
    if not results:
        raise ValueError("no results to save")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(people, name) for people in results]) for name in _ARRAYS}
    arrays["people"] = np.array([len(people) for people in results], dtype=np.int64)
    arrays["num_candidates"] = np.array([people.num_candidates for people in results], dtype=np.int64)
    arrays["flags"] = np.array([people.flags for people in results], dtype=np.int64)
    np.savez(path, **arrays)


def load_people(path: Path) -> list[PoseResult]:
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    ends = np.cumsum(stored["people"])
    return [
        PoseResult(
            **{name: stored[name][end - count : end] for name in _ARRAYS},
            num_candidates=int(candidates),
            flags=int(flags),
        )
        for count, end, candidates, flags in zip(
            stored["people"], ends, stored["num_candidates"], stored["flags"], strict=True
        )
    ]


@dataclass(frozen=True)
class Opening:
    """How the artifact is opened: the arguments of ``PoseEstimator``."""

    artifact: str  # absolute path, like every path here
    backend: str
    device: str | None
    threads: int | None
    imgsz: list[int] | None  # [height, width]
    score: float
    iou: float


@dataclass(frozen=True)
class TimeTask:
    """Cold start, memory, stages, overhead and throughput of one artifact."""

    opening: Opening
    images: list[str]
    iterations: int
    warmup: int
    batches: list[int]


@dataclass(frozen=True)
class PeopleTask:
    """The people an artifact finds, at each score threshold, each saved to a file."""

    opening: Opening
    images: list[str]
    files: dict[str, float]  # .npz path -> score threshold


@dataclass(frozen=True)
class NetworkTask:
    """Bare network and bare artifact in turn."""

    opening: Opening
    network: str  # ONNX file, beside it `<file>.json` with the channel order and scale of its input
    images: list[str]
    iterations: int
    warmup: int


@dataclass(frozen=True)
class ReferenceTask:
    """A checkpoint in PyTorch: its people, its time, or the bare network it exports, whichever are asked for.

    The answer says in any case what the checkpoint holds; without images that is all.
    """

    weights: str
    threads: int | None
    shape_hw: list[int] | None  # None: the square that the network was made for
    iou: float
    max_people: int
    images: list[str]
    files: dict[str, float]  # .npz path -> score threshold
    network: str | None = None
    score: float | None = None  # set: time it at this threshold
    iterations: int = 0
    warmup: int = 0


Task = TimeTask | PeopleTask | NetworkTask | ReferenceTask
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (TimeTask, PeopleTask, NetworkTask, ReferenceTask)}


def task_to_dict(task: Task) -> dict[str, Any]:
    return {"kind": type(task).__name__, **asdict(task)}


def task_from_dict(document: dict[str, Any]) -> Task:
    fields = dict(document)
    kind = _KINDS[fields.pop("kind")]
    if "opening" in fields:
        fields["opening"] = Opening(**fields["opening"])
    task: Task = kind(**fields)
    return task


_STDERR_LINES = 20  # of a crashed child, quoted in the error


class RunChild(Protocol):
    def __call__(self, task: Task) -> dict[str, Any]: ...


def run_child(task: Task, module: str = "yolopose.benchmarks.worker") -> dict[str, Any]:
    """The child's answer. Raises what the child raised; BackendError with the end of its stderr when it crashed."""
    with tempfile.TemporaryDirectory(prefix="yolopose-bench-") as folder:
        answer, log = Path(folder, "answer.json"), Path(folder, "stderr.txt")
        returncode = _run(task, module, answer, log)
        if not answer.is_file():
            stderr = log.read_text(encoding="utf-8", errors="replace")
            raise errors.BackendError(_crash_message(task, returncode, stderr))
        document: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in document:
        raise _error(document["error"]["type"], document["error"]["message"])
    return document


def _run(task: Task, module: str, answer: Path, log: Path) -> int:
    with log.open("wb") as stderr:
        # monotonic clocks are system-wide: the child reads the same one to tell its cold start
        started_ns = time.monotonic_ns()
        command = [sys.executable, "-m", module]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, env=_environment()
        ) as process:
            try:
                request = {"task": task_to_dict(task), "answer": str(answer), "started_ns": started_ns}
                process.communicate(json.dumps(request).encode("utf-8"))
            except BaseException:  # interrupted: leave nothing running behind
                process.kill()
                raise
    return process.returncode


def _environment() -> dict[str, str]:
    """The child looks modules up exactly where this process does, and never in its working directory by accident."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _error(kind: str, message: str) -> Exception:
    if kind in ("ValueError", "OSError"):
        return ValueError(message) if kind == "ValueError" else OSError(message)
    error: Exception = getattr(errors, kind)(message)
    return error


def _crash_message(task: Task, returncode: int, stderr: str) -> str:
    subject = task.weights if hasattr(task, "weights") else task.opening.artifact
    how = f"ended with exit code {returncode}"
    if returncode < 0:
        how = f"was ended by signal {signal.Signals(-returncode).name}"
        if returncode == -signal.SIGKILL:
            how += " (often: out of memory)"
    lines = stderr.strip().splitlines()[-_STDERR_LINES:]
    said = "\n".join(lines) if lines else "(nothing)"
    return f"the process that measured {subject} {how} before it had an answer. Its last words on stderr:\n{said}"
