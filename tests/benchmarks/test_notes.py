from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from yolopose.benchmarks.tables import notes, round_spread

from .figures import FOUND, MACHINE, artifact_figures, checkpoint_figures, report_figures


def test_a_quiet_sound_run_needs_no_note() -> None:
    assert list(notes(report_figures())) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"images": "synthetic scenes of ..."}, "synthetic scenes: time and parity are real"),
        ({"iterations": 99}, "n = 99: p99 is the slowest sample"),
        ({"threads": 4}, "4 threads on 2 usable cores"),
        ({"machine": dataclasses.replace(MACHINE, load_average=(1.5, 0, 0))}, "busy at start: load average 1.50 on 2"),
        ({"machine": dataclasses.replace(MACHINE, governor="powersave")}, "frequency governor 'powersave'"),
    ],
)
def test_conditions_are_told(changes: dict[str, Any], expected: str) -> None:
    (note,) = notes(report_figures(**changes))
    assert expected in note


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"parity": None}, "speed without accuracy: give --reference or --data; the contracts say a.onnx: passed"),
        ({"round_p50_ms": (10.0, 11.0)}, "a.onnx: medians of the rounds lie 10.0 % apart"),
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
def test_what_an_artifact_shows_is_told(changes: dict[str, Any], expected: str) -> None:
    (note,) = notes(report_figures(artifact_figures(**changes)))
    assert expected in note


@pytest.mark.parametrize(("speed", "shown"), [(1.5, True), (0.86, True), (1.01, False), (0.99, False)])
def test_a_difference_smaller_than_the_noise_is_told(speed: float, shown: bool) -> None:
    told = list(notes(report_figures(artifact_figures(), artifact_figures("b.onnx", speed=speed))))
    noise = "b.onnx: no difference in speed from a.onnx is shown, rounds differ by 2.0 % themselves"
    assert told == ([] if shown else [noise])


def test_what_is_not_measured_of_a_checkpoint_is_told() -> None:
    uneven = checkpoint_figures("best.pt", round_p50_ms=(30.0, 33.0), ap={"ap": 0.5})
    applies, spread = notes(report_figures(checkpoints=(uneven,)))
    assert applies.startswith("checkpoints run in PyTorch on the CPU: the call alone is timed")
    assert spread.startswith("best.pt: medians of the rounds lie 10.0 % apart")


def test_a_checkpoint_without_labels_has_speed_alone() -> None:
    without_accuracy, _ = notes(report_figures(artifacts=(), checkpoints=(checkpoint_figures("best.pt"),)))
    assert without_accuracy == "speed without accuracy: give --data"


def test_spread_of_rounds_is_relative_to_the_fastest() -> None:
    assert round_spread((10.0, 10.5, 11.0)) == pytest.approx(0.1)
    assert round_spread((10.0,)) == 0
