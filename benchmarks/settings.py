"""What one benchmark run is asked to do; the only home of its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

DEMO = Path("demo")  # word for the demo network wherever weights are asked for; it is no file


@dataclass(frozen=True)
class BenchSettings:
    """Validated in ``__post_init__``; raises ValueError naming the flag."""

    artifacts: tuple[Path, ...]
    reference: Path | None = None  # checkpoint that the artifacts were made from, or DEMO
    data: Path | None = None  # COCO keypoint labels of the images in `images`
    images: Path | None = None  # folder; without it synthetic scenes are drawn
    backend: str = "auto"
    device: str | None = None
    threads: int | None = None  # None: as the engine decides
    imgsz: tuple[int, int] | None = None  # (height, width) in pixels; None: as in each contract
    score: float | None = None  # None: as in each contract
    iou: float | None = None
    evaluation_score: float = 0.001  # AP counts the low scores too; time and parity are measured at `score`
    batch: int = 8  # throughput is measured at 1 and at this
    limit: int | None = None  # at most so many images, evenly spread over the folder
    iterations: int = 120  # timed images an artifact, shared out among the rounds
    warmup: int = 10  # images before each round's measurement, not counted
    rounds: int = 3  # fresh processes an artifact; artifacts take turns
    output: Path | None = None

    def __post_init__(self) -> None:
        if not self.artifacts:
            raise ValueError("no artifact was given")
        if self.data is not None and self.images is None:
            raise ValueError("--data needs --images: the folder that the labels' file names refer to")
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

    def iterations_of_round(self, index: int) -> int:
        """Iterations of round ``index`` (0-based): they differ by at most one and add up to ``iterations``."""
        return self.iterations // self.rounds + (index < self.iterations % self.rounds)
