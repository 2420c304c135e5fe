"""A report as tables, as text for the terminal and as markdown."""

from __future__ import annotations

from yolopose.runtime.machine import Machine

from .cells import ms, number, paired, percent
from .measure import Latency
from .report import ArtifactReport, BenchReport, CheckpointReport, Found
from .summary import summary_table
from .table import Table

_CONVENTIONS = {
    "all": "all images, those without people too (convention: all)",
    "with-people": "images with people alone (convention: with-people)",
}


def tables(report: BenchReport) -> list[Table]:
    """The summary, then those with something to show; checkpoints stand below artifacts, the reference comes last."""
    found = [summary_table(report), _latency_table(report)]
    if report.artifacts:
        found += [_overhead_table(report), _start_table(report)]
    found.append(_people_table(report))
    if any(artifact.parity for artifact in report.artifacts):
        found.append(_parity_table(report))
    if any(row.ap for row in report.measured):
        found.append(_ap_table(report))
    return found


def text(report: BenchReport) -> str:
    summary, *others = [table.text() for table in tables(report)]
    parts = [summary, "\n".join(report.not_worth_it), *others, _machine_text(report)]
    parts.append("\n".join(f"note: {note}" for note in report.notes))
    return "\n\n".join(part for part in parts if part)


def markdown(report: BenchReport) -> str:
    summary, *others = [table.markdown() for table in tables(report)]
    parts = [
        "# yolopose-bench",
        f"`{report.command}`",
        summary,
        "\n".join(f"- {sentence}" for sentence in report.not_worth_it),
        "\n".join(f"- note: {note}" for note in report.notes),
        *others,
        "## Machine and conditions",
        _machine_text(report).replace("\n", "  \n"),
        "What each figure means: docs/benchmark.md.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _named(report: BenchReport) -> list[tuple[str, CheckpointReport]]:
    """What PyTorch ran, as its rows are called."""
    rows = [(f"{checkpoint.name} (PyTorch)", checkpoint) for checkpoint in report.checkpoints]
    return rows if report.reference is None else [*rows, (f"{report.reference.name} (reference)", report.reference)]


def _latency_table(report: BenchReport) -> Table:
    def stage(figure: Latency) -> str:
        return ms(figure.p50_ms)

    def total(figure: Latency) -> tuple[str, ...]:
        return (ms(figure.p50_ms), ms(figure.p90_ms), ms(figure.p99_ms), ms(figure.mean_ms), str(figure.n))

    rows = []
    for artifact in report.artifacts:
        latency = artifact.latency
        stages = (stage(latency["pre"]), stage(latency["infer"]), ms(latency["infer"].p99_ms), stage(latency["post"]))
        rows.append((artifact.identity.name, *stages, *total(latency["total"]), f"{artifact.speed:.2f}x"))
    for name, network in _named(report):
        rows.append((name, *("-" * 4), *total(network.latency["total"]), f"{network.speed:.2f}x"))
    return Table(
        "Latency of one image, ms",
        ("file", "pre", "infer", "infer p99", "post", "total p50", "p90", "p99", "mean", "n", "speed"),
        tuple(rows),
        "pre, infer, post: medians of the stages; total: the public call, timed by itself; "
        "speed: p50 of the first over this one",
    )


def _overhead_table(report: BenchReport) -> Table:
    rows = []
    for artifact in report.artifacts:
        overhead, network = artifact.overhead, artifact.network
        rows.append(
            (
                artifact.identity.name,
                ms(artifact.latency["bare"].p50_ms if "bare" in artifact.latency else None),
                paired(overhead),
                percent(overhead.p90 if overhead else None),
                ms(network.artifact.p50_ms if network else None),
                ms(network.network.p50_ms if network else None),
                paired(network.tail_share if network else None),
            )
        )
    return Table(
        "Baselines, ms",
        ("artifact", "bare artifact", "overhead", "p90", "bare artifact*", "bare network*", "tail share"),
        tuple(rows),
        "overhead: estimator from a letterboxed frame over the bare artifact, median of pairs [95 % interval]; "
        "*: second pair, in turn in one process; tail share: normalisation, decoding and NMS as a share of inference",
    )


def _start_table(report: BenchReport) -> Table:
    batches = sorted({batch for artifact in report.artifacts for batch in artifact.throughput}, key=int)
    rates = tuple(f"img/s b{batch}" for batch in batches)
    rows = []
    for artifact in report.artifacts:
        start = artifact.start
        rows.append(
            (
                artifact.identity.name,
                *(f"{artifact.throughput[batch]:.1f}" if batch in artifact.throughput else "-" for batch in batches),
                ms(start.cold_start_ms),
                ms(start.load_ms),
                "-" if start.peak_mib is None else f"{start.peak_mib:.0f}",
                "-" if start.before_open_mib is None else f"{start.before_open_mib:.0f}",
                f"{artifact.identity.bytes / 2**20:.2f}",
            )
        )
    return Table(
        "Throughput, start and size",
        ("artifact", *rates, "cold start ms", "load ms", "peak MiB", "before open MiB", "file MiB"),
        tuple(rows),
        "cold start: process start to first result; load: opening it again in the warm process; peak: a process with "
        "this artifact alone, one image at a time",
    )


def _people_table(report: BenchReport) -> Table:
    rows = []
    for artifact in report.artifacts:
        for found in (artifact.found, artifact.found_evaluation):
            if found is not None:
                rows.append((artifact.identity.name, *_found_cells(artifact, found)))
    for name, network in _named(report):
        for found in (network.found, network.found_evaluation):
            if found is not None:
                rows.append((name, *_counts("float32", network.shape_hw, found), *("-" * 4)))
    return Table(
        "People found",
        (
            *("file", "precision", "input", "score >", "images", "people"),
            *("most candidates", "C", "C cut", "M cut", "NMS cut"),
        ),
        tuple(rows),
        "C cut, M cut, NMS cut: images flagged because candidates, people or rounds of suppression ran out",
    )


def _found_cells(artifact: ArtifactReport, found: Found) -> tuple[str, ...]:
    identity = artifact.identity
    limits = (identity.candidates, found.candidates_cut, found.people_cut, found.nms_not_converged)
    return (*_counts(identity.precision, identity.shape_hw, found), *map(str, limits))


def _counts(precision: str, shape_hw: tuple[int, int], found: Found) -> tuple[str, ...]:
    counts = (found.images, found.people, found.max_candidates)
    return (precision, "x".join(map(str, shape_hw)), f"{found.score:g}", *map(str, counts))


def _parity_table(report: BenchReport) -> Table:
    rows = []
    for artifact in report.artifacts:
        parity = artifact.parity or {}
        counts = tuple(str(parity.get(key, "-")) for key in ("people", "matched", "missing", "extra", "borderline"))
        figures = tuple(number(parity.get(key)) for key in ("max_px", "mean_px", "max_score_deviation"))
        oks = number(parity.get("mean_oks"), 7)
        rows.append((artifact.identity.name, *counts, *figures, oks, str(parity.get("worst_image") or "-")))
    return Table(
        "Parity with the PyTorch reference",
        (
            *("artifact", "people", "matched", "missing", "extra", "borderline"),
            *("max px", "mean px", "max score", "OKS", "worst image"),
        ),
        tuple(rows),
        "borderline: within 1e-4 of a threshold, in neither missing nor extra",
    )


def _ap_table(report: BenchReport) -> Table:
    keys = ("ap", "ap50", "ap75", "ap_m", "ap_l", "ar")
    named = [(artifact.identity.name, artifact.ap) for artifact in report.artifacts]
    named += [(name, network.ap) for name, network in _named(report)]
    rows = []
    for name, ap in named:
        ap = ap or {}
        counts = (str(ap.get("images", "-")), str(ap.get("people", "-")))
        rows.append((name, *(number(ap.get(key)) for key in keys), *counts))
    header = ("file", "AP", "AP50", "AP75", "AP-M", "AP-L", "AR", "images", "people")
    legend = f"pycocotools on {_CONVENTIONS[report.evaluation_images]}; score above {_evaluation_score(report):g}"
    return Table("COCO keypoint AP", header, tuple(rows), legend)


def _evaluation_score(report: BenchReport) -> float:
    found = [row.found_evaluation for row in report.measured]
    return next(each.score for each in found if each is not None)


def _machine_text(report: BenchReport) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    backends = sorted(
        {f"{a.backend['name']} on {a.backend['device']}" for a in report.artifacts}
        | {f"PyTorch {network.version} on cpu" for _, network in _named(report)}
    )
    threads = "as the engine decides" if report.threads is None else str(report.threads)
    lines = [
        f"{machine.cpu}, {machine.usable_cores:g} of {machine.logical_cores} logical cores usable, {machine.system}",
        f"instruction sets: {' '.join(machine.isa) or 'unknown'}",
        f"{machine.python}; {versions}",
        f"backend: {', '.join(backends)}; threads: {threads}; {_load_text(machine)}",
        f"images: {report.images} ({report.num_images}), cycled",
        f"{report.iterations} timed images a file in {report.rounds} rounds of a fresh process each, files in "
        f"turn; {report.warmup} warm-up images a round before; no sample discarded; {report.created}",
    ]
    return "\n".join(lines)


def _load_text(machine: Machine) -> str:
    load = "unknown" if machine.load_average is None else f"{machine.load_average[0]:.2f} at start"
    return f"load average {load}" + (f"; frequency governor {machine.governor}" if machine.governor else "")
