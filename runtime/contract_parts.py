"""The parts of a contract: frozen values, checked when built (a ValueError that starts with the field's name)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_CANDIDATES = 3839  # TensorRT's TopK takes fewer than 3840
INPUT_NAMES = ("images", "score_threshold", "iou_threshold")
OUTPUT_NAMES = ("num_people", "boxes", "scores", "labels", "keypoints", "num_candidates", "flags")
MAX_OPSET = 18
MAX_SIZE = 65_536  # px, far above every image; what is larger is damage
MAX_BATCH = 4096
MAX_ROUNDS = 1000
PAD_SIDES = ("center", "bottom-right")
INTERPOLATION = "linear_exact"
DTYPES = ("float32", "float16", "int8")
TARGETS = ("any", "cpu", "openvino", "tensorrt")
PLACEMENTS = ("verified", "unverified")
VERDICTS = ("passed", "failed", "unverified")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: must be one of {', '.join(choices)}, got {value!r}")


def _fraction(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{name}: must lie in 0..1, got {value}")


@dataclass(frozen=True)
class Range:
    """Legal sizes of one dimension: multiples of `multiple` in min..max, best at opt; fixed when min == max."""

    min: int
    opt: int
    max: int
    multiple: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"need 1 <= min <= opt <= max, got {self.min}, {self.opt}, {self.max}")
        if self.fixed:
            object.__setattr__(self, "multiple", 1)  # one size has no steps, and its JSON form is that number alone
        if self.multiple < 1 or any(size % self.multiple for size in (self.min, self.opt, self.max)):
            raise ValueError(f"multiple {self.multiple} must divide {self.min}, {self.opt} and {self.max}")

    @property
    def fixed(self) -> bool:
        return self.min == self.max

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max and size % self.multiple == 0

    def __str__(self) -> str:
        if self.fixed:
            return f"{self.min} only"
        return f"{self.min} to {self.max}" + (f" in steps of {self.multiple}" if self.multiple > 1 else "")

    def to_json(self) -> int | list[int]:
        return self.min if self.fixed else [self.min, self.opt, self.max, self.multiple]


@dataclass(frozen=True)
class ModelInfo:
    """The network: its name, its family ("yolox-pose", ...) and the names of its classes."""

    name: str
    family: str
    classes: tuple[str, ...] = ("person",)
    task: str = "pose"

    def __post_init__(self) -> None:
        _one_of("task", self.task, ("pose",))
        if not self.classes:
            raise ValueError("classes: must name at least one class")


@dataclass(frozen=True)
class InputInfo:
    """How an image becomes input: legal sizes in pixels, letterbox. The graph turns BGR into what the network wants."""

    height: Range
    width: Range
    batch: Range
    pad_value: int = 114
    pad_side: str = "center"
    channel_order: str = "bgr"
    interpolation: str = INTERPOLATION

    def __post_init__(self) -> None:
        limits = {"height": (MAX_SIZE, "px"), "width": (MAX_SIZE, "px"), "batch": (MAX_BATCH, "images")}
        for name, (most, unit) in limits.items():
            if (largest := getattr(self, name).max) > most:
                raise ValueError(f"{name}: must be at most {most} {unit}, got {largest}")
        if not 0 <= self.pad_value <= 255:
            raise ValueError(f"pad_value: must lie in 0..255, got {self.pad_value}")
        _one_of("pad_side", self.pad_side, PAD_SIDES)
        _one_of("channel_order", self.channel_order, ("bgr",))
        _one_of("interpolation", self.interpolation, (INTERPOLATION,))


@dataclass(frozen=True)
class NmsInfo:
    """The suppression inside the graph: C candidates, R rounds, M people, and the default thresholds."""

    candidates: int = 300
    rounds: int = 12
    max_people: int = 100
    class_aware: bool = False
    score_threshold: float = 0.25
    iou_threshold: float = 0.65

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise ValueError(f"candidates: must lie in 1..{MAX_CANDIDATES}, got {self.candidates}")
        if not 1 <= self.max_people <= self.candidates:
            raise ValueError(f"max_people: must lie in 1..candidates ({self.candidates}), got {self.max_people}")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise ValueError(f"rounds: must lie in 1..{MAX_ROUNDS}, got {self.rounds}")
        _fraction("score_threshold", self.score_threshold)
        _fraction("iou_threshold", self.iou_threshold)


@dataclass(frozen=True)
class PrecisionInfo:
    """Types in the graph, the engine it was made for, and the layers that stayed at higher precision."""

    weights: str = "float32"
    activations: str = "float32"
    target: str = "any"
    kept_higher: tuple[str, ...] = ()
    placement: str | None = None  # of Q/DQ for TensorRT: "unverified" until a TensorRT has built the file, "verified"

    def __post_init__(self) -> None:
        if self.placement is not None:
            _one_of("placement", self.placement, PLACEMENTS)
        _one_of("weights", self.weights, DTYPES)
        _one_of("activations", self.activations, DTYPES)
        _one_of("target", self.target, TARGETS)


@dataclass(frozen=True)
class Provenance:
    """Where the artifact comes from: sha256 of the weights file and of the serialised GraphProto, versions, licence."""

    graph_sha256: str
    weights_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    weights_licence: str | None = None


@dataclass(frozen=True)
class ParityInfo:
    """What comparing the artifact with the PyTorch reference gave. Deviations in pixels and scores, AP in 0..1."""

    verdict: str
    images: int
    matched_people: int | None = None
    max_px: float | None = None
    mean_px: float | None = None
    max_score_deviation: float | None = None
    mean_oks: float | None = None
    ap_reference: float | None = None
    ap_artifact: float | None = None
    ap_interval: tuple[float, float] | None = None
    worst_image: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    isa: str | None = None

    def __post_init__(self) -> None:
        _one_of("verdict", self.verdict, VERDICTS)
        for name, count in (("images", self.images), ("matched_people", self.matched_people)):
            if count is not None and count < 0:
                raise ValueError(f"{name}: must not be negative, got {count}")
