"""The child process: one task as JSON on stdin, its answer in the JSON file that the task names.

``python -m yolopose.benchmarks.worker``; one configuration a process, because thread pools that spin in one session
take cores from another. Started by ``child.run_child`` only.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from yolopose.runtime.errors import YoloposeError

from .tasks import NetworkTask, PeopleTask, ReferenceTask, TimeTask, task_from_dict


def main() -> int:
    """Exit code 0 with an answer, 1 with ``{"error": {"type", "message"}}``; anything unforeseen is a traceback."""
    request = json.load(sys.stdin)
    try:
        answer = _answer(request)
        code = 0
    except (YoloposeError, ValueError, OSError) as error:
        answer = {"error": {"type": error_kind(error), "message": str(error)}}
        code = 1
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return code


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    # Each kind is imported when it is asked for: torch is loaded for checkpoints alone, and a cold start is measured
    # without modules that an application would not load.
    task = task_from_dict(request["task"])
    if isinstance(task, TimeTask):
        from .timing import time_artifact

        return time_artifact(task, started_ns=request["started_ns"], clock=time.monotonic_ns)
    if isinstance(task, PeopleTask):
        from .timing import collect_people

        return collect_people(task)
    if isinstance(task, NetworkTask):
        from .timing import compare_with_network

        return compare_with_network(task)
    assert isinstance(task, ReferenceTask)
    from .reference import run_reference

    return run_reference(task)


def error_kind(error: Exception) -> str:
    """Name that the parent can raise again: one of our own, else ValueError or OSError."""
    if isinstance(error, YoloposeError):
        return type(error).__name__
    return "ValueError" if isinstance(error, ValueError) else "OSError"


if __name__ == "__main__":
    sys.exit(main())
