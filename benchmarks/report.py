"""One run's figures as dataclasses; the JSON file is their fields, the tables are made from them (tables.py)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from yolopose.runtime.machine import Machine

from .measure import Latency, Paired

SCHEMA = "1.2"


@dataclass(frozen=True)
class Identity:
    """Which file was measured, and what its contract says of it."""

    name: str
    bytes: int
    graph_sha256: str
    network: str
    precision: str  # "float32", or "weights/activations" where they differ
    shape_hw: tuple[int, int]
    candidates: int  # C, R and M of the contract's NMS
    rounds: int
    max_people: int
    score: float  # thresholds that time and parity were measured at
    iou: float
    contract_verdict: str | None  # parity as the export measured it; None: the contract tells of none


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
    """Bare artifact against bare network, in one process, taking turns.

    tail_share: (artifact - network) / artifact, so normalisation, decoding and NMS together: an upper bound of NMS.
    None when the artifact is not float32: the network was exported in float32, and precision would be mixed in.
    """

    artifact: Latency
    network: Latency
    tail_share: Paired | None


@dataclass(frozen=True)
class Found:
    """What a pass over all images found, at one score threshold."""

    score: float
    images: int
    people: int
    max_candidates: int
    candidates_cut: int  # images with that flag, likewise the next two
    people_cut: int
    nms_not_converged: int


@dataclass(frozen=True)
class APChange:
    """Keypoint AP beside another file's on the same images, see ``yolopose.bootstrap``."""

    against: str
    difference: float  # 0..1; below 0: less than the other's
    interval: tuple[float, float] | None  # 95 %, paired bootstrap over images; None for a single image
    resamples: int
    worst_image: str | None  # whose people lose most OKS to the labels; None where none loses


@dataclass(frozen=True)
class ArtifactReport:
    identity: Identity
    backend: dict[str, str]  # name, version, device
    latency: dict[str, Latency]  # pre, infer, post, total; bare where there is such a baseline
    round_p50_ms: tuple[float, ...]  # of total, one a round
    overhead: Paired | None  # (infer + post - bare) / bare: the estimator from a letterboxed frame on
    network: NetworkBaseline | None
    throughput: dict[str, float]  # images/s by batch size, median of the rounds
    start: Start
    speed: float  # p50 of total of the first file, divided by this one's: above 1 is faster
    found: Found
    found_evaluation: Found | None
    parity: dict[str, Any] | None  # export.parity.ParityReport
    ap: dict[str, Any] | None  # evaluation.KeypointAP
    ap_change: APChange | None  # against the reference, without one against the run's first file
    samples_ms: dict[str, list[float]]


@dataclass(frozen=True)
class CheckpointReport:
    """A network run by PyTorch on the CPU in float32. What belongs to a file that is deployed is not measured of it."""

    name: str
    weights_sha256: str | None
    network: str
    shape_hw: tuple[int, int]
    max_people: int
    score: float  # thresholds that time was measured at
    iou: float
    version: str  # of torch
    threads: int
    latency: dict[str, Latency]  # total
    round_p50_ms: tuple[float, ...]
    speed: float  # as of an artifact
    found: Found
    found_evaluation: Found | None
    ap: dict[str, Any] | None
    ap_change: APChange | None  # as of an artifact
    samples_ms: dict[str, list[float]]


Measured = ArtifactReport | CheckpointReport


@dataclass(frozen=True)
class SummaryRow:
    """The figures that decide between files; made from the reports by ``summary.summary_rows``."""

    file: str
    backend: str  # engine, or "PyTorch"
    precision: str  # it was computed in
    bytes: int | None  # of the file; None for checkpoints
    p50_ms: float  # of the public call
    speed: float
    ap: float | None
    ap50: float | None
    ap_change: APChange | None
    mean_oks: float | None  # of the people matched with the reference's


@dataclass(frozen=True)
class BenchReport:
    summary: tuple[SummaryRow, ...]
    not_worth_it: tuple[str, ...]  # a sentence for each file whose reduced precision does not pay
    command: str
    created: str  # UTC, ISO 8601
    machine: Machine
    images: str  # what the input was, in words
    num_images: int
    evaluation_images: str  # which images AP is taken over: "all" or "with-people"
    threads: int | None  # asked for; None: as the engine decides
    iterations: int
    warmup: int
    rounds: int
    artifacts: tuple[ArtifactReport, ...]
    checkpoints: tuple[CheckpointReport, ...]
    reference: CheckpointReport | None  # at the shape and thresholds of the first artifact
    notes: tuple[str, ...]
    schema: str = SCHEMA

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The files of the run in the order of the tables; the reference is none of them."""
        return (*self.artifacts, *self.checkpoints)


def to_json_values(report: BenchReport) -> dict[str, Any]:
    """Fields as JSON values. What is not finite (AP of a size that no labelled person has) becomes null."""
    values: dict[str, Any] = _finite(asdict(report))
    return values


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
