"""The contract: the JSON document in an artifact that says what it takes, what it gives and where it comes from.

Each field is spelled once, as a dataclass field with its type, default and checks; reading and writing JSON are derived
from the fields, in their order. The same checks run both ways: building a part with a wrong value raises ValueError,
reading one raises ContractInvalid that starts with the path of the key. Unknown keys are ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from .artifact_file import MAX_HEADER_BYTES, OnnxParts, plan_metadata, read_onnx
from .errors import ArtifactError, ContractInvalid, ContractMissing, ContractTooNew, DataError, EngineMismatch
from .skeleton import Skeleton

METADATA_KEY = "yolopose"  # of the ONNX metadata entry that holds the document
SCHEMA = "1.1"
PLAN_SUFFIXES = (".engine", ".trt")

INPUT_NAMES = ("images", "score_threshold", "iou_threshold")
OUTPUT_NAMES = ("num_people", "boxes", "scores", "labels", "keypoints", "num_candidates", "flags")
POSE_SCORES, KEYPOINT_SPREAD = "pose_scores", "keypoint_spread"  # outputs that PoseInfo adds
MAX_OPSET = 18
MAX_CANDIDATES = 3839  # TensorRT's TopK takes fewer than 3840
MAX_ROUNDS = 1000
MAX_SUPPORTERS = 100
MAX_SIZE = 65_536  # px, far above every image; a larger value means damage
MAX_BATCH = 4096
INTERPOLATION = "linear_exact"
PAD_SIDES = ("center", "bottom-right")
KEYPOINTS = ("best", "consensus")
DTYPES = ("float32", "float16", "int8")
TARGETS = ("any", "cpu", "openvino", "tensorrt")
PLACEMENTS = ("verified", "unverified")
VERDICTS = ("passed", "failed", "unverified")

_MAX_BITS = 63  # of an integer, without its sign
_JSON_NAMES = {
    bool: "a boolean", dict: "an object", float: "a number", int: "a number", list: "a list", str: "a string"
}  # fmt: skip
T = TypeVar("T")


# Checks of a value, put beside its type with Annotated. Each raises ValueError with a message that follows the key.


@dataclass(frozen=True)
class OneOf:
    """One of the given strings."""

    choices: tuple[str, ...]

    def __call__(self, value: str) -> None:
        if value not in self.choices:
            raise ValueError(f"must be one of {', '.join(self.choices)}, got {value!r}")


@dataclass(frozen=True)
class Within:
    """A finite number in low..high."""

    low: float
    high: float

    def __call__(self, value: float) -> None:
        if not self.low <= value <= self.high:  # NaN fails too
            raise ValueError(f"must lie in {self.low}..{self.high}, got {value}")


@dataclass(frozen=True)
class AtMost:
    """A Range that ends at `largest` or below."""

    largest: int
    unit: str

    def __call__(self, value: Range) -> None:
        if value.max > self.largest:
            raise ValueError(f"must be at most {self.largest} {self.unit}, got {value.max}")


def not_negative(value: int) -> None:
    if value < 0:
        raise ValueError(f"must not be negative, got {value}")


def sha256_hex(value: str) -> None:
    if len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"must be 64 hexadecimal digits (a sha256), got a string {value[:80]!r}")


def names_a_class(value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError("must name at least one class")


MAY_BE_ABSENT = object()  # marks a field that is not `| None`, but whose key may be absent or null
Sha256 = Annotated[str, sha256_hex]
StringMap = Mapping[str, str]  # written in the order of its keys
JsonObject = Mapping[str, Any]  # kept as it was read


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
        """A fixed size as one number, else [min, opt, max, multiple]."""
        return self.min if self.fixed else [self.min, self.opt, self.max, self.multiple]


class Part:
    """Base of the parts of a contract: building one runs the checks of its fields. Raises ValueError "<field>: ..."."""

    def __post_init__(self) -> None:
        for spec in _specs(type(self)):
            value = getattr(self, spec.name)
            for check in spec.checks if value is not None else ():
                try:
                    check(value)
                except ValueError as error:
                    raise ValueError(f"{spec.name}: {error}") from error


@dataclass(frozen=True)
class ModelInfo(Part):
    """The network: its name, its family ("yolox-pose", ...) and the names of its classes."""

    name: str
    family: str
    task: Annotated[str, OneOf(("pose",))] = "pose"
    classes: Annotated[tuple[str, ...], names_a_class] = ("person",)


@dataclass(frozen=True)
class InputInfo(Part):
    """Legal input sizes in pixels and the letterbox. The graph itself converts BGR to what the network expects."""

    height: Annotated[Range, AtMost(MAX_SIZE, "px")]
    width: Annotated[Range, AtMost(MAX_SIZE, "px")]
    batch: Annotated[Range, AtMost(MAX_BATCH, "images")]
    channel_order: Annotated[str, OneOf(("bgr",))] = "bgr"
    pad_value: Annotated[int, Within(0, 255)] = 114
    pad_side: Annotated[str, OneOf(PAD_SIDES)] = "center"
    interpolation: Annotated[str, OneOf((INTERPOLATION,))] = INTERPOLATION


@dataclass(frozen=True)
class NmsInfo(Part):
    """The suppression inside the graph: C candidates, R rounds, M people, and the default thresholds."""

    candidates: Annotated[int, Within(1, MAX_CANDIDATES)] = 300
    rounds: Annotated[int, Within(1, MAX_ROUNDS)] = 12
    max_people: int = 100
    class_aware: bool = False
    score_threshold: Annotated[float, Within(0, 1)] = 0.25
    iou_threshold: Annotated[float, Within(0, 1)] = 0.65

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_people <= self.candidates:
            raise ValueError(f"max_people: must lie in 1..candidates ({self.candidates}), got {self.max_people}")


@dataclass(frozen=True)
class PoseInfo(Part):
    """Where the keypoints of a person come from; since schema 1.1.

    "best": the candidate with the highest score, as in schema 1.0. "consensus": the mean of that candidate and of those
    whose box has an IoU above `support_iou` with its box, at most `supporters` in all. The graph then also has the
    output `pose_scores`, and with `spread` the output `keypoint_spread`.
    """

    keypoints: Annotated[str, OneOf(KEYPOINTS)] = "best"
    support_iou: Annotated[float, Within(0, 1)] = 0.7
    supporters: Annotated[int, Within(1, MAX_SUPPORTERS)] = 8
    spread: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.spread and self.keypoints != "consensus":
            raise ValueError(f"spread: needs keypoints consensus, got {self.keypoints}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of the graph, in order."""
        if self.keypoints == "best":
            return OUTPUT_NAMES
        return (*OUTPUT_NAMES, POSE_SCORES, *((KEYPOINT_SPREAD,) if self.spread else ()))


