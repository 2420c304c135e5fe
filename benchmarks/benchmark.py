"""One benchmark run: gather, measure in child processes, assemble the report."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, CheckpointError
from yolopose.runtime.machine import Machine, machine_now

from .assemble import artifact_report, reference_report
from .child import run_child
from .inputs import BenchImages, gather_images
from .notes import notes
from .plan import Plan, network_baseline_possible, subjects
from .report import ArtifactReport, BenchReport, ReferenceReport
from .settings import DEMO, BenchSettings
from .tasks import Task

Answers = dict[tuple[str, str], list[dict[str, Any]]]  # (kind of job, subject) -> one answer a round


class RunChild(Protocol):
    def __call__(self, task: Task) -> dict[str, Any]: ...


def run_benchmark(settings: BenchSettings, console: Console, command: str, run: RunChild = run_child) -> BenchReport:
    """Measures every artifact. Raises before measuring when an artifact, image, label or library is missing."""
    machine = machine_now()  # first: its load average must not be our own
    found = subjects(settings)
    _require_reference(settings)
    _require_evaluation(settings)
    with tempfile.TemporaryDirectory(prefix="yolopose-bench-") as folder:
        scratch = Path(folder)
        images = gather_images(settings, scratch / "scenes")
        if images.dataset is not None:
            for subject in found:
                images.dataset.check_skeleton(subject.contract.skeleton)
        console.say(f"images: {images.description} ({len(images.paths)})")
        plan = Plan(settings, found, images, scratch)
        jobs = plan.jobs()
        answers: Answers = {}
        for job in console.progress(jobs, len(jobs), "measuring"):
            answers.setdefault((job.kind, job.subject), []).append(run(job.task))
        return _report(plan, images, answers, machine, command)


def _report(plan: Plan, images: BenchImages, answers: Answers, machine: Machine, command: str) -> BenchReport:
    settings = plan.settings
    artifacts: list[ArtifactReport] = []
    for subject in plan.subjects:
        timed, network = answers[("time", subject.name)], answers.get(("network", subject.name), [])
        first_p50_ms = artifacts[0].latency["total"].p50_ms if artifacts else None
        artifacts.append(artifact_report(subject, timed, network, first_p50_ms, plan, images))
    reference: ReferenceReport | None = None
    if settings.reference is not None:
        timed = answers[("reference time", settings.reference.name)]
        reference = reference_report(timed, artifacts[0].latency["total"].p50_ms, plan, images)
    report = BenchReport(
        command=command,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine,
        images=images.description,
        num_images=len(images.paths),
        threads=settings.threads,
        iterations=settings.iterations,
        warmup=settings.warmup,
        rounds=settings.rounds,
        artifacts=tuple(artifacts),
        reference=reference,
        notes=(),
    )
    told = (*notes(report), *_baseline_notes(plan, answers), *_weights_notes(plan, answers))
    return dataclasses.replace(report, notes=told)


def _baseline_notes(plan: Plan, answers: Answers) -> Iterator[str]:
    for subject in plan.subjects:
        why = answers[("time", subject.name)][0]["bare_note"]
        if why:
            yield f"{subject.name}: {why}"
        if plan.settings.reference is not None and not subject.is_float32 and network_baseline_possible(plan.settings):
            yield f"{subject.name}: no tail share, the bare network is float32 and this artifact is not"
    if plan.settings.reference is not None and not network_baseline_possible(plan.settings):
        yield "no bare network: it is measured by ONNX Runtime on the CPU, which was not asked for or is not installed"


def _weights_notes(plan: Plan, answers: Answers) -> Iterator[str]:
    told = [job_answers for (kind, _), job_answers in answers.items() if kind == "reference people"]
    sha256 = told[0][0]["weights_sha256"] if told else None
    for subject in plan.subjects:
        stated = subject.contract.provenance.weights_sha256
        if sha256 is not None and stated is not None and stated != sha256:
            weights = f"its contract names other weights ({stated[:12]}) than the reference's ({sha256[:12]})"
            yield f"{subject.name}: {weights}: parity compares two networks"


def _require_reference(settings: BenchSettings) -> None:
    if settings.reference is None:
        return
    if settings.reference != DEMO and not settings.reference.is_file():
        raise CheckpointError(f"cannot read the reference {settings.reference}: no such file")
    missing = [name for name in ("torch", "onnx") if find_spec(name) is None]
    if missing:
        raise BackendUnavailable(
            f"--reference runs the network in PyTorch, which needs {' and '.join(missing)}: "
            "pip install 'yolopose[export]', or leave --reference out"
        )


def _require_evaluation(settings: BenchSettings) -> None:
    if settings.data is not None and find_spec("pycocotools") is None:
        raise BackendUnavailable(
            "--data asks for keypoint AP, which needs pycocotools: pip install 'yolopose[bench]', or leave --data out"
        )
