"""From the answers of the child processes to a report: samples of all rounds pooled, medians of what is one a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .accuracy import average_precision, parity, summary
from .inputs import BenchImages
from .measure import latency, paired_excess, paired_share
from .people_file import load_people
from .plan import Plan
from .report import APChange, ArtifactReport, CheckpointReport, Found, Identity, NetworkBaseline, Start
from .subjects import ArtifactSubject, CheckpointSubject, Subject

Answers = Sequence[dict[str, Any]]  # of one kind of job for one subject, one a round


def pooled(answers: Answers) -> dict[str, list[float]]:
    """Samples of all rounds one after the other, none left out."""
    samples_ms: dict[str, list[float]] = {}
    for answer in answers:
        for name, values in answer["samples_ms"].items():
            samples_ms.setdefault(name, []).extend(values)
    return samples_ms


def identity(subject: ArtifactSubject) -> Identity:
    contract, nms = subject.contract, subject.contract.nms
    precision = contract.precision
    same = precision.weights == precision.activations
    return Identity(
        name=subject.name,
        bytes=subject.path.stat().st_size,
        graph_sha256=contract.provenance.graph_sha256,
        network=contract.model.name,
        precision=precision.weights if same else f"{precision.weights}/{precision.activations}",
        shape_hw=subject.shape_hw,
        candidates=nms.candidates,
        rounds=nms.rounds,
        max_people=nms.max_people,
        score=subject.score,
        iou=subject.iou,
        contract_verdict=contract.parity.verdict if contract.parity else None,
    )


def artifact_report(
    subject: ArtifactSubject,
    timed: Answers,
    network: Answers,
    first_p50_ms: float,
    ap_change: APChange | None,
    plan: Plan,
    images: BenchImages,
) -> ArtifactReport:
    """``first_p50_ms``: of the total of the run's first file, which may be this one."""
    samples_ms = pooled(timed)
    figures = {name: latency(values) for name, values in samples_ms.items()}
    overhead = None
    if "bare" in samples_ms:
        estimator_ms = [infer + post for infer, post in zip(samples_ms["infer"], samples_ms["post"], strict=True)]
        overhead = paired_excess(estimator_ms, samples_ms["bare"])
    batches = timed[0]["throughput"]
    compared = None
    if (reference := plan.reference(subject)) is not None:
        people = load_people(plan.people_file(subject, subject.score))
        expected = load_people(plan.reference_file(reference, subject.score))
        compared = parity(expected, people, subject.skeleton, subject.score, subject.iou, images)
    return ArtifactReport(
        identity=identity(subject),
        backend=timed[0]["backend"],
        latency=figures,
        round_p50_ms=round_medians(timed),
        overhead=overhead,
        network=_network_baseline(subject, network),
        throughput={batch: statistics.median(answer["throughput"][batch] for answer in timed) for batch in batches},
        start=_start(timed),
        speed=first_p50_ms / figures["total"].p50_ms,
        parity=compared,
        **_accuracy(subject, lambda score: plan.people_file(subject, score), plan, images),
        ap_change=ap_change,
        samples_ms=samples_ms,
    )


def checkpoint_report(
    subject: CheckpointSubject,
    file_at: Callable[[float], Path],
    timed: Answers,
    first_p50_ms: float,
    ap_change: APChange | None,
    plan: Plan,
    images: BenchImages,
) -> CheckpointReport:
    """``file_at``: where the people found at a score threshold lie."""
    samples_ms = pooled(timed)
    total = latency(samples_ms["total"])
    return CheckpointReport(
        name=subject.name,
        weights_sha256=timed[0]["weights_sha256"],
        network=timed[0]["network"],
        shape_hw=subject.shape_hw,
        max_people=subject.max_people,
        score=subject.score,
        iou=subject.iou,
        version=timed[0]["version"],
        threads=timed[0]["threads"],
        latency={"total": total},
        round_p50_ms=round_medians(timed),
        speed=first_p50_ms / total.p50_ms,
        ap_change=ap_change,
        samples_ms=samples_ms,
        **_accuracy(subject, file_at, plan, images),
    )


def _accuracy(subject: Subject, file_at: Callable[[float], Path], plan: Plan, images: BenchImages) -> dict[str, Any]:
    """``found``, ``found_evaluation`` and ``ap`` of either report; the last two are None without labels."""
    found_evaluation: Found | None = None
    ap: dict[str, Any] | None = None
    if images.dataset is not None:
        score = plan.settings.evaluation_score
        evaluated = load_people(file_at(score))
        found_evaluation = summary(evaluated, score)
        ap = average_precision(evaluated, subject.skeleton, images, plan.settings.evaluation_images)
    found = summary(load_people(file_at(subject.score)), subject.score)
    return {"found": found, "found_evaluation": found_evaluation, "ap": ap}


def pooled_p50_ms(timed: Answers) -> float:
    """Median of the total of all rounds."""
    return latency(pooled(timed)["total"]).p50_ms


def round_medians(timed: Answers) -> tuple[float, ...]:
    return tuple(latency(answer["samples_ms"]["total"]).p50_ms for answer in timed)


def _network_baseline(subject: ArtifactSubject, answers: Answers) -> NetworkBaseline | None:
    if not answers:
        return None
    samples_ms = pooled(answers)
    artifact, network = samples_ms["artifact"], samples_ms["network"]
    share = paired_share(artifact, network) if subject.is_float32 else None
    return NetworkBaseline(latency(artifact), latency(network), share)


def _start(timed: Answers) -> Start:
    def median(name: str) -> float:
        return statistics.median(answer[name] for answer in timed)

    return Start(
        cold_start_ms=median("cold_start_ms"),
        first_open_ms=median("first_open_ms"),
        load_ms=median("load_ms"),
        before_open_mib=_median_known(answer["before_open_mib"] for answer in timed),
        peak_mib=_median_known(answer["peak_mib"] for answer in timed),
    )


def _median_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
