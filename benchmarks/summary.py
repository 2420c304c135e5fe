"""All files of a run in one table, and which reduced precision does not pay on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .cells import ap_change, ap_points, ms, number
from .report import ArtifactReport, BenchReport, CheckpointReport, SummaryRow
from .table import Table

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
