"""Inside the child: which operators ONNX Runtime runs on the GPU, and which fall to the CPU."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .tasks import GpuTask

_SHAPE_TYPES = frozenset(("int64", "bool"))
_LARGEST_SHAPE = 8  # numbers: more are pixels, anchors or people


def operators_by_provider(task: GpuTask) -> dict[str, Any]:
    """Counts of operators that ran, by provider, and ``misplaced``: those of ours that the GPU should have run."""
    import onnxruntime

    from yolopose.runtime import read_contract
    from yolopose.runtime.backends.onnxruntime import session_options

    given = read_contract(task.artifact).input
    shape_hw = (given.height.opt, given.width.opt)
    options = session_options(onnxruntime, shape_hw, None)
    options.enable_profiling = True
    on_gpu = task.device.startswith("cuda")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        if on_gpu and hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        providers = ["CUDAExecutionProvider"] if on_gpu else ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(task.artifact, options, providers=providers)
        rows = given.batch.min
        thresholds = {name: np.full((rows, 1), 0.25, np.float32) for name in ("score_threshold", "iou_threshold")}
        session.run(None, {"images": np.zeros((rows, *shape_hw, 3), np.uint8), **thresholds})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return {"providers": counted(events), "misplaced": misplaced(events) if on_gpu else {}}


def counted(events: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Operators that ran, by provider."""
    found: dict[str, Counter[str]] = {}
    for arguments in _operators(events):
        found.setdefault(arguments["provider"], Counter())[arguments["op_name"]] += 1
    return {provider: dict(sorted(counts.items())) for provider, counts in found.items()}


def misplaced(events: list[dict[str, Any]]) -> dict[str, int]:
    """Operators on the CPU that compute on more than a shape, and copies between CPU and GPU inside the graph.

    ONNX Runtime keeps arithmetic on shapes on the CPU on purpose: a few whole numbers.
    """
    found: Counter[str] = Counter()
    for arguments in _operators(events):
        on_cpu = arguments["provider"] == "CPUExecutionProvider"
        if arguments["op_name"].startswith("Memcpy") or (on_cpu and not _is_shape(arguments["output_type_shape"])):
            found[arguments["op_name"]] += 1
    return dict(sorted(found.items()))


def _operators(events: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for event in events:
        arguments = event.get("args", {})
        if event.get("cat") == "Node" and arguments.get("provider"):
            yield arguments


def _is_shape(outputs: list[dict[str, list[int]]]) -> bool:
    return all(
        kind in _SHAPE_TYPES and prod(shape) <= _LARGEST_SHAPE for each in outputs for kind, shape in each.items()
    )
