from __future__ import annotations

import dataclasses
import json
import math

import pytest

from yolopose.benchmarks.report import BenchReport, to_json_values
from yolopose.benchmarks.tables import Table, markdown, tables, text

from .figures import FOUND, artifact_figures, checkpoint_figures, report_figures

COUNTS = {"images": 10, "people": 12}
AP = {"ap": 0.5, "ap50": 0.8, "ap75": 0.4, "ap_m": math.nan, "ap_l": 0.6, "ar": 0.7, "convention": "all"}


def full_report() -> BenchReport:
    reference = checkpoint_figures("best.pt", ap={**AP, **COUNTS, "ap": 0.51})
    return report_figures(
        artifact_figures(ap={**AP, **COUNTS}, found_evaluation=dataclasses.replace(FOUND, score=0.001)),
        artifact_figures("b|fp16.onnx", "float16", network=None, overhead=None, speed=1.5),
        reference=reference,
        notes=("the machine was busy",),
    )


def test_columns_line_up() -> None:
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
    assert Table("T", ("a", "b"), (("x|y", "1"),)).markdown() == "## T\n\n| a | b |\n| :-- | --: |\n| x\\|y | 1 |"


def test_a_row_must_fit_its_header() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 headings"):
        Table("T", ("a", "b"), (("x",),))


def test_tables_appear_where_there_is_something_to_show() -> None:
    titles = [table.title for table in tables(report_figures(artifact_figures(parity=None)))]
    assert titles[:3] == ["Summary", "Latency of one image, ms", "Baselines, ms"]
    assert titles[3:] == ["Throughput, start and size", "People found"]
    titles = [table.title for table in tables(full_report())]
    assert titles[-2:] == ["Parity with the PyTorch reference", "COCO keypoint AP"]


def test_checkpoints_alone_have_the_tables_that_apply_to_them() -> None:
    found = dataclasses.replace(FOUND, score=0.001)
    report = report_figures(
        checkpoints=(checkpoint_figures("best.pt", ap={**AP, **COUNTS}, found_evaluation=found),),
        artifacts=(),
        evaluation_images="with-people",
    )
    made = {table.title: table for table in tables(report)}
    assert list(made) == ["Summary", "Latency of one image, ms", "People found", "COCO keypoint AP"]
    assert made["COCO keypoint AP"].header[1:7] == ("AP", "AP50", "AP75", "AP-M", "AP-L", "AR")
    assert made["COCO keypoint AP"].rows == (("best.pt (PyTorch)", "0.5", "0.8", "0.4", "-", "0.6", "0.7", "10", "12"),)
    assert "images with people alone (convention: with-people)" in made["COCO keypoint AP"].legend
    assert [row[:5] for row in made["People found"].rows] == [
        ("best.pt (PyTorch)", "float32", "256x256", "0.25", "10"),
        ("best.pt (PyTorch)", "float32", "256x256", "0.001", "10"),
    ]


@pytest.mark.parametrize("render", [text, markdown])
def test_everything_a_number_needs_is_printed(render: object) -> None:
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


def test_json_has_every_field_and_no_nan() -> None:
    report = full_report()
    document = to_json_values(report)
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["schema"] == "1.2"
    assert list(again) == [field.name for field in dataclasses.fields(report)]
    assert next(iter(again)) == "summary"
    assert again["summary"][1]["precision"] == "float16"
    assert again["artifacts"][0]["ap"]["ap_m"] is None
    assert len(again["artifacts"][0]["samples_ms"]["total"]) == 120
