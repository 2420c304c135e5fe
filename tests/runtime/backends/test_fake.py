from __future__ import annotations

import numpy as np
import pytest

from yolopose.runtime.backends.base import Backend
from yolopose.runtime.backends.fake import FakeBackend, fake_contract, raw_people
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17

PERSON = PoseResult(
    boxes=[[10, 20, 30, 40]],
    scores=[0.75],
    labels=[0],
    keypoints=np.full((1, 17, 2), 25),
    keypoint_scores=np.full((1, 17), 0.5),
    num_candidates=4,
    flags=2,
    skeleton=COCO_17,  # that of fake_contract()
)


def test_application_runs_without_a_network() -> None:
    backend = FakeBackend([raw_people([PERSON], 100), raw_people([PoseResult.empty(17)], 100)])
    assert isinstance(backend, Backend)
    with PoseEstimator(fake_contract(), backend=backend) as estimate:
        people = estimate(np.zeros((640, 640, 3), np.uint8))
        nobody = estimate(np.zeros((640, 640, 3), np.uint8))
    assert people.to_dict() == PERSON.to_dict()
    assert len(nobody) == 0
    assert backend.calls == [(1, 640, 640, 3)] * 2
    assert backend.closed


def test_rows_past_num_people_are_zero() -> None:
    raw = raw_people([PoseResult.empty(17), PERSON], 5)
    assert raw.num_people.tolist() == [0, 1]
    assert raw.keypoints.shape == (2, 5, 17, 3)
    assert not raw.boxes[0].any()
    assert not raw.boxes[1, 1:].any()
    assert raw.keypoints[1, 0, 0].tolist() == [25, 25, 0.5]


def test_rejects_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="answers"):
        FakeBackend([])
    with pytest.raises(ValueError, match="batch: give"):
        raw_people([], 5)
    with pytest.raises(ValueError, match="more than max_people 0"):
        raw_people([PERSON], 0)
    with pytest.raises(ValueError, match="a Contract alone cannot be run"):
        PoseEstimator(fake_contract())