@dataclass(frozen=True)
class PrecisionInfo(Part):
    """Types in the graph, the backend it was made for, and the layers that stayed at higher precision."""

    weights: Annotated[str, OneOf(DTYPES)] = "float32"
    activations: Annotated[str, OneOf(DTYPES)] = "float32"
    target: Annotated[str, OneOf(TARGETS)] = "any"
    kept_higher: tuple[str, ...] = ()
    # of Q/DQ for TensorRT: "unverified" until a TensorRT has built the file, then "verified"
    placement: Annotated[str, OneOf(PLACEMENTS)] | None = None


@dataclass(frozen=True)
class Provenance(Part):
    """Origin of the artifact: sha256 of the serialized GraphProto and of the weights file, versions, license."""

    graph_sha256: Sha256
    weights_sha256: Sha256 | None = None
    versions: StringMap = field(default_factory=dict)
    weights_licence: str | None = None


@dataclass(frozen=True)
class ParityInfo(Part):
    """Result of comparing the artifact with the PyTorch reference. Deviations in pixels and scores, AP in 0..1."""

    verdict: Annotated[str, OneOf(VERDICTS)]
    images: Annotated[int, not_negative]
    matched_people: Annotated[int, not_negative] | None = None
    max_px: float | None = None
    mean_px: float | None = None
    max_score_deviation: float | None = None
    mean_oks: float | None = None
    ap_reference: float | None = None
    ap_artifact: float | None = None
    ap_interval: tuple[float, float] | None = None
    worst_image: str | None = None
    versions: Annotated[StringMap, MAY_BE_ABSENT] = field(default_factory=dict)
    isa: str | None = None


