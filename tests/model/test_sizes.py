"""Sizes of the networks against the figures of their authors, and configurations."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolopose.checkpoints.transfer import generic_skeleton
from yolopose.model.config import NetConfig
from yolopose.model.pose_net import PoseNet, gmacs, num_parameters
from yolopose.model.sizes import SIZES, build, named
from yolopose.runtime.skeleton import LSP_14


def shaped(name: str, **changes: object) -> PoseNet:
    """A network without memory: shapes only."""
    with torch.device("meta"):
        return build(replace(SIZES[name], **changes))


def thop_gmacs(net: PoseNet, side: int) -> float:
    """The convention of the published figures: convolutions, plus four for every output of a batch norm."""
    outputs = 0

    def count(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal outputs
        outputs += output.numel()

    hooks = [m.register_forward_hook(count) for m in net.eval().modules() if isinstance(m, nn.BatchNorm2d)]
    net(torch.zeros(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return gmacs(net, (side, side)) + 4 * outputs / 1e9


PLAIN = {"keypoint_branch": "plain"}


@pytest.mark.parametrize(
    ("name", "changes", "parameters", "at_640", "at_960"),
    [
        ("yolov5s6-pose", {}, 15_114_860, 10.26, 23.08),
        ("yolov5m6-pose", PLAIN, 35_755_404, 26.15, 58.84),
        ("yolov5m6-pose", {}, 41_430_924, 29.68, 66.78),
        ("yolov5l6-pose", PLAIN, 77_047_852, 58.84, 132.40),
        ("yolov5l6-pose", {}, 87_072_812, 65.02, 146.30),
        ("yolov5s6-pose-ti-lite", {}, 12_560_328, 8.68, 19.53),
        ("yolov5m6-pose-ti-lite", {}, 35_755_752, 26.19, 58.93),
        # 80,238,452 in the repository: 2,632 of them are the implicit vectors, which loading folds away.
        ("yolov7-w6-pose", {}, 80_238_452 - 2_632, 51.12, 115.01),
    ],
)
def test_paper_family(name: str, changes: dict[str, object], parameters: int, at_640: float, at_960: float) -> None:
    net = shaped(name, **changes)
    assert num_parameters(net) == parameters
    # thop also counts the nearest-neighbour up-sampling of some networks: 0.01 at most.
    assert thop_gmacs(net, 640) == pytest.approx(at_640, abs=0.011)
    assert thop_gmacs(net, 960) == pytest.approx(at_960, abs=0.022)


def test_legacy_layout_costs_the_same() -> None:
    new, legacy = (shaped("yolov5s6-pose", legacy_layout=flag) for flag in (False, True))
    assert num_parameters(new) == num_parameters(legacy)
    assert gmacs(new, (640, 640)) == gmacs(legacy, (640, 640))


@pytest.mark.parametrize(
    ("name", "head", "millions", "side", "expected"),
    [
        ("yolox-pose-tiny", "edgeai", 5.55, 640, 9.06),
        ("yolox-pose-tiny", "edgeai", 5.55, 416, 3.83),
        ("yolox-pose-s", "edgeai", 9.84, 640, 15.92),
        ("yolox-pose-m", "edgeai", 27.30, 640, 42.53),
        ("yolox-pose-l", "edgeai", 57.73, 640, 87.87),
        ("yolox-pose-tiny", "mmpose", 6.05, 416, 4.4),
        ("yolox-pose-s", "mmpose", 10.73, 640, 18.4),
        ("yolox-pose-m", "mmpose", 29.30, 640, 48.1),
        ("yolox-pose-l", "mmpose", 61.27, 640, 97.8),
    ],
)
def test_yolox_family(name: str, head: str, millions: float, side: int, expected: float) -> None:
    net = shaped(name, head=head)
    assert num_parameters(net) / 1e6 == pytest.approx(millions, abs=0.0051)
    assert thop_gmacs(net, side) == pytest.approx(expected, abs=0.006 if head == "edgeai" else 0.051)


def test_nano_is_a_quarter_wide_and_dense() -> None:
    net = shaped("yolox-pose-nano")
    assert (net.config.depth, net.config.width) == (0.33, 0.25)
    assert all(m.groups == 1 for m in net.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("name", SIZES)
def test_config_survives_json(name: str) -> None:
    config = replace(SIZES[name], skeleton=LSP_14, classes=("a", "b"))
    assert NetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@given(
    name=st.sampled_from(("yolox-pose-nano", "yolov5s6-pose", "yolov5s6-pose-ti-lite", "yolov7-w6-pose")),
    keypoints=st.integers(1, 40),
    classes=st.integers(1, 9),
    head=st.sampled_from(("mmpose", "edgeai")),
    legacy=st.booleans(),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=25, deadline=None)
def test_any_number_of_keypoints_and_classes(
    name: str, keypoints: int, classes: int, head: str, legacy: bool, cells: tuple[int, int]
) -> None:
    config = replace(SIZES[name], width=0.0625)
    if config.head == "anchor":
        config, shapes = replace(config, legacy_layout=legacy), 3
    else:
        config, shapes = replace(config, head=head), 1
    net = build(config, generic_skeleton(keypoints), tuple(f"class{i}" for i in range(classes))).eval()
    height, width = (config.input.multiple * n for n in cells)
    strides = (8, 16, 32, 64) if shapes == 3 else (8, 16, 32)
    count = shapes * sum((height // s) * (width // s) for s in strides)
    with torch.no_grad():
        out = net(torch.zeros(2, 3, height, width))
    assert out.boxes.shape == (2, count, 4)
    assert out.scores.shape == (2, count, classes)
    assert out.keypoints.shape == (2, count, keypoints, 2)
    assert out.keypoint_scores.shape == (2, count, keypoints)
    assert all(torch.isfinite(part).all() for part in out)
    assert (out.boxes[..., 2:] > out.boxes[..., :2]).all()


def test_wrong_configurations() -> None:
    good = SIZES["yolox-pose-s"]
    for change in (
        {"family": "other"},
        {"head": "anchor"},
        {"depth": 0.0},
        {"width": float("nan")},
        {"activation": "tanh"},
        {"classes": ()},
    ):
        with pytest.raises(ValueError, match=r".+"):
            replace(good, **change)
    with pytest.raises(ValueError, match="no network called 'yolox-pose-xxl'"):
        build("yolox-pose-xxl")
    with pytest.raises(ValueError, match="anchors must be"):
        build(replace(SIZES["yolov5s6-pose"], anchors=()))
    with pytest.raises(ValueError, match="stem must be"):
        build(replace(good, stem="other"))
    with pytest.raises(ValueError, match="focus stem"):
        build(replace(good, focus_order="other"))
    with pytest.raises(ValueError, match="keypoint_branch"):
        build(replace(SIZES["yolov5s6-pose"], keypoint_branch="other"))


def test_published_sizes_get_their_name_back() -> None:
    for name, config in SIZES.items():
        assert named(replace(config, name="")).name == name
    assert named(replace(SIZES["yolox-pose-s"], width=0.4)).name == "yolox-pose-d0.33-w0.4"
