"""Verdicts, and which images they rest on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import yolopose
from yolopose.bootstrap import APDifference
from yolopose.data.image_set import open_image_set
from yolopose.export.pipeline import source_from_net
from yolopose.export.verify import ParityReport, judge, verify

GOOD = ParityReport(
    images=10, people=50, matched=50, missing=0, extra=0, borderline=1,
    max_px=0.01, mean_px=0.001, max_score_deviation=1e-5, mean_oks=0.9999, worst_image="a.jpg",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "exact", "lowered", "ap", "verdict"),
    [
        ({}, True, False, None, "passed"),
        ({"max_px": 0.06}, True, False, None, "failed"),
        ({"max_score_deviation": 2e-4}, True, False, None, "failed"),
        ({"missing": 1}, True, False, None, "failed"),
        ({"extra": 1}, True, False, None, "failed"),
        ({"borderline": 9}, True, False, None, "passed"),
        ({"matched": 19, "people": 19}, True, False, None, "unverified"),
        ({"matched": 19, "people": 19, "max_px": 1.0}, True, False, None, "failed"),  # few, and wrong
        ({}, True, True, None, "unverified"),  # at a lower threshold: arithmetic, not people
        ({"matched": 0, "max_px": None, "max_score_deviation": None, "mean_oks": None}, True, True, None, "unverified"),
        ({"missing": 50, "matched": 0, "max_px": None}, True, False, None, "failed"),  # everybody is lost
        ({"max_px": 3.0}, False, False, None, "passed"),
        ({"mean_oks": 0.98}, False, False, None, "failed"),
        ({"missing": 1, "extra": 1}, False, False, None, "failed"),
        ({"missing": 1}, False, False, None, "passed"),
        ({"missing": 50, "matched": 0, "max_px": None, "mean_oks": None}, False, False, None, "failed"),
        ({"missing": 40, "matched": 10}, False, False, None, "failed"),
        ({"max_px": float("nan")}, True, False, None, "failed"),
        ({"mean_oks": 0.5, "max_px": 9.0}, False, False, (0.50, 0.496), "passed"),
        ({}, False, False, (0.50, 0.494), "failed"),
        ({}, False, False, (0.50, 0.51), "passed"),
        ({}, False, False, (0.001, 0.0), "unverified"),
    ],
)  # fmt: skip
def test_verdict(
    changes: dict[str, float | None], exact: bool, lowered: bool, ap: tuple[float, float] | None, verdict: str
) -> None:
    report = replace(GOOD, **changes)  # type: ignore[arg-type]
    difference = None if ap is None else APDifference(*ap, ap[1] - ap[0], None, 1000, None)
    assert judge(report, exact=exact, lowered=lowered, ap=difference, max_ap_drop=0.5)[0] == verdict


def test_the_reason_names_the_interval_and_the_verdict_goes_by_the_figure() -> None:
    ap = APDifference(0.2425, 0.241, -0.0015, (-0.0141, 0.0009), 1000, 7)
    judged = judge(GOOD, exact=False, lowered=False, ap=ap, max_ap_drop=0.5)
    said = "keypoint AP 24.25 -> 24.10 (-0.15, 95 % interval -1.41 to 0.09), 0.5 points may be lost"
    assert judged == ("passed", said)
    lossless = replace(ap, after=0.2425, difference=-1e-9, interval=None)
    assert lossless.in_points() == "24.25 -> 24.25 (0.00)"


def test_labels_give_an_interval_and_a_worst_image(
    trained_artifact_fp16: Path, trained_checkpoint: Path, data_dir: Path
) -> None:
    net, folder = yolopose.load(trained_checkpoint), data_dir / "lspet"
    images = open_image_set(folder / "val.json", folder / "images", net.skeleton, 24)
    result = verify(
        trained_artifact_fp16,
        source_from_net(net),
        images,
        exact=False,
        max_ap_drop=0.5,
        progress=lambda items, *_: items,
    )
    info, ap = result.info, result.ap
    assert ap is not None
    assert ap.interval is not None
    assert ap.interval[0] <= ap.difference <= ap.interval[1]
    assert info.ap_interval == pytest.approx(ap.interval, rel=1e-3)
    assert info.ap_reference == pytest.approx(ap.before, rel=1e-3)
    assert info.worst_image in images.names
