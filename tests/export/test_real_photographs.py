"""The trained checkpoint on real photographs: the same people as PyTorch in float32, hardly moved ones in float16."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

import yolopose
from yolopose.data.image_set import open_image_set
from yolopose.export.pipeline import source_from_net
from yolopose.export.verify import Verification, verify

pytestmark = pytest.mark.slow


def silent(items: Iterable[int], total: int, label: str) -> Iterable[int]:
    return items


def verified(artifact: Path, checkpoint: Path, data: Path | None, images: Path, *, exact: bool) -> Verification:
    net = yolopose.load(checkpoint)
    chosen = open_image_set(data, images, net.skeleton, 0)
    return verify(artifact, source_from_net(net), chosen, exact=exact, max_ap_drop=0.1, progress=silent)


@pytest.mark.parametrize("folder", ["lspet", "coco-mini"])
def test_float32_gives_the_same_people(
    trained_artifact: Path, trained_checkpoint: Path, data_dir: Path, folder: str
) -> None:
    labels = data_dir / "lspet" / "val.json" if folder == "lspet" else None  # coco-mini has another skeleton
    result = verified(trained_artifact, trained_checkpoint, labels, data_dir / folder / "images", exact=True)
    report = result.report
    print(folder, result.info.verdict, report)
    assert result.info.verdict == "passed"
    assert report.images == (493 if labels else 125)
    assert report.missing == report.extra == 0
    assert report.matched >= 30
    assert report.max_px is not None
    assert report.max_px <= 0.05
    assert report.max_score_deviation is not None
    assert report.max_score_deviation <= 1e-4
    if labels:
        assert result.info.ap_artifact == result.info.ap_reference
        assert result.info.ap_artifact is not None
        assert 0.02 < result.info.ap_artifact < 0.03  # what the reference code base measured: 0.024


@pytest.mark.parametrize("folder", ["lspet", "coco-mini"])
def test_float16_hardly_moves_them(
    trained_artifact_fp16: Path, trained_checkpoint: Path, data_dir: Path, folder: str
) -> None:
    labels = data_dir / "lspet" / "val.json" if folder == "lspet" else None
    result = verified(trained_artifact_fp16, trained_checkpoint, labels, data_dir / folder / "images", exact=False)
    report = result.report
    print(folder, result.info.verdict, report, result.info.ap_artifact)
    assert result.info.verdict == "passed"
    assert report.mean_oks is not None
    assert report.mean_oks > 0.9999
    assert report.missing + report.extra <= 0.01 * report.people
    if labels:
        assert result.info.ap_interval is not None
        assert -0.01 < result.info.ap_interval[0] <= 0 <= result.info.ap_interval[1] < 0.01
