"""What a reader of the figures has to know: drawn from the report itself, so that nobody has to remember to say it."""

from __future__ import annotations

from collections.abc import Iterator

from .report import ArtifactReport, BenchReport, CheckpointReport, Measured

_BUSY_LOAD = 0.5  # runnable processes per usable core, before we start any
_ROUND_SPREAD = 0.05
_PERCENTILE_SAMPLES = 100  # below, p99 is the maximum


def notes(report: BenchReport) -> Iterator[str]:
    if report.images.startswith("synthetic"):
        yield "synthetic scenes: time and parity are real, accuracy on photographs is not shown (--images, --data)"
    yield from _machine_notes(report)
    if report.iterations < _PERCENTILE_SAMPLES:
        yield f"n = {report.iterations}: p99 is the slowest sample; take --iterations {_PERCENTILE_SAMPLES} or more"
    if not any(artifact.parity for artifact in report.artifacts) and not any(row.ap for row in report.measured):
        if report.artifacts:
            yield f"speed without accuracy: give --reference or --data; the contracts say {_verdicts(report)}"
        else:
            yield "speed without accuracy: give --data"
    if report.checkpoints:
        yield (
            "checkpoints run in PyTorch on the CPU: the call alone is timed; stages, baselines, throughput, start, "
            "memory and parity are of artifacts"
        )
    for artifact in report.artifacts:
        yield from _flag_notes(artifact)
    first, *others = report.measured
    for subject in report.measured:
        yield from _spread_notes(subject)
    for subject in others:
        yield from _speed_notes(subject, first)


def round_spread(round_p50_ms: tuple[float, ...]) -> float:
    """How far the medians of the rounds lie apart, as a share of the fastest."""
    return max(round_p50_ms) / min(round_p50_ms) - 1


def _machine_notes(report: BenchReport) -> Iterator[str]:
    machine = report.machine
    if machine.load_average is not None and machine.load_average[0] > _BUSY_LOAD * machine.usable_cores:
        load = f"load average {machine.load_average[0]:.2f} on {machine.usable_cores:g} cores"
        yield f"the machine was busy at start: {load}"
    if report.threads is not None and report.threads > machine.usable_cores:
        yield f"{report.threads} threads on {machine.usable_cores:g} usable cores"
    if machine.governor not in (None, "performance"):
        yield f"frequency governor {machine.governor!r}: clocks may have changed while measuring"


def _name(subject: Measured) -> str:
    return subject.name if isinstance(subject, CheckpointReport) else subject.identity.name


def _spread_notes(subject: Measured) -> Iterator[str]:
    spread = round_spread(subject.round_p50_ms)
    if spread > _ROUND_SPREAD:
        yield f"{_name(subject)}: medians of the rounds lie {100 * spread:.1f} % apart; the machine was not quiet"


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
                name = artifact.identity.name
                yield f"{name}: {what} on {images} of {found.images} images at score {found.score:g}"


def _speed_notes(subject: Measured, first: Measured) -> Iterator[str]:
    """Differences that the noise of the rounds could explain."""
    noise = max(round_spread(subject.round_p50_ms), round_spread(first.round_p50_ms))
    if abs(subject.speed - 1) <= noise:
        spread = f"rounds differ by {100 * noise:.1f} % themselves"
        yield f"{_name(subject)}: no difference in speed from {_name(first)} is shown, {spread}"


def _verdicts(report: BenchReport) -> str:
    return ", ".join(f"{a.identity.name}: {a.identity.contract_verdict or 'nothing'}" for a in report.artifacts)
