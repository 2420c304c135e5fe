"""A report as tables: text for the terminal, markdown for a file. "-" stands for a figure that does not exist."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yolopose.bootstrap import points
from yolopose.runtime.errors import BackendUnavailable
from yolopose.runtime.machine import Machine

from .measure import Latency, Paired
from .report import APChange, BenchReport, CheckpointReport, PeopleCounts

_CONVENTIONS = {
    "all": "all images, those without people too (convention: all)",
    "with-people": "images with people only (convention: with-people)",
}


def require_tabulate() -> None:
    """Raises BackendUnavailable without tabulate."""
    try:
        import tabulate  # noqa: F401
    except ImportError as error:
        raise BackendUnavailable(
            f"the tables need tabulate ({error}): pip install 'yolopose[bench]', or give --json without --output"
        ) from None


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
        # The header goes in as a row, because tabulate makes columns with headings two characters wider than needed.
        head, *body = self._tabulated([self.header, *self.rows], (), "plain").splitlines()
        rule = "-" * max(map(len, [head, *body]))
        legend = [f"({self.legend})"] if self.legend else []
        return "\n".join([self.title, head, rule, *body, *legend])

    def markdown(self) -> str:
        rows = [tuple(cell.replace("|", "\\|") for cell in row) for row in self.rows]
        legend = ["", self.legend] if self.legend else []
        return "\n".join([f"## {self.title}", "", self._tabulated(rows, self.header, "pipe"), *legend])

    def _tabulated(self, rows: Sequence[tuple[str, ...]], headers: tuple[str, ...], style: str) -> str:
        from tabulate import tabulate

        align = ("left", *["right"] * (len(self.header) - 1))
        return str(tabulate(rows, headers=headers, tablefmt=style, colalign=align, disable_numparse=True))


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


def tables(report: BenchReport) -> list[Table]:
    """The summary, then the tables with figures. Artifacts come first, then checkpoints, then the reference."""
    made = [summary_table(report), _latency_table(report)]
    if report.artifacts:
        made += [_overhead_table(report), _start_table(report)]
    made.append(_people_table(report))
    if any(artifact.parity for artifact in report.artifacts):
        made.append(_parity_table(report))
    if any(file.ap for file in report.files):
        made.append(_ap_table(report))
    return made


def summary_table(report: BenchReport) -> Table:
    """Columns without any figure are left out."""
    columns: dict[str, list[str]] = {}
    for row in report.summary:
        cells = {
            "file": row.file,
            "backend": row.backend,
            "precision": row.precision,
            "file MiB": "-" if row.bytes is None else f"{row.bytes / 2**20:.2f}",
            "p50 ms": _ms(row.p50_ms),
            "speed": f"{row.speed:.2f}x",
            "AP": _ap_points(row.ap),
            "AP50": _ap_points(row.ap50),
            "AP difference": _ap_change(row.ap_change),
            "OKS": _number(row.mean_oks, 5),
        }
        for heading, cell in cells.items():
            columns.setdefault(heading, []).append(cell)
    shown = {heading: cells for heading, cells in columns.items() if set(cells) != {"-"}}
    legend = ["p50 of the public call; speed: p50 of the first file divided by p50 of this file"]
    if against := {row.ap_change.against for row in report.summary if row.ap_change}:
        legend.append(
            f"AP in points of 100; AP difference to {', '.join(sorted(against))} with the 95 % interval of a paired "
            "bootstrap over images"
        )
    if "OKS" in shown:
        legend.append("OKS: mean over people matched with those of the reference")
    return Table("Summary", tuple(shown), tuple(zip(*shown.values(), strict=True)), "; ".join(legend))


def _latency_table(report: BenchReport) -> Table:
    def total(figure: Latency) -> tuple[str, ...]:
        return (_ms(figure.p50_ms), _ms(figure.p90_ms), _ms(figure.p99_ms), _ms(figure.mean_ms), str(figure.n))

    rows = []
    for artifact in report.artifacts:
        pre, infer, post = (artifact.latency[stage] for stage in ("pre", "infer", "post"))
        stages = (_ms(pre.p50_ms), _ms(infer.p50_ms), _ms(infer.p99_ms), _ms(post.p50_ms))
        rows.append((artifact.name, *stages, *total(artifact.latency["total"]), f"{artifact.speed:.2f}x"))
    for name, network in _in_pytorch(report):
        rows.append((name, *("-" * 4), *total(network.latency["total"]), f"{network.speed:.2f}x"))
    return Table(
        "Latency of one image, ms",
        ("file", "pre", "infer", "infer p99", "post", "total p50", "p90", "p99", "mean", "n", "speed"),
        tuple(rows),
        "pre, infer, post: medians of the stages; total: the public call, timed separately; "
        "speed: p50 of the first file divided by p50 of this file",
    )


def _overhead_table(report: BenchReport) -> Table:
    rows = []
    for artifact in report.artifacts:
        overhead, network = artifact.overhead, artifact.network
        rows.append(
            (
                artifact.name,
                _ms(artifact.latency["bare"].p50_ms if "bare" in artifact.latency else None),
                _paired(overhead),
                _percent(overhead.p90 if overhead else None),
                _ms(network.artifact.p50_ms if network else None),
                _ms(network.network.p50_ms if network else None),
                _paired(network.tail_share if network else None),
            )
        )
    return Table(
        "Baselines, ms",
        ("artifact", "bare artifact", "overhead", "p90", "bare artifact*", "bare network*", "tail share"),
        tuple(rows),
        "overhead: time of the estimator from a letterboxed frame on, over the bare artifact, median of pairs "
        "[95 % interval]; *: measured in turn in one process; tail share: normalization, decode and NMS as a share of "
        "inference",
    )


def _start_table(report: BenchReport) -> Table:
    batches = sorted({batch for artifact in report.artifacts for batch in artifact.throughput}, key=int)
    rates = tuple(f"img/s b{batch}" for batch in batches)
    rows = []
    for artifact in report.artifacts:
        start = artifact.start
        rows.append(
            (
                artifact.name,
                *(f"{artifact.throughput[batch]:.1f}" if batch in artifact.throughput else "-" for batch in batches),
                _ms(start.cold_start_ms),
                _ms(start.load_ms),
                "-" if start.peak_mib is None else f"{start.peak_mib:.0f}",
                "-" if start.before_open_mib is None else f"{start.before_open_mib:.0f}",
                f"{artifact.identity.bytes / 2**20:.2f}",
            )
        )
    return Table(
        "Throughput, start and size",
        ("artifact", *rates, "cold start ms", "load ms", "peak MiB", "before open MiB", "file MiB"),
        tuple(rows),
        "cold start: process start to first result; load: opening the file again in the warm process; peak: memory of "
        "a process with this artifact only, one image at a time",
    )


def _people_table(report: BenchReport) -> Table:
    rows = []
    for artifact in report.artifacts:
        identity = artifact.identity
        for found in (artifact.found, artifact.found_evaluation):
            if found is not None:
                limits = (identity.candidates, found.candidates_cut, found.people_cut, found.nms_not_converged)
                rows.append((artifact.name, *_counts(identity.precision, identity.shape_hw, found), *map(str, limits)))
    for name, network in _in_pytorch(report):
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
        "C cut, M cut, NMS cut: images with more candidates than C, more people than M, or NMS not converged",
    )


def _counts(precision: str, shape_hw: tuple[int, int], found: PeopleCounts) -> tuple[str, ...]:
    counts = (found.images, found.people, found.max_candidates)
    return (precision, "x".join(map(str, shape_hw)), f"{found.score:g}", *map(str, counts))


def _parity_table(report: BenchReport) -> Table:
    rows = []
    for artifact in report.artifacts:
        parity = artifact.parity or {}
        counts = tuple(str(parity.get(key, "-")) for key in ("people", "matched", "missing", "extra", "borderline"))
        figures = tuple(_number(parity.get(key)) for key in ("max_px", "mean_px", "max_score_deviation"))
        oks = _number(parity.get("mean_oks"), 7)
        rows.append((artifact.name, *counts, *figures, oks, str(parity.get("worst_image") or "-")))
    return Table(
        "Parity with the PyTorch reference",
        (
            *("artifact", "people", "matched", "missing", "extra", "borderline"),
            *("max px", "mean px", "max score", "OKS", "worst image"),
        ),
        tuple(rows),
        "borderline: within 1e-4 of a threshold, counted neither as missing nor as extra",
    )


def _ap_table(report: BenchReport) -> Table:
    keys = ("ap", "ap_by_score", "ap50", "ap75", "ap_m", "ap_l", "ar")
    named = [(artifact.name, artifact.ap) for artifact in report.artifacts]
    named += [(name, network.ap) for name, network in _in_pytorch(report)]
    rows = []
    for name, ap in named:
        ap = ap or {}
        counts = (str(ap.get("images", "-")), str(ap.get("people", "-")))
        rows.append((name, *(_number(ap.get(key)) for key in keys), *counts))
    header = ("file", "AP", "AP by box score", "AP50", "AP75", "AP-M", "AP-L", "AR", "images", "people")
    score = next(file.found_evaluation.score for file in report.files if file.found_evaluation is not None)
    legend = f"pycocotools on {_CONVENTIONS[report.evaluation_images]}; score above {score:g}; people by pose score"
    return Table("COCO keypoint AP", header, tuple(rows), legend)


def _in_pytorch(report: BenchReport) -> list[tuple[str, CheckpointReport]]:
    """Names of rows and reports of what PyTorch ran: the checkpoints and the reference."""
    rows = [(f"{checkpoint.name} (PyTorch)", checkpoint) for checkpoint in report.checkpoints]
    return rows if report.reference is None else [*rows, (f"{report.reference.name} (reference)", report.reference)]


def _machine_text(report: BenchReport) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    backends = sorted(
        {f"{a.backend['name']} on {a.backend['device']}" for a in report.artifacts}
        | {f"PyTorch {network.version} on cpu" for _, network in _in_pytorch(report)}
    )
    threads = "chosen by the backend" if report.threads is None else str(report.threads)
    lines = [
        f"{machine.cpu}, {machine.usable_cores:g} of {machine.logical_cores} logical cores usable, {machine.system}",
        f"instruction sets: {' '.join(machine.isa) or 'unknown'}",
        f"{machine.python}; {versions}",
        f"backend: {', '.join(backends)}; threads: {threads}; {_load_text(machine)}",
        f"images: {report.images} ({report.num_images}), used in a cycle",
        f"{report.iterations} timed images per file in {report.rounds} rounds, a fresh process each, files in "
        f"turn; {report.warmup} warm-up images before each round; no sample discarded; {report.created}",
    ]
    return "\n".join(lines)


def _load_text(machine: Machine) -> str:
    load = "unknown" if machine.load_average is None else f"{machine.load_average[0]:.2f} at start"
    return f"load average {load}" + (f"; frequency governor {machine.governor}" if machine.governor else "")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _paired(figure: Paired | None) -> str:
    """Median with its 95 % interval."""
    if figure is None:
        return "-"
    return f"{100 * figure.median:.2f} % [{100 * figure.low:.2f}, {100 * figure.high:.2f}]"


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def _ap_points(value: float | None) -> str:
    return "-" if value is None else points(value)


def _ap_change(change: APChange | None) -> str:
    """Points of AP with their 95 % interval."""
    if change is None:
        return "-"
    interval = "" if change.interval is None else f" [{', '.join(map(points, change.interval))}]"
    return points(change.difference) + interval