@dataclass(frozen=True)
class Contract:
    """The whole document. `engine` says what built a TensorRT plan; it is kept as it was read (see Section)."""

    model: ModelInfo
    skeleton: Skeleton
    input: InputInfo
    nms: NmsInfo
    precision: PrecisionInfo
    provenance: Provenance
    pose: Annotated[PoseInfo, MAY_BE_ABSENT] = field(default_factory=PoseInfo)
    parity: ParityInfo | None = None
    engine: JsonObject | None = None

    @classmethod
    def from_dict(cls, document: object) -> Contract:
        """Build from JSON values. Raises ContractInvalid, or ContractTooNew for a newer major version."""
        try:
            _check_schema(_object(document, ""))
            return _read_fields(cls, document, "")
        except ValueError as error:
            raise ContractInvalid(str(error)) from error

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Build from JSON text. Raises like from_dict; ContractInvalid for damaged JSON, NaN and infinities."""
        try:
            document = json.loads(text, parse_constant=_reject_constant)
        except (ValueError, RecursionError) as error:
            raise ContractInvalid(f"the contract is not JSON ({error}); export the artifact again") from error
        return cls.from_dict(document)

    def to_dict(self) -> dict[str, Any]:
        """JSON values in a fixed order."""
        return {"schema": SCHEMA, **_write_fields(self)}

    def to_json(self, indent: int | None = None) -> str:
        """The document as text: the same contract gives the same bytes. Raises ValueError for NaN."""
        separators = (",", ":") if indent is None else None
        return json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)


def read_contract(path: str | Path) -> Contract:
    """The contract inside an .onnx, or beside an .engine or .trt as `<file name>.json`.

    For .onnx the hash of the graph is verified, and the operator set, which gives the nodes their meaning.
    Raises ArtifactError (absent, truncated, changed, or not exported by yolopose), ContractMissing, ContractInvalid,
    ContractTooNew; ValueError for another suffix.
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


def skeleton_from_dict(values: object, where: str = "skeleton") -> Skeleton:
    """The skeleton in the JSON values of `Skeleton.to_dict`. Raises ValueError that starts with `where` and the key."""
    return _read_fields(Skeleton, values, where)


def skeleton_from_json(path: str | Path) -> Skeleton:
    """A user's own skeleton: a JSON file with the keys of `Skeleton`. Raises DataError when it is not one."""
    try:
        return skeleton_from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"cannot read the skeleton {path}: {error}") from error
    except ValueError as error:  # JSON errors are ValueErrors too
        raise DataError(f"{path} is not a skeleton: {error}; see COCO_17.to_dict() for an example") from error


class Section:
    """Reads single keys of a JSON object that a contract keeps as it was read. Raises ContractInvalid with the path."""

    def __init__(self, values: object, where: str) -> None:
        self.where = where
        self.values: JsonObject = _or_invalid(_object, values, where)

    def text(self, key: str) -> str:
        return self._read(str, key)

    def digest(self, key: str) -> str:
        """64 lower-case hexadecimal digits."""
        value = self.text(key)
        try:
            sha256_hex(value)
        except ValueError as error:
            raise ContractInvalid(f"{_path(self.where, key)}: {error}") from error
        return value

    def boolean(self, key: str) -> bool:
        return self._read(bool, key)

    def integer(self, key: str) -> int:
        return self._read(int, key)

    def section(self, key: str) -> Section:
        return Section(self.values.get(key), _path(self.where, key))

    def optional(self, key: str, read: Callable[[str], T]) -> T | None:
        """read(key), or None where the key is absent or null."""
        return None if self.values.get(key) is None else read(key)

    def _read(self, kind: type[T], key: str) -> T:
        value: T = _or_invalid(_read, kind, self.values.get(key), _path(self.where, key))
        return value


# Reading and writing of JSON values, derived from the fields of a dataclass


class _FieldSpec(NamedTuple):
    name: str
    kind: Any  # its type, without None and checks
    checks: tuple[Callable[[Any], None], ...]
    optional: bool  # the key may be absent or null


def _specs(part: type) -> tuple[_FieldSpec, ...]:
    hints = get_type_hints(part, include_extras=True)
    return tuple(_spec(each.name, hints[each.name]) for each in fields(part))


def _spec(name: str, hint: Any) -> _FieldSpec:
    extras: list[Any] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            extras += more
        elif get_origin(hint) in (Union, UnionType):
            (hint,) = (each for each in get_args(hint) if each is not NoneType)
            optional = True
        else:
            checks = tuple(extra for extra in extras if extra is not MAY_BE_ABSENT)
            return _FieldSpec(name, hint, checks, optional or MAY_BE_ABSENT in extras)


def _read_fields(part: type[T], value: object, where: str) -> T:
    """A dataclass from a JSON object. Like all readers here it raises ValueError that starts with the path."""
    values = _object(value, where)
    given = {
        spec.name: _read(spec.kind, values.get(spec.name), _path(where, spec.name))
        for spec in _specs(part)
        if not (spec.optional and values.get(spec.name) is None)
    }
    try:
        return part(**given)
    except ValueError as error:
        raise ValueError(_path(where, str(error))) from error


