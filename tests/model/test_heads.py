"""Heads: decoding compared with hand-computed values, channel layouts, gathering before decoding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.model.heads import priors_of_level
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import SIZES, build

from .tables import small_config

KINDS = {
    "mmpose": replace(SIZES["yolox-pose-nano"], width=0.0625),
    "edgeai": replace(SIZES["yolox-pose-nano"], width=0.0625, head="edgeai"),
    "anchor": replace(SIZES["yolov5s6-pose"], width=0.0625),
    "legacy": replace(SIZES["yolov5s6-pose"], width=0.0625, legacy_layout=True),
}


def net_of(kind: str) -> PoseNet:
    torch.manual_seed(3)
    return build(KINDS[kind]).eval()


def test_priors_are_ordered_row_by_row() -> None:
    grid = priors_of_level(2, 3, (8, 19.0, 27.0), torch.zeros(1))
    assert grid.shape == (1, 5, 6)
    assert grid[0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert grid[0, 1].tolist() == [0, 0, 0, 1, 1, 1]
    assert grid[0, 2:, 0].tolist() == [8, 19, 27]


def test_anchor_head_decodes_as_computed_by_hand() -> None:
    head = net_of("anchor").head
    priors = torch.tensor([[[3.0], [5.0], [16.0], [96.0], [68.0]]])
    raw = torch.tensor([[[0.0], [1.0], [-1.0], [2.0]]])
    s = [1 / (1 + math.exp(-value)) for value in (0.0, 1.0, -1.0, 2.0)]
    cx, cy = (2 * s[0] - 0.5 + 3) * 16, (2 * s[1] - 0.5 + 5) * 16
    w, h = (2 * s[2]) ** 2 * 96, (2 * s[3]) ** 2 * 68
    expected = torch.tensor([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    torch.testing.assert_close(head.decode_boxes(raw, priors)[0, :, 0], expected)
    keypoints = torch.zeros(1, 51, 1)
    keypoints[0, 3:6, 0] = torch.tensor([-4.0, 7.0, 2.0])
    xy, scores = head.decode_keypoints(keypoints, priors)
    assert xy[0, 1, :, 0].tolist() == [(2 * -4 - 0.5 + 3) * 16, (2 * 7 - 0.5 + 5) * 16]
    assert scores[0, 1, 0] == pytest.approx(1 / (1 + math.exp(-2)))


def test_anchor_free_heads_decode_as_computed_by_hand() -> None:
    priors = torch.tensor([[[3.0], [5.0], [16.0]]])
    raw = torch.tensor([[[0.5], [-0.5], [0.0], [1.0]]])
    expected = torch.tensor([56.0 - 8, 72.0 - 8 * math.e, 56.0 + 8, 72.0 + 8 * math.e])
    keypoints = torch.zeros(1, 51, 1)
    for kind in ("mmpose", "edgeai"):
        head = net_of(kind).head
        torch.testing.assert_close(head.decode_boxes(raw, priors)[0, :, 0], expected)
    mmpose, edgeai = net_of("mmpose").head, net_of("edgeai").head
    keypoints[0, 2:4, 0], keypoints[0, 35, 0] = torch.tensor([-4.0, 7.0]), 2.0
    xy, scores = mmpose.decode_keypoints(keypoints, priors)
    assert xy[0, 1, :, 0].tolist() == [-16.0, 192.0]
    assert scores[0, 1, 0] == pytest.approx(1 / (1 + math.exp(-2)))
    keypoints = torch.zeros(1, 51, 1)
    keypoints[0, 3:6, 0] = torch.tensor([-4.0, 7.0, 0.3])
    xy, scores = edgeai.decode_keypoints(keypoints, priors)
    assert xy[0, 1, :, 0].tolist() == [(2 * -4 - 0.5 + 3) * 16, (2 * 7 - 0.5 + 5) * 16]
    assert scores[0, 1, 0] == pytest.approx(1 / (1 + math.exp(-(2 * 0.3 - 0.5) * 16)))


def test_distance_head_decodes_as_computed_by_hand() -> None:
    """One cell at column 2, row 1, stride 8."""
    priors = torch.tensor([2.0, 1.0, 8.0]).view(1, 3, 1)
    raw = torch.tensor([0.5, -0.25, 0.0]).repeat(17).view(1, 51, 1)
    plain, half = build(small_config("yolov8-pose")).head, build(small_config("yolo26-pose")).head
    assert plain.decode_keypoints(raw, priors)[0][0, 0, :, 0].tolist() == [(1.0 + 2) * 8, (-0.5 + 1) * 8]
    assert half.decode_keypoints(raw, priors)[0][0, 0, :, 0].tolist() == [(0.5 + 2.5) * 8, (-0.25 + 1.5) * 8]
    assert plain.decode_keypoints(raw, priors)[1][0, 0, 0].item() == 0.5
    box = torch.tensor([1.0, 0.5, 2.0, 0.25]).view(1, 4, 1)  # left, top, right, bottom in strides
    assert half.decode_boxes(box, priors)[0, :, 0].tolist() == [1.5 * 8, 1.0 * 8, 4.5 * 8, 1.75 * 8]
    bins = torch.full((4, 16), -50.0)
    bins[0, 1] = bins[1, 0] = bins[1, 1] = bins[2, 2] = bins[3, 15] = 50.0  # 1; between 0 and 1; 2; 15
    found = plain.decode_boxes(bins.view(1, 64, 1), priors)[0, :, 0]
    assert found.tolist() == [1.5 * 8, 1.0 * 8, 4.5 * 8, 16.5 * 8]


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
@torch.no_grad()
def test_gathering_before_decoding_gives_the_same(kind: str, data: st.DataObject) -> None:
    """Any subset of anchors, different for each image, decodes to the values that decoding all anchors gives."""
    net = net_of(kind)
    raw = net.head(net.features(torch.rand(2, 3, 64, 128)))
    count = raw.boxes.shape[2]
    picks = data.draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), min_size=1, max_size=5))
    index = torch.tensor(picks).T  # (2, n)

    def pick(rows: torch.Tensor) -> torch.Tensor:
        rows = rows.expand(2, -1, -1)
        return rows.gather(2, index[:, None].expand(-1, rows.shape[1], -1))

    some_xy, some_scores = net.head.decode_keypoints(pick(raw.keypoints), pick(raw.priors))
    all_xy, all_scores = net.head.decode_keypoints(raw.keypoints, raw.priors)
    # Vectorized exp and sigmoid may differ in the last bit with the position of a value.
    torch.testing.assert_close(some_scores, pick(all_scores))
    torch.testing.assert_close(some_xy.flatten(1, 2), pick(all_xy.flatten(1, 2)))
    torch.testing.assert_close(
        net.head.decode_boxes(pick(raw.boxes), pick(raw.priors)), pick(net.head.decode_boxes(raw.boxes, raw.priors))
    )
    torch.testing.assert_close(
        net.head.scores(pick(raw.objectness), pick(raw.classes)), pick(net.head.scores(raw.objectness, raw.classes))
    )


@torch.no_grad()
def test_legacy_layout_cuts_the_concatenated_branches() -> None:
    """Channel g of the concatenated branches is row g mod 57 of anchor g div 57."""
    net = net_of("legacy")
    head = net.head
    features = net.features(torch.rand(1, 3, 64, 64))
    raw = head(features)
    x = features[3]  # 1 x 1 cell
    stack = torch.cat((head.box_predictions[3](x), head.keypoint_predictions[3](head.keypoint_towers[3](x))), dim=1)
    rows = torch.cat((raw.boxes, raw.objectness, raw.classes, raw.keypoints), dim=1)[0, :, -3:]
    torch.testing.assert_close(rows.T.flatten(), stack.flatten())


def test_new_networks_have_a_prior_on_every_objectness_channel() -> None:
    for kind in ("anchor", "legacy"):
        head = net_of(kind).head
        for level, stride in enumerate((8, 16, 32, 64)):
            boxes, keypoints = head.box_predictions[level].bias, head.keypoint_predictions[level].bias
            if kind == "legacy":
                rows = torch.cat((boxes, keypoints)).view(3, 57)
            else:
                rows = torch.cat((boxes.view(3, 6), keypoints.view(3, 51)), dim=1)
            assert rows[:, 4].tolist() == pytest.approx([math.log(8 / (640 / stride) ** 2)] * 3)
            assert rows[:, 5].tolist() == pytest.approx([math.log(0.6 / 0.01)] * 3)
            assert set(rows[:, 6:].view(3, 17, 3)[..., :2].flatten().tolist()) == {0.25}
            assert set(rows[:, 6:].view(3, 17, 3)[..., 2].flatten().tolist()) == {0.0}
