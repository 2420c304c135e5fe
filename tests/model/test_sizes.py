"""Named sizes compared with the published figures, building from a config, and widening."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolopose.model.pose_net import PoseNet, gmacs, num_parameters
from yolopose.model.sizes import SIZES, build, named, widened
from yolopose.runtime.skeleton import generic_skeleton

from .tables import small_config


def shaped(name: str, **changes: object) -> PoseNet:
    """A network on the meta device: shapes only."""
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
NARROW = {
    name: replace(SIZES[name], width=width)
    for name, width in (
        ("yolox-pose-nano", 0.125),
        ("yolov5s6-pose-ti-lite", 0.125),
        ("yolov5s6-pose", 0.125),
        ("yolov7-w6-pose", 0.125),
    )
}


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
        # 80,238,452 in the repository: 2,632 of them are the implicit vectors, which loading folds into convolutions.
        ("yolov7-w6-pose", {}, 80_238_452 - 2_632, 51.12, 115.01),
    ],
)
def test_published_figures_of_yolov5(
    name: str, changes: dict[str, object], parameters: int, at_640: float, at_960: float
) -> None:
    net = shaped(name, **changes)
    assert num_parameters(net) == parameters
    # thop also counts the nearest-neighbor upsampling of some networks: 0.01 at most.
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
def test_published_figures_of_yolox(name: str, head: str, millions: float, side: int, expected: float) -> None:
    net = shaped(name, head=head)
    assert num_parameters(net) / 1e6 == pytest.approx(millions, abs=0.0051)
    assert thop_gmacs(net, side) == pytest.approx(expected, abs=0.006 if head == "edgeai" else 0.051)


def test_nano_has_a_quarter_of_the_width_and_no_depthwise_convolutions() -> None:
    net = shaped("yolox-pose-nano")
    assert (net.config.depth, net.config.width) == (0.33, 0.25)
    assert all(m.groups == 1 for m in net.modules() if isinstance(m, nn.Conv2d))


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


def test_build_rejects_invalid_configs() -> None:
    with pytest.raises(ValueError, match="no network called 'yolox-pose-xxl'"):
        build("yolox-pose-xxl")
    with pytest.raises(ValueError, match="anchors must be"):
        build(replace(SIZES["yolov5s6-pose"], anchors=()))
    with pytest.raises(ValueError, match="stem must be"):
        build(replace(SIZES["yolox-pose-s"], stem="other"))
    with pytest.raises(ValueError, match="focus stem"):
        build(replace(SIZES["yolox-pose-s"], focus_order="other"))
    with pytest.raises(ValueError, match="keypoint_branch"):
        build(replace(SIZES["yolov5s6-pose"], keypoint_branch="other"))


def test_names_of_published_sizes_are_recognized() -> None:
    for name, config in SIZES.items():
        assert named(replace(config, name="")).name == name
    assert named(replace(SIZES["yolox-pose-s"], width=0.4)).name == "yolox-pose-d0.33-w0.4"


def with_statistics(name: str) -> PoseNet:
    torch.manual_seed(0)
    net = build(NARROW[name])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("factor", [2, 3])
def test_widened_network_gives_the_same_outputs(name: str, factor: int) -> None:
    net = with_statistics(name)
    wide = widened(net, factor)
    assert wide.config.width == factor * 0.125
    assert sum(p.numel() for p in wide.parameters()) > 2 * sum(p.numel() for p in net.parameters())
    images = torch.rand(1, 3, 64, 64) * (255 if wide.input.scale == 1 else 1)
    with torch.no_grad():
        for before, after in zip(net(images), wide(images), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def test_copies_of_a_channel_get_unequal_weights() -> None:
    """With equal weights the copies would get equal gradients and stay equal."""
    wide = widened(with_statistics("yolox-pose-nano"), 2)
    weight = next(p for name, p in wide.named_parameters() if p.dim() == 4 and p.shape[1] >= 16)
    assert not torch.isclose(weight[:, 0::2], weight[:, 1::2]).any(dim=(1, 2, 3)).all()
    assert (weight[:, 0::2] * weight[:, 1::2] >= 0).all()


def test_widened_network_of_a_published_width_gets_its_name() -> None:
    net = build(SIZES["yolox-pose-nano"])
    assert widened(net.eval(), 2).config.name == "yolox-pose-s"


def test_rejects_what_cannot_be_widened() -> None:
    net = build(NARROW["yolox-pose-nano"])
    with pytest.raises(ValueError, match="at least 2, got 1"):
        widened(net, 1)
    with pytest.raises(ValueError, match="cannot be widened"):
        widened(build(small_config("yolov8-pose")), 2)
    uneven = build(replace(SIZES["yolov5s6-pose-ti-lite"], width=0.1))
    with pytest.raises(ValueError, match=r"cannot widen by 2: .* in the wider network"):
        widened(uneven, 2)
