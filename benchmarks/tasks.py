"""What a child process is asked to do, as plain dataclasses that travel as JSON on its stdin."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Opening:
    """How the artifact is opened: the arguments of ``PoseEstimator``."""

    artifact: str  # absolute path, like every path here
    backend: str
    device: str | None
    threads: int | None
    imgsz: list[int] | None  # [height, width]
    score: float
    iou: float


@dataclass(frozen=True)
class TimeTask:
    """Cold start, memory, stages, overhead and throughput of one artifact."""

    opening: Opening
    images: list[str]
    iterations: int
    warmup: int
    batches: list[int]


@dataclass(frozen=True)
class PeopleTask:
    """The people an artifact finds, at each score threshold, each saved to a file."""

    opening: Opening
    images: list[str]
    files: dict[str, float]  # .npz path -> score threshold


@dataclass(frozen=True)
class NetworkTask:
    """Bare network and bare artifact in turn."""

    opening: Opening
    network: str  # ONNX file, beside it `<file>.json` with the channel order and scale of its input
    images: list[str]
    iterations: int
    warmup: int


@dataclass(frozen=True)
class ReferenceTask:
    """A checkpoint in PyTorch: its people, its time, or the bare network it exports, whichever are asked for.

    The answer says in any case what the checkpoint holds; without images that is all.
    """

    weights: str
    threads: int | None
    shape_hw: list[int] | None  # None: the square that the network was made for
    iou: float
    max_people: int
    images: list[str]
    files: dict[str, float]  # .npz path -> score threshold
    network: str | None = None
    score: float | None = None  # set: time it at this threshold
    iterations: int = 0
    warmup: int = 0


Task = TimeTask | PeopleTask | NetworkTask | ReferenceTask
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (TimeTask, PeopleTask, NetworkTask, ReferenceTask)}


def task_to_dict(task: Task) -> dict[str, Any]:
    return {"kind": type(task).__name__, **asdict(task)}


def task_from_dict(document: dict[str, Any]) -> Task:
    fields = dict(document)
    kind = _KINDS[fields.pop("kind")]
    if "opening" in fields:
        fields["opening"] = Opening(**fields["opening"])
    task: Task = kind(**fields)
    return task
