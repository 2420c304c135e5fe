"""What the people that a network finds are worth: counts and flags, parity with the reference, AP against labels.

How the keypoint AP of each file differs from that of the reference, or of the run's first file.

From the answers of the child processes to a report: samples of all rounds pooled, medians of what is one a round.

One benchmark run: gather, measure in child processes, assemble the report.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolopose.bootstrap import MatchedPeople, ap_difference, match_people
from yolopose.data.image_set import ImageSet, open_image_set
from yolopose.evaluation import Convention, evaluate
from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, CheckpointError
from yolopose.runtime.machine import Machine, machine_now
from yolopose.runtime.result import CANDIDATES_CUT, NMS_NOT_CONVERGED, PEOPLE_CUT, PoseResult
from yolopose.runtime.skeleton import Skeleton

from .measure import latency, paired_excess, paired_share
from .plan import (
    ArtifactSubject,
    CheckpointSubject,
    Plan,
    Subject,
    artifact_subjects,
    checkpoint_subjects,
    network_baseline_possible,
)
from .report import APChange, ArtifactReport, BenchReport, CheckpointReport, Found, Identity, NetworkBaseline, Start
from .settings import DEMO, BenchSettings
from .tables import not_worth_it, notes, summary_rows
from .tasks import RunChild, load_people, run_child


def summary(results: Sequence[PoseResult], score: float) -> Found:
    def flagged(bit: int) -> int:
        return sum(bool(people.flags & bit) for people in results)

    return Found(
        score=score,
        images=len(results),
        people=sum(len(people) for people in results),
        max_candidates=max((people.num_candidates for people in results), default=0),
        candidates_cut=flagged(CANDIDATES_CUT),
        people_cut=flagged(PEOPLE_CUT),
        nms_not_converged=flagged(NMS_NOT_CONVERGED),
    )


def parity(
    reference: Sequence[PoseResult],
    artifact: Sequence[PoseResult],
    skeleton: Skeleton,
    score: float,
    iou: float,
    images: ImageSet,
) -> dict[str, Any]:
    """Fields of ``export.parity.ParityReport``; both lists in the order of ``images.paths``."""
    from yolopose.export.verify import compare_people

    names = [path.name for path in images.paths]
    report = compare_people(reference, artifact, skeleton, score, iou_threshold=iou, names=names)
    return report.to_dict()


def average_precision(
    results: Sequence[PoseResult], skeleton: Skeleton, images: ImageSet, convention: Convention
) -> dict[str, Any]:
    """Fields of ``evaluation.KeypointAP`` over the images of this run; they must be labelled."""
    assert images.labels is not None, "AP needs labels"
    by_id = dict(zip(images.image_ids, results, strict=True))
    figures = evaluate(by_id, images.labels, skeleton, image_ids=list(images.image_ids), images=convention)
    return figures.to_dict()


def matches(
    results: Sequence[PoseResult], skeleton: Skeleton, images: ImageSet, convention: Convention
) -> MatchedPeople:
    """The same people matched to the labels, so that their AP can be compared with that of others."""
    assert images.labels is not None, "AP needs labels"
    by_id = dict(zip(images.image_ids, results, strict=True))
    return match_people(by_id, images.labels, skeleton, image_ids=list(images.image_ids), images=convention)


class APChanges:
    """Of one run, whose people have been collected; people of each file are matched to the labels once."""

    def __init__(self, plan: Plan, images: ImageSet) -> None:
        self._plan = plan
        self._images = images
        self._matched: dict[Path, MatchedPeople] = {}

    def of(self, subject: Subject) -> APChange | None:
        """None without labels, where nobody is labelled, and for the first file where there is no reference."""
        dataset = self._images.labels
        base, file = self._base(subject)
        if dataset is None or base == subject:
            return None
        own = self._plan.people_file(subject, self._plan.settings.evaluation_score)
        change = ap_difference(self._matches(file, base.skeleton), self._matches(own, subject.skeleton))
        if change is None:
            return None
        worst = None if change.worst_image is None else dataset.images[change.worst_image].path.name
        return APChange(base.name, change.difference, change.interval, change.resamples, worst)

    def _base(self, subject: Subject) -> tuple[Subject, Path]:
        """What a file is compared with, and where its people are.

        The reference is taken under the conditions of the artifact; for a checkpoint, of the run's first artifact.
        """
        plan, score = self._plan, self._plan.settings.evaluation_score
        if plan.settings.reference is not None:
            reference = plan.reference(subject if isinstance(subject, ArtifactSubject) else plan.artifacts[0])
            assert reference is not None
            return reference, plan.reference_file(reference, score)
        return plan.subjects[0], plan.people_file(plan.subjects[0], score)

    def _matches(self, file: Path, skeleton: Skeleton) -> MatchedPeople:
        if file not in self._matched:
            convention = self._plan.settings.evaluation_images
            self._matched[file] = matches(load_people(file), skeleton, self._images, convention)
        return self._matched[file]


AssembleAnswers = Sequence[dict[str, Any]]  # of one kind of job for one subject, one a round


def pooled(answers: AssembleAnswers) -> dict[str, list[float]]:
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
    timed: AssembleAnswers,
    network: AssembleAnswers,
    first_p50_ms: float,
    ap_change: APChange | None,
    plan: Plan,
    images: ImageSet,
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
    timed: AssembleAnswers,
    first_p50_ms: float,
    ap_change: APChange | None,
    plan: Plan,
    images: ImageSet,
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


def _accuracy(subject: Subject, file_at: Callable[[float], Path], plan: Plan, images: ImageSet) -> dict[str, Any]:
    """``found``, ``found_evaluation`` and ``ap`` of either report; the last two are None without labels."""
    found_evaluation: Found | None = None
    ap: dict[str, Any] | None = None
    if images.labels is not None:
        score = plan.settings.evaluation_score
        evaluated = load_people(file_at(score))
        found_evaluation = summary(evaluated, score)
        ap = average_precision(evaluated, subject.skeleton, images, plan.settings.evaluation_images)
    found = summary(load_people(file_at(subject.score)), subject.score)
    return {"found": found, "found_evaluation": found_evaluation, "ap": ap}


def pooled_p50_ms(timed: AssembleAnswers) -> float:
    """Median of the total of all rounds."""
    return latency(pooled(timed)["total"]).p50_ms


def round_medians(timed: AssembleAnswers) -> tuple[float, ...]:
    return tuple(latency(answer["samples_ms"]["total"]).p50_ms for answer in timed)


def _network_baseline(subject: ArtifactSubject, answers: AssembleAnswers) -> NetworkBaseline | None:
    if not answers:
        return None
    samples_ms = pooled(answers)
    artifact, network = samples_ms["artifact"], samples_ms["network"]
    share = paired_share(artifact, network) if subject.is_float32 else None
    return NetworkBaseline(latency(artifact), latency(network), share)


def _start(timed: AssembleAnswers) -> Start:
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


SCENES = 32  # synthetic scenes where neither photographs nor labels nor --limit are given
Answers = dict[tuple[str, str], list[dict[str, Any]]]  # (kind of job, subject) -> one answer a round


def run_benchmark(settings: BenchSettings, console: Console, command: str, run: RunChild = run_child) -> BenchReport:
    """Measures every file. Raises before measuring when an artifact, checkpoint, image, label or library is missing."""
    machine = machine_now()  # first: its load average must not be our own
    artifacts = artifact_subjects(settings)
    _require_torch(settings)
    _require_evaluation(settings)
    checkpoints = checkpoint_subjects(settings, run)
    with tempfile.TemporaryDirectory(prefix="yolopose-bench-") as folder:
        scratch = Path(folder)
        skeletons = [*(artifact.skeleton for artifact in artifacts), *(net.skeleton for net in checkpoints)]
        images = open_image_set(
            settings.data,
            settings.images,
            skeletons[0],
            settings.limit,
            split=settings.split,
            scenes=settings.limit or SCENES,
            scenes_folder=scratch / "scenes",
        )
        if images.labels is not None:
            for skeleton in skeletons:
                images.labels.check_skeleton(skeleton)
        console.say(f"images: {images.description} ({len(images.paths)})")
        plan = Plan(settings, artifacts, checkpoints, images, scratch)
        jobs = plan.jobs()
        answers: Answers = {}
        for job in console.progress(jobs, len(jobs), "measuring"):
            answers.setdefault((job.kind, job.subject), []).append(run(job.task))
        return _report(plan, images, answers, machine, command)


def _report(plan: Plan, images: ImageSet, answers: Answers, machine: Machine, command: str) -> BenchReport:
    settings = plan.settings
    first_p50_ms = pooled_p50_ms(answers[("time", plan.subjects[0].name)])
    changes = APChanges(plan, images)
    artifacts = [
        artifact_report(
            artifact,
            answers[("time", artifact.name)],
            answers.get(("network", artifact.name), []),
            first_p50_ms,
            changes.of(artifact),
            plan,
            images,
        )
        for artifact in plan.artifacts
    ]
    checkpoints = [
        checkpoint_report(
            checkpoint,
            partial(plan.people_file, checkpoint),
            answers[("time", checkpoint.name)],
            first_p50_ms,
            changes.of(checkpoint),
            plan,
            images,
        )
        for checkpoint in plan.checkpoints
    ]
    reference: CheckpointReport | None = None
    if plan.artifacts and (compared := plan.reference(plan.artifacts[0])) is not None:
        timed = answers[("reference time", compared.name)]
        reference = checkpoint_report(
            compared, partial(plan.reference_file, compared), timed, first_p50_ms, None, plan, images
        )
    report = BenchReport(
        summary=summary_rows(artifacts, checkpoints, reference),
        not_worth_it=tuple(not_worth_it(artifacts)),
        command=command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine,
        images=images.description,
        num_images=len(images.paths),
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
    told = (*notes(report), *_baseline_notes(plan, answers), *_weights_notes(plan, answers), *_device_notes(plan))
    return dataclasses.replace(report, notes=told)


def _baseline_notes(plan: Plan, answers: Answers) -> Iterator[str]:
    for subject in plan.artifacts:
        why = answers[("time", subject.name)][0]["bare_note"]
        if why:
            yield f"{subject.name}: {why}"
        if plan.settings.reference is None:
            continue
        if not network_baseline_possible(subject):
            reason = "it is measured by ONNX Runtime on the CPU, which does not run this artifact or is not installed"
            yield f"{subject.name}: no bare network, {reason}"
        elif not subject.is_float32:
            yield f"{subject.name}: no tail share, the bare network is float32 and this artifact is not"


def _weights_notes(plan: Plan, answers: Answers) -> Iterator[str]:
    told = [job_answers for (kind, _), job_answers in answers.items() if kind == "reference people"]
    sha256 = told[0][0]["weights_sha256"] if told else None
    for subject in plan.artifacts:
        stated = subject.contract.provenance.weights_sha256
        if sha256 is not None and stated is not None and stated != sha256:
            weights = f"its contract names other weights ({stated[:12]}) than the reference's ({sha256[:12]})"
            yield f"{subject.name}: {weights}: parity compares two networks"


def _device_notes(plan: Plan) -> Iterator[str]:
    settings = plan.settings
    asked = any(artifact.opening.backend != "auto" for artifact in plan.artifacts)
    if (asked or settings.device not in (None, "cpu")) and (plan.checkpoints or settings.reference is not None):
        yield "PyTorch ran on the CPU: backend and device are for artifacts"


def _require_torch(settings: BenchSettings) -> None:
    """PyTorch where a network is to run in it, and onnx for the bare network beside a reference."""
    given = settings.checkpoints if settings.reference is None else (*settings.checkpoints, settings.reference)
    for path in given:
        if path != DEMO and not path.is_file():
            raise CheckpointError(f"cannot read the checkpoint {path}: no such file")
    wanted = () if not given else ("torch",) if settings.reference is None else ("torch", "onnx")
    missing = [name for name in wanted if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"{given[0]} runs in PyTorch, which needs {' and '.join(missing)}: "
            "pip install 'yolopose[export]', or give artifacts alone"
        )


def _require_evaluation(settings: BenchSettings) -> None:
    if settings.data is not None and find_spec("pycocotools") is None:
        raise BackendUnavailable(
            "--data asks for keypoint AP, which needs pycocotools: pip install 'yolopose[bench]', or leave --data out"
        )
