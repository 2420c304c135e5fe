"""One benchmark run: settings -> entries and images -> plan -> child processes -> report."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolopose.data.image_set import ImageSet, open_image_set
from yolopose.runtime.console import Console, usage_errors
from yolopose.runtime.errors import BackendUnavailable, CheckpointError
from yolopose.runtime.machine import Machine, machine_now
from yolopose.runtime.skeleton import Skeleton

from .accuracy import APChanges, average_precision, count_people, parity_with_reference
from .measure import latency, paired_excess, paired_share
from .plan import (
    ArtifactEntry,
    BenchPlan,
    CheckpointEntry,
    Entry,
    artifact_entries,
    checkpoint_entries,
    has_network_baseline,
)
from .report import (
    ArtifactReport,
    BenchReport,
    CheckpointReport,
    Identity,
    NetworkBaseline,
    PeopleCounts,
    Start,
    not_worth_it,
    notes,
    summary_rows,
)
from .settings import DEMO, BenchSettings
from .tasks import RunChild, load_people, run_child

SCENES = 32  # number of synthetic scenes where neither photographs nor labels nor --limit are given

Answers = Sequence[dict[str, Any]]  # of one kind of job for one entry, one per round
AnswersByJob = dict[tuple[str, str], list[dict[str, Any]]]  # (kind of job, name of the entry) -> answers


def run_benchmark(settings: BenchSettings, console: Console, command: str, run: RunChild = run_child) -> BenchReport:
    """Measures every file. Raises before measuring when an artifact, checkpoint, image, label or library is missing."""
    machine = machine_now()  # first, so that the load average is not that of this run
    artifacts = artifact_entries(settings)
    _require_libraries(settings)
    checkpoints = checkpoint_entries(settings, run)
    with tempfile.TemporaryDirectory(prefix="yolopose-bench-") as folder:
        scratch = Path(folder)
        entries: list[Entry] = [*artifacts, *checkpoints]
        images = _open_images(settings, [entry.skeleton for entry in entries], scratch / "scenes")
        console.say(f"images: {images.description} ({len(images.paths)})")
        plan = BenchPlan(settings, artifacts, checkpoints, images, scratch)
        jobs = plan.jobs()
        answers: AnswersByJob = {}
        for job in console.progress(jobs, len(jobs), "measuring"):
            answers.setdefault((job.kind, job.entry), []).append(run(job.task))
        return _report(plan, answers, machine, command)


def _require_libraries(settings: BenchSettings) -> None:
    """PyTorch where a network runs in it, onnx for the bare network of a reference, pycocotools for AP."""
    weights = settings.checkpoints if settings.reference is None else (*settings.checkpoints, settings.reference)
    for path in weights:
        if path != DEMO and not path.is_file():
            raise CheckpointError(f"cannot read the checkpoint {path}: no such file")
    wanted = () if not weights else ("torch",) if settings.reference is None else ("torch", "onnx")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"{weights[0]} runs in PyTorch, which needs {' and '.join(missing)}: "
            "pip install 'yolopose[export]', or give only artifacts"
        )
    if settings.data is not None and find_spec("pycocotools") is None:
        raise BackendUnavailable(
            "--data needs pycocotools for keypoint AP: pip install 'yolopose[bench]', or leave --data out"
        )


def _open_images(settings: BenchSettings, skeletons: Sequence[Skeleton], scenes_folder: Path) -> ImageSet:
    with usage_errors():
        images = open_image_set(
            settings.data,
            settings.images,
            skeletons[0],
            settings.limit,
            split=settings.split,
            scenes=settings.limit or SCENES,
            scenes_folder=scenes_folder,
        )
    if images.labels is not None:
        for skeleton in skeletons:
            images.labels.check_skeleton(skeleton)
    return images


def _report(plan: BenchPlan, answers: AnswersByJob, machine: Machine, command: str) -> BenchReport:
    settings = plan.settings
    first_p50_ms = latency(pooled(answers[("time", plan.entries[0].name)])["total"]).p50_ms
    changes = APChanges(plan)
    artifacts = [_artifact_report(artifact, plan, answers, first_p50_ms, changes) for artifact in plan.artifacts]
    checkpoints = [
        _checkpoint_report(checkpoint, plan, answers[("time", checkpoint.name)], first_p50_ms, changes)
        for checkpoint in plan.checkpoints
    ]
    reference: CheckpointReport | None = None
    if plan.artifacts and (compared := plan.reference_of(plan.artifacts[0])) is not None:
        timed = answers[("reference time", compared.name)]
        reference = _checkpoint_report(compared, plan, timed, first_p50_ms, None)
    report = BenchReport(
        summary=summary_rows(artifacts, checkpoints, reference),
        not_worth_it=tuple(not_worth_it(artifacts)),
        command=command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine,
        images=plan.images.description,
        num_images=len(plan.images.paths),
        evaluation_images=settings.evaluation_images,
        threads=settings.threads,
        iterations=settings.iterations,
        warmup=settings.warmup,
        rounds=settings.rounds,
        artifacts=tuple(artifacts),
        checkpoints=tuple(checkpoints),
        reference=reference,
        notes=(),
    )
    return dataclasses.replace(report, notes=(*notes(report), *_notes_of_run(plan, answers)))


def _artifact_report(
    artifact: ArtifactEntry, plan: BenchPlan, answers: AnswersByJob, first_p50_ms: float, changes: APChanges
) -> ArtifactReport:
    """``first_p50_ms``: of the public call of the run's first entry, which may be this one."""
    timed = answers[("time", artifact.name)]
    samples_ms = pooled(timed)
    figures = {name: latency(values) for name, values in samples_ms.items()}
    overhead = None
    if "bare" in samples_ms:
        estimator_ms = [infer + post for infer, post in zip(samples_ms["infer"], samples_ms["post"], strict=True)]
        overhead = paired_excess(estimator_ms, samples_ms["bare"])
    batches = timed[0]["throughput"]
    reference = plan.reference_of(artifact)
    return ArtifactReport(
        identity=_identity(artifact),
        backend=timed[0]["backend"],
        latency=figures,
        round_p50_ms=round_medians(timed),
        overhead=overhead,
        network=_network_baseline(artifact, answers.get(("network", artifact.name), [])),
        throughput={batch: statistics.median(answer["throughput"][batch] for answer in timed) for batch in batches},
        start=_start(timed),
        speed=first_p50_ms / figures["total"].p50_ms,
        parity=None if reference is None else parity_with_reference(plan, artifact, reference),
        **_accuracy(artifact, plan),
        ap_change=changes.of(artifact),
        samples_ms=samples_ms,
    )


