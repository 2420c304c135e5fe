"""The figures of one run as dataclasses, and what follows from them: the summary, notes, precision that does not pay.

The fields of BenchReport are the JSON file; tables.py prints them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from yolopose.runtime.machine import Machine

from .measure import Latency, Paired

SCHEMA = "1.3"
WORTH_IT = 1.05  # reduced precision must be at least so many times as fast as float32
_BUSY_LOAD = 0.5  # runnable processes per usable core, before this run starts any
_ROUND_SPREAD = 0.05
_PERCENTILE_SAMPLES = 100  # with fewer, p99 is the maximum


@dataclass(frozen=True)
class Identity:
    """Which file was measured, and what its contract says."""

    name: str
    bytes: int
    graph_sha256: str
    network: str
    precision: str  # "float32", or "weights/activations" where they differ
    shape_hw: tuple[int, int]
    candidates: int  # C, R and M of the contract's NMS
    rounds: int
    max_people: int
    score: float  # thresholds at which time and parity were measured
    iou: float
    contract_verdict: str | None  # parity as the export measured it; None: the contract has none


@dataclass(frozen=True)
class Start:
    """Cold start (process start to first result), opening again in the warm process, memory. Medians of the rounds."""

    cold_start_ms: float
    first_open_ms: float
    load_ms: float
    before_open_mib: float | None
    peak_mib: float | None


@dataclass(frozen=True)
class NetworkBaseline:
    """Bare artifact and bare network, in one process, taking turns.

    tail_share: (artifact - network) / artifact: normalization, decode and NMS together, an upper bound of NMS.
    None when the artifact is not float32: the bare network is, and the share would include the change of precision.
    """

    artifact: Latency
    network: Latency
    tail_share: Paired | None


@dataclass(frozen=True)
class PeopleCounts:
    """People found in all images at one score threshold."""

    score: float
    images: int
    people: int
    max_candidates: int
    candidates_cut: int  # images with that flag, likewise the next two
    people_cut: int
    nms_not_converged: int


@dataclass(frozen=True)
class APChange:
    """Keypoint AP minus that of another file on the same images, see ``yolopose.bootstrap``."""

    against: str
    difference: float  # 0..1; below 0: lower than the other file's
    interval: tuple[float, float] | None  # 95 %, paired bootstrap over images; None for a single image
    resamples: int
    worst_image: str | None  # the image whose people lose most OKS to the labels; None where none loses


@dataclass(frozen=True)
class ArtifactReport:
    identity: Identity
    backend: dict[str, str]  # name, version, device
    latency: dict[str, Latency]  # pre, infer, post, total; bare where it is measured
    round_p50_ms: tuple[float, ...]  # of total, one per round
    overhead: Paired | None  # (infer + post - bare) / bare: the estimator from a letterboxed frame on
    network: NetworkBaseline | None
    throughput: dict[str, float]  # images/s by batch size, median of the rounds
    start: Start
    speed: float  # p50 of total of the first file, divided by this one's: above 1 is faster
    found: PeopleCounts
    found_evaluation: PeopleCounts | None
    parity: dict[str, Any] | None  # export.verify.ParityReport
    ap: dict[str, Any] | None  # evaluation.KeypointAP
    ap_change: APChange | None  # against the reference, without one against the run's first file
    samples_ms: dict[str, list[float]]

    @property
    def name(self) -> str:
        return self.identity.name


@dataclass(frozen=True)
class CheckpointReport:
    """A network run by PyTorch on the CPU in float32. Figures that only a deployed file has are not measured."""

    name: str
    weights_sha256: str | None
    network: str
    shape_hw: tuple[int, int]
    max_people: int
    score: float  # thresholds at which time was measured
    iou: float
    version: str  # of torch
    threads: int
    latency: dict[str, Latency]  # total
    round_p50_ms: tuple[float, ...]
    speed: float  # as of an artifact
    found: PeopleCounts
    found_evaluation: PeopleCounts | None
    ap: dict[str, Any] | None
    ap_change: APChange | None  # as of an artifact
    samples_ms: dict[str, list[float]]


FileReport = ArtifactReport | CheckpointReport


@dataclass(frozen=True)
class SummaryRow:
    """The figures that decide between files; ``summary_rows`` takes them from the reports."""

    file: str
    backend: str  # or "PyTorch"
    precision: str  # that of the computation
    bytes: int | None  # of the file; None for checkpoints
    p50_ms: float  # of the public call
    speed: float
    ap: float | None
    ap50: float | None
    ap_change: APChange | None
    mean_oks: float | None  # of the people matched with those of the reference


@dataclass(frozen=True)
class BenchReport:
    summary: tuple[SummaryRow, ...]
    not_worth_it: tuple[str, ...]  # a sentence for each file whose reduced precision does not pay
    command: str
    created: str  # UTC, ISO 8601
    machine: Machine
    images: str  # description of the images
    num_images: int
    evaluation_images: str  # images that AP is taken over: "all" or "with-people"
    threads: int | None  # as set; None: chosen by the backend
    iterations: int
    warmup: int
    rounds: int
    artifacts: tuple[ArtifactReport, ...]
    checkpoints: tuple[CheckpointReport, ...]
    reference: CheckpointReport | None  # at the size and thresholds of the first artifact
    notes: tuple[str, ...]
    schema: str = SCHEMA

    @property
    def files(self) -> tuple[FileReport, ...]:
        """The files of the run in the order of the tables, without the reference."""
        return (*self.artifacts, *self.checkpoints)


def to_json_values(report: BenchReport) -> dict[str, Any]:
    """Fields as JSON values. What is not finite (AP of a size that no labeled person has) becomes null."""
    values: dict[str, Any] = _finite(asdict(report))
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary_rows(
    artifacts: Sequence[ArtifactReport], checkpoints: Sequence[CheckpointReport], reference: CheckpointReport | None
) -> tuple[SummaryRow, ...]:
    rows = [_artifact_row(artifact) for artifact in artifacts]
    rows += [_checkpoint_row(checkpoint.name, checkpoint) for checkpoint in checkpoints]
    if reference is not None:
        rows.append(_checkpoint_row(f"{reference.name} (reference)", reference))
    return tuple(rows)


def _artifact_row(artifact: ArtifactReport) -> SummaryRow:
    ap, parity = artifact.ap or {}, artifact.parity or {}
    return SummaryRow(
        file=artifact.name,
        backend=artifact.backend["name"],
        precision=computed_precision(artifact),
        bytes=artifact.identity.bytes,
        p50_ms=artifact.latency["total"].p50_ms,
        speed=artifact.speed,
        ap=ap.get("ap"),
        ap50=ap.get("ap50"),
        ap_change=artifact.ap_change,
        mean_oks=parity.get("mean_oks"),
    )


def _checkpoint_row(file: str, checkpoint: CheckpointReport) -> SummaryRow:
    ap = checkpoint.ap or {}
    return SummaryRow(
        file=file,
        backend="PyTorch",
        precision="float32",
        bytes=None,
        p50_ms=checkpoint.latency["total"].p50_ms,
        speed=checkpoint.speed,
        ap=ap.get("ap"),
        ap50=ap.get("ap50"),
        ap_change=checkpoint.ap_change,
        mean_oks=None,
    )


def computed_precision(artifact: ArtifactReport) -> str:
    """That of the file, except for a float32 file on a backend that names another one ("openvino:bf16")."""
    named = artifact.backend["name"].partition(":")[2]
    return named if named and artifact.identity.precision == "float32" else artifact.identity.precision


def not_worth_it(artifacts: Sequence[ArtifactReport]) -> Iterator[str]:
    """A sentence for every artifact of reduced precision that is less than 1.05 times as fast as float32.

    It is compared with the first artifact of the same network, input size, backend and device that was computed in
    float32. Without one there is no sentence.
    """
    full = [artifact for artifact in artifacts if computed_precision(artifact) == "float32"]
    for artifact in artifacts:
        base = next((other for other in full if _conditions(other) == _conditions(artifact)), None)
        if base is None or artifact in full:
            continue
        faster = round(base.latency["total"].p50_ms / artifact.latency["total"].p50_ms, 2)
        if faster < WORTH_IT:
            yield (
                f"{computed_precision(artifact)} is not worth it here: {artifact.name} is {faster:.2f} times "
                f"as fast as {base.name} {_accuracy_kept(artifact, base)}"
            )


def _conditions(artifact: ArtifactReport) -> tuple[object, ...]:
    backend = artifact.backend["name"].partition(":")[0]
    return artifact.identity.network, artifact.identity.shape_hw, backend, artifact.backend["device"]


def _accuracy_kept(artifact: ArtifactReport, base: ArtifactReport) -> str:
    before, after = (base.ap or {}).get("ap"), (artifact.ap or {}).get("ap")
    if before is not None and after is not None:
        points = round(100 * (after - before), 2)
        if points == 0:
            return "at the same AP"
        return f"and {'loses' if points < 0 else 'gains'} {abs(points):.2f} AP points"
    oks = (artifact.parity or {}).get("mean_oks")
    return "(AP was not measured)" if oks is None else f"at a mean OKS of {oks:.4f} with the reference"


def notes(report: BenchReport) -> Iterator[str]:
    """What a reader of the figures has to know, as far as the report itself shows it."""
    if report.images.startswith("synthetic"):
        yield (
            "synthetic scenes: time and parity are valid, accuracy on photographs is not measured "
            "(give --images or --data)"
        )
    yield from _machine_notes(report)
    if report.iterations < _PERCENTILE_SAMPLES:
        yield f"n = {report.iterations}: p99 is the slowest sample; use --iterations {_PERCENTILE_SAMPLES} or more"
    if not any(artifact.parity for artifact in report.artifacts) and not any(file.ap for file in report.files):
        if report.artifacts:
            yield f"speed without accuracy: give --reference or --data; verdicts in the contracts: {_verdicts(report)}"
        else:
            yield "speed without accuracy: give --data"
    if report.checkpoints:
        yield (
            "checkpoints run in PyTorch on the CPU and only the call is timed; stages, baselines, throughput, start, "
            "memory and parity are measured for artifacts only"
        )
    for artifact in report.artifacts:
        yield from _flag_notes(artifact)
    first, *others = report.files
    for file in report.files:
        yield from _spread_notes(file)
    for file in others:
        yield from _speed_notes(file, first)


def round_spread(round_p50_ms: tuple[float, ...]) -> float:
    """Slowest median of the rounds over the fastest, minus 1."""
    return max(round_p50_ms) / min(round_p50_ms) - 1


def _machine_notes(report: BenchReport) -> Iterator[str]:
    machine = report.machine
    if machine.load_average is not None and machine.load_average[0] > _BUSY_LOAD * machine.usable_cores:
        load = f"load average {machine.load_average[0]:.2f} on {machine.usable_cores:g} cores"
        yield f"the machine was busy at start: {load}"
    if report.threads is not None and report.threads > machine.usable_cores:
        yield f"{report.threads} threads on {machine.usable_cores:g} usable cores"
    if machine.governor not in (None, "performance"):
        yield f"frequency governor {machine.governor!r}: the clock rate may have changed during the measurement"


def _spread_notes(file: FileReport) -> Iterator[str]:
    spread = round_spread(file.round_p50_ms)
    if spread > _ROUND_SPREAD:
        yield f"{file.name}: medians of the rounds differ by {100 * spread:.1f} %; other work ran on the machine"


def _flag_notes(artifact: ArtifactReport) -> Iterator[str]:
    for found in (artifact.found, artifact.found_evaluation):
        if found is None:
            continue
        flags = {
            f"more candidates than C = {artifact.identity.candidates}": found.candidates_cut,
            f"more people than M = {artifact.identity.max_people}": found.people_cut,
            f"NMS not converged after R = {artifact.identity.rounds} rounds": found.nms_not_converged,
        }
        for what, images in flags.items():
            if images:
                yield f"{artifact.name}: {what} on {images} of {found.images} images at score {found.score:g}"


def _speed_notes(file: FileReport, first: FileReport) -> Iterator[str]:
    """Differences that the spread of the rounds could explain."""
    noise = max(round_spread(file.round_p50_ms), round_spread(first.round_p50_ms))
    if abs(file.speed - 1) <= noise:
        spread = f"the rounds themselves differ by {100 * noise:.1f} %"
        yield f"{file.name}: no difference in speed from {first.name} is shown: {spread}"


def _verdicts(report: BenchReport) -> str:
    return ", ".join(f"{a.name}: {a.identity.contract_verdict or 'none'}" for a in report.artifacts)