def _read(kind: Any, value: Any, where: str) -> Any:
    if kind is Range:
        return _read_range(value, where)
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_fields(kind, value, where)
    if get_origin(kind) is tuple:
        return _read_tuple(get_args(kind), value, where)
    if kind == StringMap:
        return _read_string_map(value, where)
    if kind == JsonObject:
        return _kept_object(value, where)
    if kind is str:
        return _read_string(value, where)
    if kind is bool:
        if not isinstance(value, bool):
            raise _wrong(where, "true or false", value)
        return value
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > _MAX_BITS:
            raise _wrong(where, "an integer", value)
        return value
    assert kind is float, kind
    return _read_number(value, where)


def _read_string(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    if not _is_utf8(value):
        raise _wrong(where, "a string without lone surrogates", value)
    return value


def _read_number(value: object, where: str) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond the largest float
        pass
    raise _wrong(where, "a finite number", value)


def _read_range(value: object, where: str) -> Range:
    if isinstance(value, list):
        if len(value) != 4:
            raise ValueError(f"{where}: must be [min, opt, max, multiple], got {value}")
        sizes = [_read(int, size, f"{where}[{index}]") for index, size in enumerate(value)]
    else:
        sizes = [_read(int, value, where)] * 3
    try:
        return Range(*sizes)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _read_tuple(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    """tuple[X, ...] of any length, or tuple[X, Y] of that length."""
    any_length = kinds[-1] is Ellipsis
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if not any_length and len(value) != len(kinds):
        raise _wrong(where, f"a list of {len(kinds)} numbers", value)
    return tuple(
        _read(kinds[0] if any_length else kinds[index], each, f"{where}[{index}]") for index, each in enumerate(value)
    )


def _read_string_map(value: object, where: str) -> dict[str, str]:
    values = _object(value, where)
    for name in values:
        if not isinstance(name, str) or not _is_utf8(name):
            raise _wrong(where, "an object whose keys are strings without lone surrogates", name)
    return {name: _read_string(each, _path(where, name)) for name, each in values.items()}


def _kept_object(value: object, where: str) -> dict[str, Any]:
    """An object of any JSON values that can be written again."""
    values = _object(value, where)
    try:
        json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: must hold JSON values with strings in UTF-8 ({error})") from error
    return values


def _write_fields(part: Any) -> dict[str, Any]:
    return {spec.name: _write(spec.kind, getattr(part, spec.name)) for spec in _specs(type(part))}


def _write(kind: Any, value: Any) -> Any:
    if isinstance(value, Range):
        return value.to_json()
    if is_dataclass(value):
        return _write_fields(value)
    if isinstance(value, tuple):
        return [_write(None, each) for each in value]
    if isinstance(value, Mapping):
        return {key: value[key] for key in sorted(value)} if kind == StringMap else dict(value)
    return value


def _or_invalid(read: Callable[..., T], *arguments: object) -> T:
    try:
        return read(*arguments)
    except ValueError as error:
        raise ContractInvalid(str(error)) from error


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "an object", value)
    return value


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _wrong(where: str, wanted: str, value: object) -> ValueError:
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        shown = f"a number of {value.bit_length()} bits"
    elif value is None:
        shown = "nothing"
    else:
        text = repr(value) if isinstance(value, str) else str(value)
        shown = f"{_JSON_NAMES.get(type(value), type(value).__name__)} {text[:80]}"
    return ValueError(f"{where or 'contract'}: must be {wanted}, got {shown}")


def _is_utf8(text: str) -> bool:
    """False for lone surrogates: JSON can escape them, but no file can hold them."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _reject_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


# Steps of read_contract


def _check_schema(document: Mapping[str, object]) -> None:
    schema = _read_string(document.get("schema"), "schema")
    match = re.fullmatch(r"([1-9]\d{0,8})\.\d{1,9}", schema)
    if match is None:
        raise ValueError(f"schema: must be a version such as {SCHEMA}, got {schema[:80]!r}")
    if int(match[1]) > int(SCHEMA.split(".")[0]):
        raise ContractTooNew(
            f"schema: version {schema} is newer than {SCHEMA}, which this yolopose reads; update yolopose"
        )


def _check_opsets(path: Path, parts: OnnxParts) -> None:
    """The standard operators alone, in a version that every backend takes; the hash does not cover this field."""
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
            problem = plan_metadata(plan.read(MAX_HEADER_BYTES))
        if problem is not None:
            raise EngineMismatch(f"{path} {problem}") from error
        raise ContractMissing(
            f"{path} needs its contract beside it: {sidecar} is not there; copy both files"
        ) from error
    except UnicodeDecodeError as error:
        raise ContractInvalid(f"{sidecar} is not UTF-8 text ({error}); export the artifact again") from error
    except OSError as error:
        raise ArtifactError(f"cannot read the contract {sidecar}: {error.strerror or error}") from error
