"""Running one task in a process of its own, and turning what goes wrong there into an error here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from yolopose.runtime import errors

from .tasks import Task, task_to_dict

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
