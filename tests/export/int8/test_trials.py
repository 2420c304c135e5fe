"""Changes of poses between two graphs, their loss, and bootstrap samples of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from yolopose.data.image_set import open_image_set
from yolopose.export.int8.trials import PoseChange, Trials, bootstrap_sample, pose_change, pose_loss
from yolopose.runtime.contract import read_contract
from yolopose.runtime.estimator import DEMO_FILE
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17


def people(count: int, seed: int = 0) -> PoseResult:
    rng = np.random.default_rng(seed)
    corners = np.arange(count)[:, None] * 300 + rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + 200], axis=1).astype(np.float32)
    keypoints = (corners[:, None] + rng.uniform(0, 200, (count, 17, 2))).astype(np.float32)
    scores = np.sort(rng.uniform(0.2, 0.9, count))[::-1].astype(np.float32)
    return PoseResult(
        boxes=boxes,
        scores=scores,
        labels=np.zeros(count, np.int32),
        keypoints=keypoints,
        keypoint_scores=np.full((count, 17), 0.8, np.float32),
    )


def moved(result: PoseResult, px: float) -> PoseResult:
    return replace(result, keypoints=result.keypoints + np.float32(px))


def test_equal_people_have_no_loss_and_more_candidates_change_nothing() -> None:
    before = people(3)
    none = pose_change(before, before, COCO_17)
    assert pose_loss([before], [none]) == pytest.approx(0, abs=1e-9)
    assert not none.keypoints.any()
    more = before[[2, 0, 1, 0]]
    assert pose_loss([before], [pose_change(before, more, COCO_17)]) == pytest.approx(0, abs=1e-9)


def test_pose_loss_grows_with_distance_and_is_1_where_nobody_is_found() -> None:
    before = people(3)
    losses = [pose_loss([before], [pose_change(before, moved(before, px), COCO_17)]) for px in (1, 3, 9)]
    assert 0 < losses[0] < losses[1] < losses[2] < 1
    for found in (people(0), replace(before, boxes=before.boxes + 5000)):
        assert pose_loss([before], [pose_change(before, found, COCO_17)]) == pytest.approx(1)
    assert pose_loss([people(0)], [pose_change(people(0), before, COCO_17)]) == 0


def test_bootstrap_sample_adds_or_subtracts_the_change() -> None:
    before = people(4)
    change = pose_change(before, moved(before, 3), COCO_17)
    change = replace(change, pose_scores=np.full(4, 0.01))
    seen = set()
    for seed in range(20):
        drawn = bootstrap_sample(before, change, np.random.default_rng(seed))
        for row, step in enumerate((drawn.keypoints - before.keypoints).mean((1, 2))):
            sign = 1 if step > 0 else -1
            assert step == pytest.approx(3 * sign, abs=1e-3)
            assert drawn.pose_scores[row] == pytest.approx(before.pose_scores[row] + sign * 0.01, abs=1e-6)
            seen.add(sign)
    assert seen == {1, -1}


def test_lost_people_have_score_0_with_either_sign() -> None:
    before = people(2)
    lost = pose_change(before, people(0), COCO_17)
    assert bootstrap_sample(before, lost, np.random.default_rng(0)).pose_scores.tolist() == [0, 0]


def test_changes_of_nobody_are_empty() -> None:
    empty = pose_change(people(0), people(0), COCO_17)
    assert isinstance(empty, PoseChange)
    assert len(bootstrap_sample(people(0), empty, np.random.default_rng(0))) == 0


def test_small_errors_cost_little_ap_with_consensus_keypoints(data_dir: Path) -> None:
    """All candidates of a person have nearly the same pose: the nearest of them may have any score (drop 5 points)."""
    model, contract = onnx.load(DEMO_FILE), read_contract(DEMO_FILE)
    noisy = onnx.ModelProto()
    noisy.CopyFrom(model)
    rng = np.random.default_rng(0)
    for tensor in noisy.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            noise = 1 + 0.01 * rng.standard_normal(values.shape)
            tensor.CopyFrom(numpy_helper.from_array((values * noise).astype(values.dtype), tensor.name))
    folder = data_dir / "lspet"
    images = open_image_set(folder / "val.json", folder / "images", contract.skeleton, 40)
    trials = Trials(model, images, contract.input, contract.skeleton)
    assert trials.run(model).drop == 0
    drop = trials.run(noisy).drop
    assert drop is not None
    assert drop < 2
