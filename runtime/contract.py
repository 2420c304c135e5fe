"""The parts of a contract: frozen values, checked when built (a ValueError that starts with the field's name).

What an artifact promises: the document that export embeds and that the runtime reads before any session exists.

Values obey the same rules both ways: building a part with wrong ones raises ValueError, reading a document with them
raises ContractInvalid with the path of the key. Unknown keys are ignored, a newer major version is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .artifact_file import LONGEST_HEADER, OnnxParts, foreign_header, read_onnx
from .document import Section, parse
from .errors import ArtifactError, ContractInvalid, ContractMissing, ContractTooNew, EngineMismatch
from .skeleton import Skeleton

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


__all__ = [
    "INPUT_NAMES",
    "METADATA_KEY",
    "OUTPUT_NAMES",
    "PLAN_SUFFIXES",
    "SCHEMA",
    "Contract",
    "InputInfo",
    "ModelInfo",
    "NmsInfo",
    "ParityInfo",
    "PrecisionInfo",
    "Provenance",
    "Range",
    "read_contract",
]

METADATA_KEY = "yolopose"
SCHEMA = "1.0"
PLAN_SUFFIXES = (".engine", ".trt")


@dataclass(frozen=True)
class Contract:
    """The whole document; `engine` belongs to TensorRT plans and is kept as it was read."""

    model: ModelInfo
    skeleton: Skeleton
    input: InputInfo
    nms: NmsInfo
    precision: PrecisionInfo
    provenance: Provenance
    parity: ParityInfo | None = None
    engine: Mapping[str, Any] | None = None

    @classmethod
    def from_dict(cls, document: Any) -> Contract:
        """Build from JSON values. Raises ContractInvalid, or ContractTooNew for a newer major version."""
        root = Section(document)
        _check_schema(root)
        model, precision, provenance = (root.section(key) for key in ("model", "precision", "provenance"))
        return cls(
            model=model.build(
                ModelInfo,
                name=model.text("name"),
                family=model.text("family"),
                classes=model.texts("classes"),
                task=model.text("task"),
            ),
            skeleton=_skeleton(root),
            input=_input(root.section("input")),
            nms=_nms(root.section("nms")),
            precision=precision.build(
                PrecisionInfo,
                weights=precision.text("weights"),
                activations=precision.text("activations"),
                target=precision.text("target"),
                kept_higher=precision.texts("kept_higher"),
                placement=precision.optional("placement", precision.text),
            ),
            provenance=Provenance(
                graph_sha256=provenance.digest("graph_sha256"),
                weights_sha256=provenance.optional("weights_sha256", provenance.digest),
                versions=provenance.text_map("versions"),
                weights_licence=provenance.optional("weights_licence", provenance.text),
            ),
            parity=_parity(root.section("parity")) if root.has("parity") else None,
            engine=root.optional("engine", root.kept),
        )

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Read the document. Raises like from_dict; damaged JSON is ContractInvalid."""
        return cls.from_dict(parse(text))

    def to_dict(self) -> dict[str, Any]:
        """JSON values in a fixed order."""
        given, nms, parity = self.input, self.nms, self.parity
        return {
            "schema": SCHEMA,
            "model": _plain(self.model, "name", "family", "task", "classes"),
            "skeleton": self.skeleton.to_dict(),
            "input": {
                "height": given.height.to_json(),
                "width": given.width.to_json(),
                "batch": given.batch.to_json(),
                **_plain(given, "channel_order", "pad_value", "pad_side", "interpolation"),
            },
            "nms": _plain(nms, *NmsInfo.__dataclass_fields__),
            "precision": _plain(self.precision, *PrecisionInfo.__dataclass_fields__),
            "provenance": _plain(self.provenance, *Provenance.__dataclass_fields__),
            "parity": _plain(parity, *ParityInfo.__dataclass_fields__) if parity else None,
            "engine": None if self.engine is None else dict(self.engine),
        }

    def to_json(self, indent: int | None = None) -> str:
        """The document as text: the same contract gives the same bytes. Raises ValueError for NaN."""
        separators = (",", ":") if indent is None else None
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)


