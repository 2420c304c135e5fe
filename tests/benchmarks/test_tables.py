"""Tables as text and markdown."""

from __future__ import annotations

import builtins
import dataclasses
from typing import Any

import pytest

from yolopose.benchmarks.measure import latency
from yolopose.benchmarks.report import APChange
from yolopose.benchmarks.tables import Table, markdown, require_tabulate, summary_table, tables, text
from yolopose.runtime.errors import BackendUnavailable

from .figures import AP, COUNTS, FOUND, artifact_figures, checkpoint_figures, full_report, report_figures


def test_text_columns_are_aligned() -> None:
    table = Table("Title", ("name", "ms"), (("a", "1.00"), ("longer", "10.00")), "how")
    assert table.text().splitlines() == [
        "Title",
        "name       ms",
        "-------------",
        "a        1.00",
        "longer  10.00",
        "(how)",
    ]


def test_markdown_escapes_bars() -> None:
    assert (
        Table("T", ("a", "b"), (("x|y", "1"),)).markdown() == "## T\n\n| a    |   b |\n|:-----|----:|\n| x\\|y |   1 |"
    )


def test_row_must_fit_its_header() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 headings"):
        Table("T", ("a", "b"), (("x",),))


def test_tables_without_figures_are_left_out() -> None:
    titles = [table.title for table in tables(report_figures(artifact_figures(parity=None)))]
    assert titles[:3] == ["Summary", "Latency of one image, ms", "Baselines, ms"]
    assert titles[3:] == ["Throughput, start and size", "People found"]
    titles = [table.title for table in tables(full_report())]
    assert titles[-2:] == ["Parity with the PyTorch reference", "COCO keypoint AP"]


def test_tables_of_checkpoints_only() -> None:
    found = dataclasses.replace(FOUND, score=0.001)
    report = report_figures(
        checkpoints=(checkpoint_figures("best.pt", ap={**AP, **COUNTS}, found_evaluation=found),),
        artifacts=(),
        evaluation_images="with-people",
    )
    made = {table.title: table for table in tables(report)}
    assert list(made) == ["Summary", "Latency of one image, ms", "People found", "COCO keypoint AP"]
    assert made["COCO keypoint AP"].header[1:8] == ("AP", "AP by box score", "AP50", "AP75", "AP-M", "AP-L", "AR")
    assert made["COCO keypoint AP"].rows == (
        ("best.pt (PyTorch)", "0.5", "0.45", "0.8", "0.4", "-", "0.6", "0.7", "10", "12"),
    )
    assert "images with people only (convention: with-people)" in made["COCO keypoint AP"].legend
    assert [row[:5] for row in made["People found"].rows] == [
        ("best.pt (PyTorch)", "float32", "256x256", "0.25", "10"),
        ("best.pt (PyTorch)", "float32", "256x256", "0.001", "10"),
    ]


@pytest.mark.parametrize("render", [text, markdown])
def test_figures_and_their_conditions_are_printed(render: object) -> None:
    page = render(full_report())  # type: ignore[operator]
    for part in (
        *("a.onnx", "fp16.onnx", "best.pt (reference)", "1.50x", "0.33x", "3.10 % [2.90, 3.30]", "1.80 % [1.60, 2.00]"),
        *(
            "Some CPU",
            "avx2 avx512_vnni",
            "numpy 2.0",
            "onnxruntime on cpu",
            "PyTorch 2.13 on cpu",
            "threads: 2",
            "load average 0.10",
        ),
        *("120 timed images", "10 warm-up images", "no sample discarded", "the machine was busy", "0.51"),
    ):
        assert part in page, part
    assert "nan" not in page


def test_summary_has_one_row_per_file() -> None:
    change = APChange("best.pt", -0.0015, (-0.0041, 0.0009), 1000, "7.jpg")
    figure = latency([10.0])
    by_stage = {stage: figure for stage in ("pre", "infer", "post", "total")}
    full = artifact_figures("a.onnx", "float32", latency=by_stage, ap={"ap": 0.25, "ap50": 0.6})
    half = dataclasses.replace(full, identity=dataclasses.replace(full.identity, name="b.onnx", precision="float16"))
    half = dataclasses.replace(half, ap={"ap": 0.2410, "ap50": 0.6}, parity={"mean_oks": 0.998})
    half = dataclasses.replace(half, ap_change=change, found_evaluation=FOUND)
    reference = checkpoint_figures("best.pt", ap={"ap": 0.2425, "ap50": 0.61})
    report = report_figures(full, half, reference=reference)
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
    assert "AP difference to best.pt" in table.legend
    (sentence,) = report.not_worth_it
    printed = text(report)
    assert printed.startswith("Summary\n")
    assert printed.index(sentence) < printed.index("Latency of one image, ms")
    page = markdown(report)
    assert page.index("## Summary") < page.index(f"- {sentence}") < page.index("## Latency of one image, ms")


def test_summary_leaves_out_empty_columns() -> None:
    table = summary_table(report_figures(artifact_figures(parity=None)))
    assert table.header == ("file", "backend", "precision", "file MiB", "p50 ms", "speed")
    assert table.legend == "p50 of the public call; speed: p50 of the first file divided by p50 of this file"


def test_missing_tabulate_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_tabulate(name: str, *rest: Any, **more: Any) -> Any:
        if name == "tabulate":
            raise ModuleNotFoundError("No module named 'tabulate'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_tabulate)
    with pytest.raises(BackendUnavailable, match=r"pip install 'yolopose\[bench\]', or give --json without --output"):
        require_tabulate()
