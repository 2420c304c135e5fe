"""A process of the proof: one step on one contestant, asked on stdin as ``benchmarks.child`` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from yolopose.runtime.errors import YoloposeError

from ..worker import error_kind
from .tasks import GpuTask


def main() -> int:
    request = json.load(sys.stdin)
    fields = {name: value for name, value in request["task"].items() if name != "kind"}
    try:
        answer, code = _answer(GpuTask(**fields)), 0
    except ImportError as error:
        answer, code = {"error": {"type": "BackendUnavailable", "message": f"{error}"}}, 1
    except (YoloposeError, ValueError, OSError) as error:
        answer, code = {"error": {"type": error_kind(error), "message": str(error)}}, 1
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return code


def _answer(task: GpuTask) -> dict[str, Any]:
    if task.step == "parity":
        from .parity import compare

        return compare(task)
    if task.step == "placement":
        from .placement import operators_by_provider

        return operators_by_provider(task)
    from .contestants import time_contestant, time_tail

    return time_tail(task) if task.step == "tail" else time_contestant(task)


if __name__ == "__main__":
    sys.exit(main())
