"""What a process of the proof is asked to do.

A process of the proof: one step on one contestant, asked on stdin as ``benchmarks.child`` does.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolopose.runtime.errors import YoloposeError

from ..worker import error_kind

STEPS = ("parity", "time", "tail", "placement")


@dataclass(frozen=True)
class GpuTask:
    """One step on one contestant.

    backend: of ``PoseEstimator``; or torch, torch-graph, torch-compile, each with :fp16 behind it, which run the
    deployed network in PyTorch
    """

    step: str
    weights: str
    artifact: str  # contract and sizes, for PyTorch too
    backend: str
    device: str
    batch: int = 1
    iterations: int = 0
    warmup: int = 0
    images: str | None = None
    data: str | None = None
    limit: int = 0


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
        from .contestants import compare

        return compare(task)
    if task.step == "placement":
        from .contestants import operators_by_provider

        return operators_by_provider(task)
    from .contestants import time_contestant, time_tail

    return time_tail(task) if task.step == "tail" else time_contestant(task)


if __name__ == "__main__":
    sys.exit(main())
