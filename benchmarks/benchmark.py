"""One benchmark run: gather, measure in child processes, assemble the report."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, CheckpointError
from yolopose.runtime.machine import Machine, machine_now

from .ap_changes import APChanges
from .assemble import artifact_report, checkpoint_report, pooled_p50_ms
from .child import RunChild, run_child
from .inputs import BenchImages, gather_images
from .notes import notes
from .plan import Plan, network_baseline_possible
from .report import BenchReport, CheckpointReport
from .settings import DEMO, BenchSettings
from .subjects import artifact_subjects, checkpoint_subjects
from .summary import not_worth_it, summary_rows

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
        images = gather_images(settings, scratch / "scenes", skeletons[0])
        if images.dataset is not None:
            for skeleton in skeletons:
                images.dataset.check_skeleton(skeleton)
        console.say(f"images: {images.description} ({len(images.paths)})")
        plan = Plan(settings, artifacts, checkpoints, images, scratch)
        jobs = plan.jobs()
        answers: Answers = {}
        for job in console.progress(jobs, len(jobs), "measuring"):
            answers.setdefault((job.kind, job.subject), []).append(run(job.task))
        return _report(plan, images, answers, machine, command)


def _report(plan: Plan, images: BenchImages, answers: Answers, machine: Machine, command: str) -> BenchReport:
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
