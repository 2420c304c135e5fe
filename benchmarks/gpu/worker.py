"""A child process of the proof: runs one step, given as JSON on stdin as in ``benchmarks.worker``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from yolopose.runtime.errors import YoloposeError

from ..worker import error_kind
from .steps import STEPS, GpuTask


def main() -> int:
    request = json.load(sys.stdin)
    fields = {name: value for name, value in request["task"].items() if name != "kind"}
    try:
        task = GpuTask(**fields)
        answer, code = STEPS[task.step](task), 0
    except ImportError as error:
        answer, code = {"error": {"type": "BackendUnavailable", "message": f"{error}"}}, 1
    except (YoloposeError, ValueError, OSError) as error:
        answer, code = {"error": {"type": error_kind(error), "message": str(error)}}, 1
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
