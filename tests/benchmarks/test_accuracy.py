"""AP of each file against the reference or the first file. The people are invented; no network runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolopose.benchmarks.accuracy import APChanges
from yolopose.benchmarks.plan import BenchPlan, CheckpointEntry, artifact_entries
from yolopose.benchmarks.settings import DEMO, BenchSettings
from yolopose.benchmarks.tasks import save_people
from yolopose.data.image_set import ImageSet, open_image_set
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17

pytest.importorskip("pycocotools")

SCORE = 0.01
CHECKPOINT = CheckpointEntry("last.pt", Path("last.pt"), COCO_17, (64, 64), 0.25, 0.65, 100, 300)


def people(moved_px: float) -> list[PoseResult]:
    """One person in each of the five images, ``moved_px`` to the right of its label."""
    points = np.array([[[20.0 + k + moved_px, 30.0] for k in range(17)]])
    return [PoseResult(np.zeros((1, 4)), [0.9], [0], points, np.ones((1, 17))) for _ in range(5)]


@pytest.fixture
def images(labels: Path, photographs: Path, tmp_path: Path) -> ImageSet:
    return open_image_set(labels, photographs, COCO_17, None)


def test_ap_change_against_the_first_file(artifact: Path, images: ImageSet, tmp_path: Path) -> None:
    settings = BenchSettings((artifact, artifact))
    first, second = artifact_entries(settings)
    plan = BenchPlan(settings, [first, second], [CHECKPOINT], images, tmp_path)
    worse = people(0.0)
    worse[3] = PoseResult.empty(17)
    for entry, found in ((first, people(0.0)), (second, worse), (CHECKPOINT, people(0.0))):
        save_people(plan.people_file(entry, SCORE), found)
    changes = APChanges(plan)
    assert changes.of(first) is None
    lost, same = changes.of(second), changes.of(CHECKPOINT)
    assert lost is not None
    assert (lost.against, lost.worst_image) == ("dots.onnx", "3.png")
    assert lost.difference == pytest.approx(81 / 101 - 1)
    assert lost.interval is not None
    assert lost.interval[0] < lost.difference < lost.interval[1] == 0
    assert same is not None
    assert (same.difference, same.interval, same.worst_image) == (0.0, (0.0, 0.0), None)


def test_ap_change_against_the_reference(artifact: Path, images: ImageSet, tmp_path: Path) -> None:
    settings = BenchSettings((artifact,), reference=DEMO)
    (entry,) = artifact_entries(settings)
    plan = BenchPlan(settings, [entry], [CHECKPOINT], images, tmp_path)
    reference = plan.reference_of(entry)
    assert reference is not None
    save_people(plan.people_file(reference, SCORE), people(0.0))
    save_people(plan.people_file(entry, SCORE), people(12.0))
    save_people(plan.people_file(CHECKPOINT, SCORE), people(0.0))
    changes = APChanges(plan)
    for each, sign in ((entry, -1), (CHECKPOINT, 0)):
        change = changes.of(each)
        assert change is not None
        assert (change.against, np.sign(change.difference)) == ("demo", sign)


def test_no_ap_change_for_a_single_checkpoint_or_without_labels(images: ImageSet, tmp_path: Path) -> None:
    settings = BenchSettings((Path("last.pt"),))
    for given in (images, replace(images, labels=None)):
        plan = BenchPlan(settings, [], [CHECKPOINT], given, tmp_path)
        assert APChanges(plan).of(CHECKPOINT) is None
