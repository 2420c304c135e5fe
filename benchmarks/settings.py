"""What one benchmark run is asked to do; the only home of its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from yolopose.data.sources import is_yaml
from yolopose.evaluation import AP_SCORE_THRESHOLD, Convention
from yolopose.runtime.backends.base import BACKENDS

DEMO = Path("demo")  # word for the demo network wherever weights are asked for; it is no file
CHECKPOINT_SUFFIXES = (".pt", ".pth")
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


def split_backend(given: Path) -> tuple[Path, str | None]:
    """``demo.onnx@openvino`` is demo.onnx run by that backend, unless there is a file of this very name.

    Raises ValueError where neither there is such a file nor such a backend, but the file before the @ is there.
    """
    name, at, backend = given.name.rpartition("@")
    if not at or not name or given.exists():
        return given, None
    path = given.with_name(name)
    if backend in BACKENDS:
        return path, backend
    if path.exists():
        raise ValueError(f"{given}: no such file, and {backend!r} is no backend; they are {', '.join(BACKENDS)}")
    return given, None


def is_checkpoint(given: Path) -> bool:
    """By name: weights for PyTorch or the demo network; any other file is taken for an artifact."""
    path, _ = split_backend(given)
    return path == DEMO or path.suffix.lower() in CHECKPOINT_SUFFIXES


@dataclass(frozen=True)
class BenchSettings:
    """Validated in ``__post_init__``; raises ValueError naming the flag."""

    files: tuple[Path, ...]  # artifacts, which may name their backend (see split_backend), and checkpoints
    reference: Path | None = None  # checkpoint that the artifacts were made from, or DEMO
    data: str | None = None  # labels, as yolopose.data.sources.open_labels takes them
    split: str = "val"  # of the YAML of a YOLO-pose folder: train, val or test
    images: Path | None = None  # folder; without it and without labels synthetic scenes are drawn
    backend: str = "auto"  # of the artifacts that do not name their own
    device: str | None = None
    threads: int | None = None  # None: as the engine decides
    imgsz: tuple[int, int] | None = None  # (height, width) in pixels; None: as in each contract
    score: float | None = None  # None: as in each contract
    iou: float | None = None
    evaluation_score: float = AP_SCORE_THRESHOLD  # of AP; time and parity are measured at `score`
    evaluation_images: Convention = "all"  # or "with-people"; yolopose/evaluation.py says who counts how
    batch: int = 8  # throughput is measured at 1 and at this
    limit: int | None = None  # at most so many images, evenly spread over the folder
    iterations: int = 120  # timed images an artifact, shared out among the rounds
    warmup: int = 10  # images before each round's measurement, not counted
    rounds: int = 3  # fresh processes an artifact; artifacts take turns
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("no file was given")
        for given in self.checkpoints:
            if split_backend(given)[1] is not None:
                raise ValueError(f"{given} names a backend, which is for artifacts: checkpoints run in PyTorch")
        if not self.artifacts:
            self._require_nothing_of_artifacts()
        if self.images is not None and self.data is not None and is_yaml(self.data):
            raise ValueError(f"--images is for COCO labels; {self.data} names its own images")
        if self.evaluation_images not in CONVENTIONS:
            raise ValueError(f"--evaluation-images must be one of {CONVENTIONS}, got {self.evaluation_images!r}")
        for name in ("threads", "batch", "limit", "iterations", "warmup", "rounds"):
            value, lowest = getattr(self, name), 0 if name == "warmup" else 1
            if value is not None and value < lowest:
                raise ValueError(f"--{name} must be at least {lowest}, got {value}")
        if self.imgsz is not None and min(self.imgsz) < 1:
            raise ValueError(f"--imgsz must be positive, got {self.imgsz}")
        for name in ("score", "iou", "evaluation_score"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"--{name.replace('_', '-')} must lie in 0..1, got {value}")
        if self.iterations < self.rounds:
            raise ValueError(f"--iterations ({self.iterations}) must be at least --rounds ({self.rounds})")

    @property
    def artifacts(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if not is_checkpoint(path))

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if is_checkpoint(path))

    def _require_nothing_of_artifacts(self) -> None:
        if self.reference is not None:
            raise ValueError(
                "--reference is what artifacts are compared with, and none was given: "
                f"put {self.reference} among the files instead"
            )
        if self.backend != "auto" or self.device is not None:
            raise ValueError("--backend and --device are for artifacts, and none was given; checkpoints run on the CPU")

    def iterations_of_round(self, index: int) -> int:
        """Iterations of round ``index`` (0-based): they differ by at most one and add up to ``iterations``."""
        return self.iterations // self.rounds + (index < self.iterations % self.rounds)