def _checkpoint_report(
    checkpoint: CheckpointEntry, plan: BenchPlan, timed: Answers, first_p50_ms: float, changes: APChanges | None
) -> CheckpointReport:
    samples_ms = pooled(timed)
    total = latency(samples_ms["total"])
    return CheckpointReport(
        name=checkpoint.name,
        weights_sha256=timed[0]["weights_sha256"],
        network=timed[0]["network"],
        shape_hw=checkpoint.shape_hw,
        max_people=checkpoint.max_people,
        score=checkpoint.score,
        iou=checkpoint.iou,
        version=timed[0]["version"],
        threads=timed[0]["threads"],
        latency={"total": total},
        round_p50_ms=round_medians(timed),
        speed=first_p50_ms / total.p50_ms,
        **_accuracy(checkpoint, plan),
        ap_change=None if changes is None else changes.of(checkpoint),
        samples_ms=samples_ms,
    )


def _accuracy(entry: Entry, plan: BenchPlan) -> dict[str, Any]:
    """``found``, ``found_evaluation`` and ``ap`` of either report; the last two are None without labels."""
    found_evaluation: PeopleCounts | None = None
    ap: dict[str, Any] | None = None
    if plan.images.labels is not None:
        score = plan.settings.evaluation_score
        people = load_people(plan.people_file(entry, score))
        found_evaluation = count_people(people, score)
        ap = average_precision(people, entry.skeleton, plan.images, plan.settings.evaluation_images)
    found = count_people(load_people(plan.people_file(entry, entry.score)), entry.score)
    return {"found": found, "found_evaluation": found_evaluation, "ap": ap}


def _identity(artifact: ArtifactEntry) -> Identity:
    contract, nms = artifact.contract, artifact.contract.nms
    precision = contract.precision
    same = precision.weights == precision.activations
    return Identity(
        name=artifact.name,
        bytes=artifact.path.stat().st_size,
        graph_sha256=contract.provenance.graph_sha256,
        network=contract.model.name,
        precision=precision.weights if same else f"{precision.weights}/{precision.activations}",
        shape_hw=artifact.shape_hw,
        candidates=nms.candidates,
        rounds=nms.rounds,
        max_people=nms.max_people,
        score=artifact.score,
        iou=artifact.iou,
        contract_verdict=contract.parity.verdict if contract.parity else None,
    )


def _network_baseline(artifact: ArtifactEntry, answers: Answers) -> NetworkBaseline | None:
    if not answers:
        return None
    samples_ms = pooled(answers)
    whole, network = samples_ms["artifact"], samples_ms["network"]
    share = paired_share(whole, network) if artifact.is_float32 else None
    return NetworkBaseline(latency(whole), latency(network), share)


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


def pooled(answers: Answers) -> dict[str, list[float]]:
    """Samples of all rounds one after the other, none left out."""
    samples_ms: dict[str, list[float]] = {}
    for answer in answers:
        for name, values in answer["samples_ms"].items():
            samples_ms.setdefault(name, []).extend(values)
    return samples_ms


def round_medians(timed: Answers) -> tuple[float, ...]:
    return tuple(latency(answer["samples_ms"]["total"]).p50_ms for answer in timed)


def _notes_of_run(plan: BenchPlan, answers: AnswersByJob) -> Iterator[str]:
    """Notes that need more than the report: missing baselines, other weights, where PyTorch ran."""
    for artifact in plan.artifacts:
        reason = answers[("time", artifact.name)][0]["bare_note"]
        if reason:
            yield f"{artifact.name}: {reason}"
        if plan.settings.reference is None:
            continue
        if not has_network_baseline(artifact):
            reason = "ONNX Runtime on the CPU measures it, and does not run this artifact or is not installed"
            yield f"{artifact.name}: no bare network: {reason}"
        elif not artifact.is_float32:
            yield f"{artifact.name}: no tail share: the bare network is float32 and this artifact is not"
    yield from _weights_notes(plan, answers)
    settings = plan.settings
    chosen = any(artifact.options.backend != "auto" for artifact in plan.artifacts)
    if (chosen or settings.device not in (None, "cpu")) and (plan.checkpoints or settings.reference is not None):
        yield "PyTorch ran on the CPU: backend and device apply to artifacts only"


def _weights_notes(plan: BenchPlan, answers: AnswersByJob) -> Iterator[str]:
    """Artifacts whose contract names other weights than those of the reference."""
    loaded = [of_job for (kind, _), of_job in answers.items() if kind == "reference people"]
    sha256 = loaded[0][0]["weights_sha256"] if loaded else None
    for artifact in plan.artifacts:
        stated = artifact.contract.provenance.weights_sha256
        if sha256 is not None and stated is not None and stated != sha256:
            weights = f"its contract names other weights ({stated[:12]}) than the reference has ({sha256[:12]})"
            yield f"{artifact.name}: {weights}: parity compares two different networks"
