"""What an export makes, as dataclasses, and the names of the files it writes.

``yolopose-export`` takes its defaults from here. This module imports neither torch nor onnx.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from yolopose.runtime.contract import PLAN_SUFFIXES, NmsInfo
from yolopose.runtime.errors import UsageError
from yolopose.runtime.skeleton import Skeleton

OPSET = 18  # newest that every backend supports: ONNX Runtime's CUDA provider lacks Resize-19 and ReduceMax-20 kernels
MAX_SIZE = 4096  # pixels, for a file with dynamic height and width
MAX_BATCH = 64  # for a file with dynamic batch; the runtime splits longer lists
LIMIT = 64  # default number of images to verify float32 and float16 on

Target = Literal["cpu", "openvino", "tensorrt"]
TARGETS: tuple[Target, ...] = get_args(Target)


@dataclass(frozen=True)
class ShapeConfig:
    """Fixed dimensions of the input, in pixels and images. None: dynamic."""

    shape_hw: tuple[int, int] | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Int8Config:
    """Raises ValueError for a negative search time."""

    target: Target  # backend that the file is made for
    search_minutes: float = 10.0  # for ranking the layers and searching, together
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.search_minutes >= 0:  # NaN included
            raise ValueError(f"--search-minutes must be 0 or more, got {self.search_minutes}")


@dataclass(frozen=True)
class Limits:
    """What float16 and int8 may change. Raises ValueError for values out of range.

    max_ap_drop   points of keypoint AP, 0..100; the one-sided bound of the drop may be twice as large
    max_changed   lost and invented people, in percent of the reference's people
    min_oks       mean OKS of the people with those of the reference
    """

    max_ap_drop: float = 0.5
    max_changed: float = 2.0
    min_oks: float = 0.96

    @classmethod
    def usual(cls, fp16: bool) -> Limits:
        """Float16 keeps poses more exactly than int8."""
        return cls(min_oks=0.99) if fp16 else cls()

    def __post_init__(self) -> None:
        if not self.max_ap_drop >= 0:  # NaN included
            raise ValueError(f"--max-ap-drop must be 0 or more points, got {self.max_ap_drop}")
        if not 0 <= self.max_changed <= 100:
            raise ValueError(f"--max-changed must be 0 to 100 percent, got {self.max_changed}")
        if not 0 <= self.min_oks <= 1:
            raise ValueError(f"--min-oks must be in 0..1, got {self.min_oks}")


@dataclass(frozen=True)
class ExportConfig:
    """One export. Raises ValueError for values that are out of range or exclude each other.

    weights             a checkpoint, "demo" or a third-party .onnx
    skeleton            meaning of the keypoints; None: as the file says
    layout              layout of a third-party .onnx; None: recognized from the file
    output              file ending in .onnx, or folder; None: beside the weights
    size                default square size of a dynamic file, in pixels; None: the network's own
    keypoints           "best" or "consensus" (``PoseInfo``); None: what suits the network
    keypoint_spread     also write the spread of the consensus
    data, images        images to verify on, as ``yolopose.data.image_set.open_image_set`` takes them
    calibration         folder of images to calibrate int8 on; None: some of ``images``
    limit               verify on at most this many images; 0: all; None: 64, with int8 all that it does not use itself
    limits              what float16 and int8 may change; None: ``Limits.usual``
    allow_unverified    write an int8 file although the images are too few to judge it
    """

    weights: str
    skeleton: Skeleton | None = None
    layout: str | None = None
    output: Path | None = None
    fp16: bool = False
    int8: Int8Config | None = None
    size: int | None = None
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    nms: NmsInfo = field(default_factory=NmsInfo)
    keypoints: str | None = None
    keypoint_spread: bool = False
    data: str | None = None
    images: Path | None = None
    calibration: Path | None = None
    limit: int | None = None
    limits: Limits | None = None
    allow_unverified: bool = False

    def __post_init__(self) -> None:
        if self.int8 is not None and self.fp16:
            raise ValueError("--int8 and --fp16 exclude each other: a file has one precision")
        if self.limit is not None and self.limit < 0:
            raise ValueError(f"--limit must be 0 (all) or more, got {self.limit}")

    @property
    def precision(self) -> str:
        """For people: "float32", "float16" or "int8 for TARGET"."""
        if self.int8 is not None:
            return f"int8 for {self.int8.target}"
        return "float16" if self.fp16 else "float32"

    @property
    def is_float32(self) -> bool:
        return not self.fp16 and self.int8 is None

    @property
    def gate(self) -> Limits | None:
        """What the artifact may change; None for float32, which must be exact."""
        return None if self.is_float32 else self.limits or Limits.usual(self.fp16)

    @property
    def weights_are_onnx(self) -> bool:
        return Path(self.weights).suffix.lower() == ".onnx"


def output_path(config: ExportConfig) -> Path:
    """Path of the artifact: ``<stem>[-fp16|-int8-<target>].onnx`` beside the weights, unless ``output`` says otherwise.

    A float32 artifact from a third-party .onnx is named ``<stem>-yolopose.onnx``, so that it does not replace its
    source. The demo network's artifact goes to the working directory. Raises UsageError.
    """
    weights = Path(config.weights)
    if config.int8 is not None:
        suffix = f"-int8-{config.int8.target}"
    elif config.fp16:
        suffix = "-fp16"
    else:
        suffix = "-yolopose" if config.weights_are_onnx else ""
    name = f"{weights.stem}{suffix}.onnx"
    if config.output is None:
        return weights.with_name(name)
    if config.output.suffix == ".onnx":
        if config.output.resolve() == weights.resolve():
            raise UsageError(f"--output {config.output} is the file given as --weights: choose another name")
        return config.output
    if config.output.suffix and not config.output.is_dir():
        raise UsageError(f"--output {config.output} must end in .onnx, or be a folder")
    return config.output / name


def plan_path(artifact: Path, output: Path | None) -> Path:
    """Path of the TensorRT plan built from ``artifact``: ``output`` as file or folder, else beside it.

    Raises UsageError for a file of another kind.
    """
    name = f"{artifact.stem}.engine"
    if output is None:
        return artifact.with_name(name)
    if output.suffix in PLAN_SUFFIXES:
        return output
    if output.suffix and not output.is_dir():
        raise UsageError(f"--output {output} must end in {' or '.join(PLAN_SUFFIXES)}, or be a folder")
    return output / name
