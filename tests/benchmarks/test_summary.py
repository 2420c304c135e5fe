from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from yolopose.benchmarks.measure import latency
from yolopose.benchmarks.report import APChange, ArtifactReport
from yolopose.benchmarks.tables import markdown, not_worth_it, summary_table, text

from .figures import FOUND, artifact_figures, checkpoint_figures, report_figures


def figures(name: str, precision: str, p50_ms: float, backend: str = "onnxruntime", **changes: Any) -> ArtifactReport:
    told = {"name": backend, "version": "1", "device": "cpu"}
    timed = {stage: latency([p50_ms]) for stage in ("pre", "infer", "post", "total")}
    return artifact_figures(name, precision, backend=told, latency=timed, speed=10 / p50_ms, **changes)


FULL = figures("a.onnx", "float32", 10.0, ap={"ap": 0.25, "ap50": 0.6})


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (figures("b.onnx", "int8", 10 / 1.06), None),
        (
            figures("b.onnx", "int8", 10 / 1.02, ap={"ap": 0.247}),
            "int8 is not worth it here: b.onnx is 1.02 times as fast as a.onnx and loses 0.30 AP points",
        ),
        (
            figures("b.onnx", "float16", 12.5, ap={"ap": 0.2511}),
            "float16 is not worth it here: b.onnx is 0.80 times as fast as a.onnx and gains 0.11 AP points",
        ),
        (
            figures("b.onnx", "float16", 10.0, ap={"ap": 0.250001}),
            "float16 is not worth it here: b.onnx is 1.00 times as fast as a.onnx at the same AP",
        ),
        (
            figures("b.onnx", "float16", 10.0, parity={"mean_oks": 0.99876}),
            "float16 is not worth it here: b.onnx is 1.00 times as fast as a.onnx "
            "at a mean OKS of 0.9988 with the reference",
        ),
        (
            figures("b.onnx", "float16", 10.0, parity=None),
            "float16 is not worth it here: b.onnx is 1.00 times as fast as a.onnx (AP was not measured)",
        ),
        (figures("b.onnx", "float32", 20.0), None),
        (figures("b.onnx", "int8", 20.0, backend="openvino"), None),  # no float32 artifact on that engine
        (
            figures("a.onnx@onnxruntime:bf16", "float32", 10.0, backend="onnxruntime:bf16", parity=None),
            "bf16 is not worth it here: a.onnx@onnxruntime:bf16 is 1.00 times as fast as a.onnx (AP was not measured)",
        ),
    ],
)
def test_reduced_precision_has_to_pay(other: ArtifactReport, sentence: str | None) -> None:
    assert list(not_worth_it([FULL, other])) == ([] if sentence is None else [sentence])
    assert len(list(not_worth_it([other, FULL]))) == (sentence is not None)  # in whichever order they are given


def test_other_networks_and_sizes_are_no_measure() -> None:
    slow = figures("b.onnx", "int8", 40.0)
    for change in ({"network": "s"}, {"shape_hw": (320, 320)}):
        other = dataclasses.replace(slow, identity=dataclasses.replace(slow.identity, **change))  # type: ignore[arg-type]
        assert list(not_worth_it([FULL, other])) == []


def test_one_row_a_file() -> None:
    change = APChange("best.pt", -0.0015, (-0.0041, 0.0009), 1000, "7.jpg")
    half = figures("b.onnx", "float16", 10.0, ap={"ap": 0.2410, "ap50": 0.6}, parity={"mean_oks": 0.998})
    half = dataclasses.replace(half, ap_change=change, found_evaluation=FOUND)
    reference = checkpoint_figures("best.pt", ap={"ap": 0.2425, "ap50": 0.61})
    report = report_figures(FULL, half, reference=reference)
    table = summary_table(report)
    assert table.header == (
        *("file", "backend", "precision", "file MiB", "p50 ms"),
        *("speed", "AP", "AP50", "AP difference", "OKS"),
    )
    assert table.rows == (
        ("a.onnx", "onnxruntime", "float32", "3.00", "10.00", "1.00x", "25.00", "60.00", "-", "-"),
        (
            *("b.onnx", "onnxruntime", "float16", "3.00", "10.00", "1.00x", "24.10", "60.00"),
            *("-0.15 [-0.41, 0.09]", "0.998"),
        ),
        ("best.pt (reference)", "PyTorch", "float32", "-", "30.00", "0.33x", "24.25", "61.00", "-", "-"),
    )
    assert "its difference to best.pt" in table.legend
    (sentence,) = report.not_worth_it
    printed = text(report)
    assert printed.startswith("Summary\n")
    assert printed.index(sentence) < printed.index("Latency of one image, ms")
    page = markdown(report)
    assert page.index("## Summary") < page.index(f"- {sentence}") < page.index("## Latency of one image, ms")


def test_columns_without_a_figure_are_left_out() -> None:
    table = summary_table(report_figures(artifact_figures(parity=None)))
    assert table.header == ("file", "backend", "precision", "file MiB", "p50 ms", "speed")
    assert table.legend == "p50 of the public call; speed: p50 of the first over this one"
