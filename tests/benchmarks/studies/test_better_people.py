"""The study of consensus keypoints: its shipped form is the one that the product computes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.deploy.test_consensus import made
from yolopose.benchmarks.studies.better_people import SHIPPED, Candidates, parse_subject, people_of
from yolopose.deploy.consensus import consensus_of
from yolopose.deploy.reference import greedy_nms
from yolopose.evaluation import iou_matrix
from yolopose.runtime.contract import PoseInfo
from yolopose.runtime.errors import UsageError
from yolopose.runtime.letterbox import Placement

SIGMAS = (0.03, 0.07, 0.1)


@pytest.mark.parametrize("seed", range(5))
def test_shipped_form_is_the_one_of_the_product(seed: int) -> None:
    boxes, scores, labels, points, visible = made(seed, 80, "crowded")
    order = np.argsort(-scores, kind="stable")
    boxes, scores, points, visible = boxes[order], scores[order], points[order], visible[order]
    kept = greedy_nms(boxes, scores, labels, 0.65)
    candidates = Candidates(boxes, scores, points, visible, kept, iou_matrix(boxes[kept], boxes), Placement(1, 1, 0, 0))
    found = people_of(candidates, SHIPPED, SIGMAS)
    expected = consensus_of(kept, boxes, scores, labels, points, visible, PoseInfo("consensus"), SIGMAS)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-2)
    np.testing.assert_allclose(found.keypoint_scores, expected.keypoint_scores, atol=1e-4)
    np.testing.assert_allclose(found.pose_scores, expected.pose_scores, atol=1e-4)
    np.testing.assert_allclose(found.keypoint_spread, expected.spread, atol=1e-2)


def test_subject_needs_four_parts() -> None:
    assert parse_subject("a.pt,b.json,c,640")[3] == 640
    for text in ("a.pt", "a.pt,b.json,c,big"):
        with pytest.raises(UsageError, match="WEIGHTS,LABELS"):
            parse_subject(text)
