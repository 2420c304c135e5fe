"""Reports with invented figures, for the tests of report.py and tables.py."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from yolopose.benchmarks.measure import Paired, latency
from yolopose.benchmarks.report import (
    ArtifactReport,
    BenchReport,
    CheckpointReport,
    Identity,
    NetworkBaseline,
    PeopleCounts,
    Start,
    not_worth_it,
    summary_rows,
)
from yolopose.runtime.machine import Machine

MACHINE = Machine(
    cpu="Some CPU",
    isa=("avx2", "avx512_vnni"),
    logical_cores=4,
    usable_cores=2.0,
    memory_mib=8192,
    governor=None,
    load_average=(0.1, 0.2, 0.3),
    system="Linux 6 x86_64",
    python="CPython 3.11.7",
    versions={"numpy": "2.0"},
    environment={},
)
IDENTITY = Identity(
    name="a.onnx",
    bytes=3 * 2**20,
    graph_sha256="0" * 64,
    network="nano",
    precision="float32",
    shape_hw=(640, 640),
    candidates=300,
    rounds=8,
    max_people=100,
    score=0.25,
    iou=0.65,
    contract_verdict="passed",
)
FOUND = PeopleCounts(0.25, 10, 20, 250, 0, 0, 0)
COUNTS = {"images": 10, "people": 12}
AP = {
    "ap": 0.5,
    "ap_by_score": 0.45,
    "ap50": 0.8,
    "ap75": 0.4,
    "ap_m": math.nan,
    "ap_l": 0.6,
    "ar": 0.7,
    "convention": "all",
}


def artifact_figures(name: str = "a.onnx", precision: str = "float32", **changes: Any) -> ArtifactReport:
    samples = [10.0 + i / 100 for i in range(120)]
    figure = latency(samples)
    made = ArtifactReport(
        identity=dataclasses.replace(IDENTITY, name=name, precision=precision),
        backend={"name": "onnxruntime", "version": "1.31", "device": "cpu"},
        latency={stage: figure for stage in ("pre", "infer", "post", "total", "bare")},
        round_p50_ms=(10.0, 10.1, 10.2),
        overhead=Paired(120, 0.031, 0.06, 0.029, 0.033),
        network=NetworkBaseline(figure, figure, Paired(120, 0.018, 0.03, 0.016, 0.02)),
        throughput={"1": 90.0, "8": 120.0},
        start=Start(300.0, 80.0, 50.0, 20.0, 150.0),
        speed=1.0,
        found=FOUND,
        found_evaluation=None,
        parity={"people": 20, "matched": 20, "missing": 0, "extra": 0, "borderline": 0, "max_px": 0.01},
        ap=None,
        ap_change=None,
        samples_ms={"total": samples},
    )
    return dataclasses.replace(made, **changes)


def checkpoint_figures(name: str, **changes: Any) -> CheckpointReport:
    made = CheckpointReport(
        name=name,
        weights_sha256="f" * 64,
        network="nano",
        shape_hw=(256, 256),
        max_people=100,
        score=0.25,
        iou=0.65,
        version="2.13",
        threads=2,
        latency={"total": latency([30.0])},
        round_p50_ms=(30.0,),
        speed=1 / 3,
        found=FOUND,
        found_evaluation=None,
        ap=None,
        ap_change=None,
        samples_ms={"total": [30.0]},
    )
    return dataclasses.replace(made, **changes)


def report_figures(*artifacts: ArtifactReport, **changes: Any) -> BenchReport:
    made = BenchReport(
        summary=(),
        not_worth_it=(),
        command="yolopose-bench a.onnx",
        created="2026-11-22T00:00:00+00:00",
        machine=MACHINE,
        images="photographs of val, without labels",
        num_images=10,
        evaluation_images="all",
        threads=2,
        iterations=120,
        warmup=10,
        rounds=3,
        artifacts=artifacts or (artifact_figures(),),
        checkpoints=(),
        reference=None,
        notes=(),
    )
    made = dataclasses.replace(made, **changes)
    summary = summary_rows(made.artifacts, made.checkpoints, made.reference)
    return dataclasses.replace(made, summary=summary, not_worth_it=tuple(not_worth_it(made.artifacts)))


def full_report() -> BenchReport:
    reference = checkpoint_figures("best.pt", ap={**AP, **COUNTS, "ap": 0.51})
    return report_figures(
        artifact_figures(ap={**AP, **COUNTS}, found_evaluation=dataclasses.replace(FOUND, score=0.001)),
        artifact_figures("b|fp16.onnx", "float16", network=None, overhead=None, speed=1.5),
        reference=reference,
        notes=("the machine was busy",),
    )
