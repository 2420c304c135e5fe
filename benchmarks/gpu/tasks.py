"""What a process of the proof is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

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
