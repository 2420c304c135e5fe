"""What follows from the figures: reduced precision that does not pay, notes, and the report as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from yolopose.benchmarks.measure import latency
from yolopose.benchmarks.report import ArtifactReport, not_worth_it, notes, round_spread, to_json_values

from .figures import FOUND, MACHINE, artifact_figures, checkpoint_figures, full_report, report_figures


def timed(name: str, precision: str, p50_ms: float, backend: str = "onnxruntime", **changes: Any) -> ArtifactReport:
    described = {"name": backend, "version": "1", "device": "cpu"}
    by_stage = {stage: latency([p50_ms]) for stage in ("pre", "infer", "post", "total")}
    return artifact_figures(name, precision, backend=described, latency=by_stage, speed=10 / p50_ms, **changes)


FULL = timed("a.onnx", "float32", 10.0, ap={"ap": 0.25, "ap50": 0.6})


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (timed("b.onnx", "int8", 10 / 1.06), None),
        (
            timed("b.onnx", "int8", 10 / 1.02, ap={"ap": 0.247}),
            "int8 is not worth it here: b.onnx is 1.02 times as fast as a.onnx and loses 0.30 AP points",
        ),
        (
            timed("b.onnx", "float16", 12.5, ap={"ap": 0.2511}),
            "float16 is not worth it here: b.onnx is 0.80 times as fast as a.onnx and gains 0.11 AP points",
        ),
        (
            timed("b.onnx", "float16", 10.0, ap={"ap": 0.250001}),
            "float16 is not worth it here: b.onnx is 1.00 times as fast as a.onnx at the same AP",
        ),
        (
            timed("b.onnx", "float16", 10.0, parity={"mean_oks": 0.99876}),
            "float16 is not worth it here: b.onnx is 1.00 times as fast as a.onnx "
            "at a mean OKS of 0.9988 with the reference",
        ),
        (
            timed("b.onnx", "float16", 10.0, parity=None),
            "float16 is not worth it here: b.onnx is 1.00 times as fast as a.onnx (AP was not measured)",
        ),
        (timed("b.onnx", "float32", 20.0), None),
        (timed("b.onnx", "int8", 20.0, backend="openvino"), None),  # no float32 artifact on that backend
        (
            timed("a.onnx@onnxruntime:bf16", "float32", 10.0, backend="onnxruntime:bf16", parity=None),
            "bf16 is not worth it here: a.onnx@onnxruntime:bf16 is 1.00 times as fast as a.onnx (AP was not measured)",
        ),
    ],
)
def test_reduced_precision_that_does_not_pay(other: ArtifactReport, sentence: str | None) -> None:
    assert list(not_worth_it([FULL, other])) == ([] if sentence is None else [sentence])
    assert len(list(not_worth_it([other, FULL]))) == (sentence is not None)  # in whichever order they are given


def test_only_equal_networks_and_sizes_are_compared() -> None:
    slow = timed("b.onnx", "int8", 40.0)
    for change in ({"network": "s"}, {"shape_hw": (320, 320)}):
        other = dataclasses.replace(slow, identity=dataclasses.replace(slow.identity, **change))  # type: ignore[arg-type]
        assert list(not_worth_it([FULL, other])) == []


def test_no_notes_for_a_sound_run() -> None:
    assert list(notes(report_figures())) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": "synthetic scenes of ..."}, "synthetic scenes: time and parity are valid"),
        ({"iterations": 99}, "n = 99: p99 is the slowest sample"),
        ({"threads": 4}, "4 threads on 2 usable cores"),
        ({"machine": dataclasses.replace(MACHINE, load_average=(1.5, 0, 0))}, "busy at start: load average 1.50 on 2"),
        ({"machine": dataclasses.replace(MACHINE, governor="powersave")}, "frequency governor 'powersave'"),
    ],
)
def test_notes_on_conditions(changes: dict[str, Any], expected: str) -> None:
    (note,) = notes(report_figures(**changes))
    assert expected in note


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"parity": None},
            "speed without accuracy: give --reference or --data; verdicts in the contracts: a.onnx: passed",
        ),
        ({"round_p50_ms": (10.0, 11.0)}, "a.onnx: medians of the rounds differ by 10.0 %"),
        (
            {"found": dataclasses.replace(FOUND, candidates_cut=3)},
            "a.onnx: more candidates than C = 300 on 3 of 10 images at score 0.25",
        ),
        ({"found": dataclasses.replace(FOUND, people_cut=1)}, "more people than M = 100 on 1 of 10"),
        (
            {"found_evaluation": dataclasses.replace(FOUND, score=0.001, nms_not_converged=2)},
            "NMS not converged after R = 8 rounds on 2 of 10 images at score 0.001",
        ),
    ],
)
def test_notes_on_an_artifact(changes: dict[str, Any], expected: str) -> None:
    (note,) = notes(report_figures(artifact_figures(**changes)))
    assert expected in note


@pytest.mark.parametrize(("speed", "shown"), [(1.5, True), (0.86, True), (1.01, False), (0.99, False)])
def test_note_on_a_difference_within_the_noise(speed: float, shown: bool) -> None:
    found = list(notes(report_figures(artifact_figures(), artifact_figures("b.onnx", speed=speed))))
    noise = "b.onnx: no difference in speed from a.onnx is shown: the rounds themselves differ by 2.0 %"
    assert found == ([] if shown else [noise])


def test_notes_on_a_checkpoint() -> None:
    uneven = checkpoint_figures("best.pt", round_p50_ms=(30.0, 33.0), ap={"ap": 0.5})
    applies, spread = notes(report_figures(checkpoints=(uneven,)))
    assert applies.startswith("checkpoints run in PyTorch on the CPU and only the call is timed")
    assert spread.startswith("best.pt: medians of the rounds differ by 10.0 %")


def test_note_on_a_checkpoint_without_labels() -> None:
    without_accuracy, _ = notes(report_figures(artifacts=(), checkpoints=(checkpoint_figures("best.pt"),)))
    assert without_accuracy == "speed without accuracy: give --data"


def test_spread_is_relative_to_the_fastest_round() -> None:
    assert round_spread((10.0, 10.5, 11.0)) == pytest.approx(0.1)
    assert round_spread((10.0,)) == 0


def test_json_has_every_field_and_no_nan() -> None:
    report = full_report()
    document = to_json_values(report)
    again = json.loads(json.dumps(document, allow_nan=False))
    assert again["schema"] == "1.3"
    assert list(again) == [field.name for field in dataclasses.fields(report)]
    assert next(iter(again)) == "summary"
    assert again["summary"][1]["precision"] == "float16"
    assert again["artifacts"][0]["ap"]["ap_m"] is None
    assert len(again["artifacts"][0]["samples_ms"]["total"]) == 120
