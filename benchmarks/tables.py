"""Figures as the cells of a table; "-" for what was not measured or is not defined.

A table of text: aligned columns for the terminal, markdown for a file.

What a reader of the figures has to know: drawn from the report itself, so that nobody has to remember to say it.

All files of a run in one table, and which reduced precision does not pay on this machine.

A report as tables, as text for the terminal and as markdown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from yolopose.bootstrap import points
from yolopose.runtime.machine import Machine

from .measure import Latency, Paired
from .report import APChange, ArtifactReport, BenchReport, CheckpointReport, Found, Measured, SummaryRow


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def paired(figure: Paired | None) -> str:
    """Median with its 95 % interval."""
    if figure is None:
        return "-"
    return f"{100 * figure.median:.2f} % [{100 * figure.low:.2f}, {100 * figure.high:.2f}]"


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def ap_points(value: float | None) -> str:
    return "-" if value is None else points(value)


def ap_change(change: APChange | None) -> str:
    """Points of AP with their 95 % interval."""
    if change is None:
        return "-"
    interval = "" if change.interval is None else f" [{', '.join(map(points, change.interval))}]"
    return points(change.difference) + interval


@dataclass(frozen=True)
class Table:
    """First column to the left, the others to the right. Raises ValueError when a row does not fit the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells under {len(self.header)} headings")

    def text(self) -> str:
        lines = (self.header, *self.rows)
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        head, *body = [_aligned(line, widths) for line in lines]
        legend = [f"({self.legend})"] if self.legend else []
        return "\n".join([self.title, head, "-" * (sum(widths) + 2 * (len(widths) - 1)), *body, *legend])

    def markdown(self) -> str:
        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        marks = [":--", *["--:"] * (len(self.header) - 1)]
        legend = ["", self.legend] if self.legend else []
        return "\n".join([f"## {self.title}", "", line(self.header), line(marks), *map(line, self.rows), *legend])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(cells)]
    return "  ".join([first, *others]).rstrip()


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


WORTH_IT = 1.05  # times as fast as float32: what reduced precision must at least be


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
        file=artifact.identity.name,
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
    """That of the file, but for a float32 file on a backend that names another one ("openvino:bf16")."""
    named = artifact.backend["name"].partition(":")[2]
    return named if named and artifact.identity.precision == "float32" else artifact.identity.precision


def not_worth_it(artifacts: Sequence[ArtifactReport]) -> Iterator[str]:
    """A sentence for every artifact of reduced precision that is less than 1.05 times as fast as float32.

    It is set beside the first artifact of the same network, input, engine and device that was computed in float32;
    where the run has none, nothing is said.
    """
    full = [artifact for artifact in artifacts if computed_precision(artifact) == "float32"]
    for artifact in artifacts:
        base = next((other for other in full if _conditions(other) == _conditions(artifact)), None)
        if base is None or artifact in full:
            continue
        faster = round(base.latency["total"].p50_ms / artifact.latency["total"].p50_ms, 2)
        if faster < WORTH_IT:
            yield (
                f"{computed_precision(artifact)} is not worth it here: {artifact.identity.name} is {faster:.2f} times "
                f"as fast as {base.identity.name} {_accuracy_kept(artifact, base)}"
            )


def _conditions(artifact: ArtifactReport) -> tuple[object, ...]:
    engine = artifact.backend["name"].partition(":")[0]
    return artifact.identity.network, artifact.identity.shape_hw, engine, artifact.backend["device"]


def _accuracy_kept(artifact: ArtifactReport, base: ArtifactReport) -> str:
    before, after = (base.ap or {}).get("ap"), (artifact.ap or {}).get("ap")
    if before is not None and after is not None:
        points = round(100 * (after - before), 2)
        if points == 0:
            return "at the same AP"
        return f"and {'loses' if points < 0 else 'gains'} {abs(points):.2f} AP points"
    oks = (artifact.parity or {}).get("mean_oks")
    return "(AP was not measured)" if oks is None else f"at a mean OKS of {oks:.4f} with the reference"


def summary_table(report: BenchReport) -> Table:
    """Only columns with a figure in them."""
    columns: dict[str, list[str]] = {}
    for row in report.summary:
        cells = {
            "file": row.file,
            "backend": row.backend,
            "precision": row.precision,
            "file MiB": "-" if row.bytes is None else f"{row.bytes / 2**20:.2f}",
            "p50 ms": ms(row.p50_ms),
            "speed": f"{row.speed:.2f}x",
            "AP": ap_points(row.ap),
            "AP50": ap_points(row.ap50),
            "AP difference": ap_change(row.ap_change),
            "OKS": number(row.mean_oks, 5),
        }
        for heading, cell in cells.items():
            columns.setdefault(heading, []).append(cell)
    shown = {heading: cells for heading, cells in columns.items() if set(cells) != {"-"}}
    legend = ["p50 of the public call; speed: p50 of the first over this one"]
    if against := {row.ap_change.against for row in report.summary if row.ap_change}:
        legend.append(
            f"AP in points of 100; its difference to {', '.join(sorted(against))} with the 95 % interval of a paired "
            "bootstrap over images"
        )
    if "OKS" in shown:
        legend.append("OKS: mean of matched people with the reference")
    return Table("Summary", tuple(shown), tuple(zip(*shown.values(), strict=True)), "; ".join(legend))


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