def read_contract(path: str | Path) -> Contract:
    """The contract inside an .onnx, or beside an .engine or .trt as `<file name>.json`.

    The hash of the graph is verified, and the operator set that gives its nodes their meaning.
    Raises ArtifactError (absent, truncated, foreign or changed file), ContractMissing, ContractInvalid, ContractTooNew;
    ValueError for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() in PLAN_SUFFIXES:
        return _contract_of(path, _sidecar_text(path))
    if path.suffix.lower() != ".onnx":
        refused = ": the accuracy gate refused it" if path.suffix == ".rejected" else ""
        raise ValueError(f"{path} is not an artifact{refused}; give an .onnx, .engine or .trt file")
    parts = read_onnx(path)
    text = parts.metadata.get(METADATA_KEY)
    if text is None:
        raise ContractMissing(f"{path} is an ONNX file without a yolopose contract; make one with yolopose-export")
    contract = _contract_of(path, text)
    if contract.provenance.graph_sha256 != parts.graph_sha256:
        raise ArtifactError(
            f"{path} was changed after its export: sha256 of its graph is {parts.graph_sha256[:12]}..., its contract "
            f"says {contract.provenance.graph_sha256[:12]}...; export it again"
        )
    _check_opsets(path, parts)
    return contract


def _check_opsets(path: Path, parts: OnnxParts) -> None:
    """The standard operators alone, in one version that every engine takes; the hash does not cover this field."""
    found = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in parts.opsets) or "none"
    standard = len(parts.opsets) == 1 and parts.opsets[0][0] in ("", "ai.onnx")
    if not standard or not 1 <= parts.opsets[0][1] <= MAX_OPSET:
        raise ArtifactError(
            f"{path} imports the operators {found}, but an artifact has ai.onnx alone (contract: opset {MAX_OPSET} at "
            "most); export it again"
        )


def _contract_of(path: Path, text: str) -> Contract:
    try:
        return Contract.from_json(text)
    except (ContractInvalid, ContractTooNew) as error:
        raise type(error)(f"{path}: {error}") from error


def _sidecar_text(path: Path) -> str:
    sidecar = path.with_name(path.name + ".json")
    if not path.is_file():
        raise ArtifactError(f"cannot read the artifact {path}: no such file")
    try:
        return sidecar.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        with path.open("rb") as plan:
            header = foreign_header(plan.read(LONGEST_HEADER))
        if header is not None:
            raise EngineMismatch(f"{path} {header}") from error
        raise ContractMissing(
            f"{path} needs its contract beside it: {sidecar} is not there; copy both files"
        ) from error
    except UnicodeDecodeError as error:
        raise ContractInvalid(f"{sidecar} is not UTF-8 text ({error}); export the artifact again") from error
    except OSError as error:
        raise ArtifactError(f"cannot read the contract {sidecar}: {error.strerror or error}") from error


def _check_schema(root: Section) -> None:
    schema = root.text("schema")
    match = re.fullmatch(r"([1-9]\d{0,8})\.\d{1,9}", schema)
    if match is None:
        raise ContractInvalid(f"schema: must be a version such as {SCHEMA}, got {schema[:80]!r}")
    if int(match[1]) > int(SCHEMA.split(".")[0]):
        raise ContractTooNew(
            f"schema: version {schema} is newer than {SCHEMA}, which this yolopose reads; update yolopose"
        )


def _skeleton(root: Section) -> Skeleton:
    try:
        return Skeleton.from_dict(root.section("skeleton").values)
    except ValueError as error:
        raise ContractInvalid(str(error)) from error


def _range(section: Section, key: str) -> Range:
    value = section.values.get(key)
    if isinstance(value, list):
        sizes = Section({f"{key}[{index}]": size for index, size in enumerate(value)}, section.where)
        if len(value) != 4:
            raise ContractInvalid(f"{section.path(key)}: must be [min, opt, max, multiple], got {value}")
        smallest, best, largest, multiple = (sizes.integer(name) for name in sizes.values)
    else:
        smallest = best = largest = section.integer(key)
        multiple = 1
    try:
        return Range(smallest, best, largest, multiple)
    except ValueError as error:
        raise ContractInvalid(f"{section.path(key)}: {error}") from error


def _input(section: Section) -> InputInfo:
    return section.build(
        InputInfo,
        height=_range(section, "height"),
        width=_range(section, "width"),
        batch=_range(section, "batch"),
        pad_value=section.integer("pad_value"),
        pad_side=section.text("pad_side"),
        channel_order=section.text("channel_order"),
        interpolation=section.text("interpolation"),
    )


def _nms(section: Section) -> NmsInfo:
    return section.build(
        NmsInfo,
        candidates=section.integer("candidates"),
        rounds=section.integer("rounds"),
        max_people=section.integer("max_people"),
        class_aware=section.boolean("class_aware"),
        score_threshold=section.number("score_threshold"),
        iou_threshold=section.number("iou_threshold"),
    )


def _parity(section: Section) -> ParityInfo:
    numbers = ("max_px", "mean_px", "max_score_deviation", "mean_oks", "ap_reference", "ap_artifact")
    interval = section.numbers("ap_interval", 2) if section.has("ap_interval") else None
    return section.build(
        ParityInfo,
        verdict=section.text("verdict"),
        images=section.integer("images"),
        matched_people=section.optional("matched_people", section.integer),
        ap_interval=interval,
        worst_image=section.optional("worst_image", section.text),
        versions=section.text_map("versions") if section.has("versions") else {},
        isa=section.optional("isa", section.text),
        **{name: section.optional(name, section.number) for name in numbers},
    )


def _plain(part: Any, *names: str) -> dict[str, Any]:
    """Fields of a dataclass as JSON values: tuples become lists, maps are sorted by key."""
    values = {}
    for name in names:
        value = getattr(part, name)
        if isinstance(value, Mapping):
            value = {key: value[key] for key in sorted(value)}
        values[name] = list(value) if isinstance(value, tuple) else value
    return values
