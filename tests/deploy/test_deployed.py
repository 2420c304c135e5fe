"""Deployed networks against the PyTorch reference, with NMS and with one-to-one heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from yolopose.deploy.deployed import BareNet, DeployedNet
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import build
from yolopose.runtime.contract import NmsInfo

from ..model.tables import TABLES, small_config

SCORE, IOU = 0.5, 0.4


def random_net(family: str, classes: int) -> PoseNet:
    """A quarter of its cells exceed the score threshold; scores and positions differ from cell to cell."""
    torch.manual_seed(3)
    net = build(small_config(family), classes=tuple(f"class_{index}" for index in range(classes)))
    with torch.no_grad():
        for name, parameter in net.head.named_parameters():
            if name.endswith("weight") and "predictions" in name:
                parameter.normal_(0.0, 0.3 if "box" in name else 2.0)
            if name.startswith("box_predictions") and name.endswith("bias"):
                bins = len(parameter) // 4
                parameter.copy_(-0.6 * torch.arange(bins).repeat(4) if bins > 1 else torch.full((4,), 1.5))
        for _ in range(4):
            net(torch.rand(4, 3, 64, 64))
        net.eval()
        best = net(torch.rand(8, 3, 64, 64)).scores.amax(2).quantile(0.75)
        for conv in net.head.class_predictions:
            assert isinstance(conv, torch.nn.Conv2d)
            assert conv.bias is not None
            conv.bias -= torch.logit(best)
    return net


@pytest.mark.parametrize("family", TABLES)
@pytest.mark.parametrize("classes", [1, 3])
@torch.no_grad()
def test_people_equal_the_reference(family: str, classes: int) -> None:
    net = random_net(family, classes)
    nms = NmsInfo(candidates=80, max_people=80, rounds=40, class_aware=classes > 1 and not net.one_to_one)
    deployed = DeployedNet(net, nms)
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    thresholds = torch.full((3, 1), SCORE), torch.full((3, 1), IOU)
    found = deployed(torch.from_numpy(frames), *thresholds)
    reference = ReferenceEstimator(net, SCORE, IOU, 80, (64, 64))
    suppressed = 0
    for row, frame in enumerate(frames):
        expected = reference(frame)
        count = int(found.num_people[row])
        assert count == len(expected) > 2
        suppressed += expected.num_candidates - count
        np.testing.assert_allclose(found.scores[row, :count], expected.scores, atol=1e-4)
        boxes, keypoints = found.boxes[row, :count].numpy(), found.keypoints[row, :count, :, :2].numpy()
        apart = np.abs(expected.boxes[:, None] - boxes[None]).max(axis=2)
        same = apart.argmin(axis=1)  # equal scores may be in another order
        assert sorted(same) == list(range(count))
        assert apart.min(axis=1).max() < 1e-2
        np.testing.assert_allclose(keypoints[same], expected.keypoints, atol=1e-2)
        assert found.labels[row, same].tolist() == expected.labels.tolist()
        assert int(found.flags[row]) == 0
    assert (suppressed == 0) == net.one_to_one


@pytest.mark.parametrize("family", TABLES)
@torch.no_grad()
def test_bare_network_returns_head_rows(family: str) -> None:
    net = random_net(family, 2)
    rows = BareNet(net)(torch.rand(1, 3, 64, 64))
    boxes = 4 * net.config.table.head.bins  # type: ignore[union-attr]
    assert rows.shape == (1, boxes + 2 + 51, 64 + 16)
