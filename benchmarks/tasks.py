"""What a child process is asked to do, how it is started, and how its answer and the people it found come back.

A task is a plain dataclass that travels as JSON on stdin. The answer is a JSON file; people travel in .npz files.
worker.py is the other end.
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

_ARRAYS = ("boxes", "scores", "pose_scores", "labels", "keypoints", "keypoint_scores")
_STDERR_LINES = 20  # of a crashed child, quoted in the error


@dataclass(frozen=True)
class EstimatorOptions:
    """The arguments of ``PoseEstimator``."""

    artifact: str  # absolute path, as are all paths here
    backend: str
    device: str | None
    threads: int | None
    imgsz: list[int] | None  # [height, width]
    score: float
    iou: float


@dataclass(frozen=True)
class TimeTask:
    """Cold start, memory, stages, overhead and throughput of one artifact."""

    options: EstimatorOptions
    images: list[str]
    iterations: int
    warmup: int
    batches: list[int]


@dataclass(frozen=True)
class PeopleTask:
    """The people that an artifact finds at each score threshold, each saved to a file."""

    options: EstimatorOptions
    images: list[str]
    files: dict[str, float]  # .npz path -> score threshold


@dataclass(frozen=True)
class NetworkTask:
    """Time of the bare network and of the bare artifact, in turn."""

    options: EstimatorOptions
    network: str  # ONNX file; `<file>.json` has the channel order and scale of its input
    images: list[str]
    iterations: int
    warmup: int


@dataclass(frozen=True)
class CheckpointTask:
    """A checkpoint in PyTorch: its people, its time and the bare network exported from it, as far as wanted.

    The answer always describes the checkpoint; without images it does only that.
    """

    weights: str
    threads: int | None
    shape_hw: list[int] | None  # None: the square size of the network
    iou: float
    max_people: int
    max_candidates: int
    images: list[str]
    files: dict[str, float]  # .npz path -> score threshold
    pose: dict[str, Any] | None = None  # fields of PoseInfo; None: what suits the network
    network: str | None = None  # where to export the bare network
    score: float | None = None  # set: time it at this threshold
    iterations: int = 0
    warmup: int = 0


Task = TimeTask | PeopleTask | NetworkTask | CheckpointTask
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (TimeTask, PeopleTask, NetworkTask, CheckpointTask)}


def task_to_dict(task: Task) -> dict[str, Any]:
    return {"kind": type(task).__name__, **asdict(task)}


def task_from_dict(document: dict[str, Any]) -> Task:
    fields = dict(document)
    kind = _KINDS[fields.pop("kind")]
    if "options" in fields:
        fields["options"] = EstimatorOptions(**fields["options"])
    task: Task = kind(**fields)
    return task


class RunChild(Protocol):
    def __call__(self, task: Task) -> dict[str, Any]: ...


def run_child(task: Task, module: str = "yolopose.benchmarks.worker") -> dict[str, Any]:
    """Answer of a new process. Raises what the child raised; BackendError quoting its stderr if it crashed."""
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
        # Monotonic clocks are system-wide: the child reads the same one to measure its cold start.
        started_ns = time.monotonic_ns()
        command = [sys.executable, "-m", module]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=stderr, stderr=stderr, env=_environment()
        ) as process:
            try:
                request = {"task": task_to_dict(task), "answer": str(answer), "started_ns": started_ns}
                process.communicate(json.dumps(request).encode("utf-8"))
            except BaseException:  # interrupted: leave no child running
                process.kill()
                raise
    return process.returncode


def _environment() -> dict[str, str]:
    """The child searches for modules exactly where this process does, and never in its working directory."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _error(kind: str, message: str) -> Exception:
    if kind in ("ValueError", "OSError"):
        return ValueError(message) if kind == "ValueError" else OSError(message)
    error: Exception = getattr(errors, kind)(message)
    return error


def _crash_message(task: Task, returncode: int, stderr: str) -> str:
    measured = task.weights if hasattr(task, "weights") else task.options.artifact
    how = f"ended with exit code {returncode}"
    if returncode < 0:
        how = f"was ended by signal {signal.Signals(-returncode).name}"
        if returncode == -signal.SIGKILL:
            how += " (often: out of memory)"
    lines = stderr.strip().splitlines()[-_STDERR_LINES:]
    quoted = "\n".join(lines) if lines else "(nothing)"
    return f"the process that measured {measured} {how} before it gave an answer. Last lines of its stderr:\n{quoted}"


def save_people(path: Path, results: Sequence[PoseResult]) -> None:
    """Rows of all images one after the other, and the number of people of each image; nothing is rounded."""
    if not results:
        raise ValueError("no results to save")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(people, name) for people in results]) for name in _ARRAYS}
    arrays["people"] = np.array([len(people) for people in results], dtype=np.int64)
    arrays["num_candidates"] = np.array([people.num_candidates for people in results], dtype=np.int64)
    arrays["flags"] = np.array([people.flags for people in results], dtype=np.int64)
    np.savez(path, **arrays)


def load_people(path: Path) -> list[PoseResult]:
    """What ``save_people`` saved, one PoseResult per image."""
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
