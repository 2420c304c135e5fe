"""The settings of one benchmark run. Each field has its default, help text and limits; command.py adds the flags."""

# ruff: noqa: RUF009 - _option() returns a dataclass field

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

from yolopose.data.sources import is_yaml
from yolopose.evaluation import AP_SCORE_THRESHOLD, Convention
from yolopose.runtime.backends.base import BACKENDS

DEMO = Path("demo")  # the word for the demo network wherever weights are given; it is not a file
CHECKPOINT_SUFFIXES = (".pt", ".pth")
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)


def split_backend(given: Path) -> tuple[Path, str | None]:
    """``demo.onnx@openvino`` is demo.onnx run by OpenVINO, unless a file has exactly this name.

    Raises ValueError when the file before the @ exists, but no backend has the name after it.
    """
    name, at, backend = given.name.rpartition("@")
    if not at or not name or given.exists():
        return given, None
    path = given.with_name(name)
    if backend in BACKENDS:
        return path, backend
    if path.exists():
        raise ValueError(f"{given}: no such file, and {backend!r} is not a backend; backends: {', '.join(BACKENDS)}")
    return given, None


def is_checkpoint(given: Path) -> bool:
    """By its name: PyTorch weights or the demo network. Every other file is taken for an artifact."""
    path, _ = split_backend(given)
    return path == DEMO or path.suffix.lower() in CHECKPOINT_SUFFIXES


def _option(
    default: Any, help_text: str, *, limits: tuple[float, float] | None = None, **argparse_keywords: Any
) -> Any:
    """A field with its lowest and highest value and what ``add_argument`` takes; the annotation gives the type."""
    return field(default=default, metadata={"limits": limits, "argparse": {"help": help_text, **argparse_keywords}})


_FROM_1 = (1, math.inf)


@dataclass(frozen=True)
class BenchSettings:
    """Raises ValueError naming the flag. ``imgsz`` is (height, width) in pixels."""

    files: tuple[Path, ...] = _option(
        MISSING,
        "artifact, checkpoint (.pt, .pth) or demo; FILE@BACKEND runs an artifact on that backend; speed is relative to "
        "the first artifact or, without artifacts, to the first checkpoint",
        metavar="FILE",
    )
    reference: Path | None = _option(
        None, "checkpoint to compare the artifacts with: adds parity and the bare network", metavar="WEIGHTS"
    )
    images: Path | None = _option(
        None, "folder of photographs; without it and --data the images are synthetic scenes", metavar="DIR"
    )
    data: str | None = _option(
        None,
        "COCO keypoint JSON (labels.json or labels.json:folder) or data.yaml of a YOLO-pose folder: adds AP",
        metavar="LABELS",
    )
    split: str = _option("val", "split of a data.yaml: train, val or test")
    evaluation_images: Convention = _option(
        "all",
        "take AP over all images (as mmpose does), or only over images with people (as yolov5-pose, yolov7 and "
        "ultralytics do)",
        choices=CONVENTIONS,
    )
    backend: str = _option(
        "auto", f"backend that runs the artifacts: {', '.join(BACKENDS)}; checkpoints always run in PyTorch"
    )
    device: str | None = _option(None, "device of the backend (default: chosen by the backend)")
    threads: int | None = _option(
        None, "threads of the backend (default: chosen by the backend)", limits=_FROM_1, metavar="N"
    )
    imgsz: tuple[int, int] | None = _option(
        None,
        "input size: one number, or height and width (default: that of the contract or of the checkpoint)",
        nargs="+",
        metavar="PX",
    )
    score: float | None = _option(
        None,
        "score threshold for time and parity (default: that of the contract; 0.25 for checkpoints)",
        limits=(0, 1),
        metavar="X",
    )
    iou: float | None = _option(
        None,
        "IoU threshold of NMS (default: that of the contract; 0.65 for checkpoints)",
        limits=(0, 1),
        metavar="X",
    )
    evaluation_score: float = _option(AP_SCORE_THRESHOLD, "score threshold for AP", limits=(0, 1), metavar="X")
    batch: int = _option(8, "throughput is measured at batch 1 and N", limits=_FROM_1, metavar="N")
    limit: int | None = _option(
        None, "use at most N images, evenly spread (default: all; 32 synthetic scenes)", limits=_FROM_1, metavar="N"
    )
    iterations: int = _option(120, "timed images per file, shared out among the rounds", limits=_FROM_1, metavar="N")
    warmup: int = _option(10, "images run before each round and not counted", limits=(0, math.inf), metavar="N")
    rounds: int = _option(3, "fresh processes per file; files take turns", limits=_FROM_1, metavar="N")
    output: Path | None = _option(None, "folder for benchmark.json and benchmark.md", metavar="DIR")

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("no file was given")
        for given in self.checkpoints:
            if split_backend(given)[1] is not None:
                raise ValueError(f"{given}: only artifacts can name a backend; checkpoints run in PyTorch")
        if not self.artifacts:
            self._check_checkpoints_alone()
        if self.images is not None and self.data is not None and is_yaml(self.data):
            raise ValueError(f"--images is for COCO labels; {self.data} names its own images")
        if self.evaluation_images not in CONVENTIONS:
            raise ValueError(f"--evaluation-images must be one of {CONVENTIONS}, got {self.evaluation_images!r}")
        if self.imgsz is not None and min(self.imgsz) < 1:
            raise ValueError(f"--imgsz must be positive, got {self.imgsz}")
        for each in fields(self):
            value, limits = getattr(self, each.name), each.metadata["limits"]
            if value is None or limits is None or limits[0] <= value <= limits[1]:
                continue
            allowed = f"be at least {limits[0]}" if limits[1] == math.inf else f"lie in {limits[0]}..{limits[1]}"
            raise ValueError(f"{flag_name(each.name)} must {allowed}, got {value}")
        if self.iterations < self.rounds:
            raise ValueError(f"--iterations ({self.iterations}) must be at least --rounds ({self.rounds})")

    @property
    def artifacts(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if not is_checkpoint(path))

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        return tuple(path for path in self.files if is_checkpoint(path))

    def _check_checkpoints_alone(self) -> None:
        if self.reference is not None:
            raise ValueError(
                "--reference needs an artifact to compare with, and there is none: "
                f"put {self.reference} among the files instead"
            )
        if self.backend != "auto" or self.device is not None:
            raise ValueError("--backend and --device are for artifacts, and there is none; checkpoints run on the CPU")

    def iterations_of_round(self, index: int) -> int:
        """Iterations of round ``index`` (from 0): they differ by at most one and add up to ``iterations``."""
        return self.iterations // self.rounds + (index < self.iterations % self.rounds)


def flag_name(field_name: str) -> str:
    """``evaluation_score`` is ``--evaluation-score`` on the command line."""
    return f"--{field_name.replace('_', '-')}"
