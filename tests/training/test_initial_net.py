"""The network that a training begins with: which weights of a checkpoint are taken over."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import yolopose
from tests.training.small import CONFIGS, SIZE, small_net
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import SIZES, build
from yolopose.runtime.skeleton import COCO_17, LSP_14, generic_skeleton
from yolopose.training.initial_net import InitialNet, check_size, initial_config, initial_net


def start(given: PoseNet | None = None, model: str | None = None, skeleton: yolopose.Skeleton = COCO_17) -> InitialNet:
    return initial_net(initial_config(model, given), given, skeleton, ("person",), SIZE, seed=0)


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", CONFIGS["yolox"])
    monkeypatch.setitem(SIZES, "tiny-p6", CONFIGS["yolov5"])


@pytest.mark.parametrize("family", ["yolox", "yolov5"])
def test_other_keypoint_number_replaces_only_keypoint_predictions(family: str) -> None:
    given = small_net(family, seed=1)
    net, taken, fresh = start(given, skeleton=LSP_14)
    assert fresh
    assert all("keypoint" in name or "visibility" in name for name in fresh), fresh
    assert all("predictions" in name for name in fresh), fresh
    theirs, mine = given.state_dict(), net.state_dict()
    assert taken + len(fresh) == len(mine)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if name not in fresh)
    assert net.skeleton == LSP_14
    assert net.training


def test_same_network_takes_all_tensors() -> None:
    given = small_net(seed=1)
    given.weights_licence = "of its own"
    net, taken, fresh = start(given, "tiny")
    assert (taken, fresh) == (len(given.state_dict()), [])
    assert net.weights_licence == "of its own"


def test_other_size_of_the_family_takes_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    deeper = replace(CONFIGS["yolox"], name="deeper", depth=0.67)
    monkeypatch.setitem(SIZES, "deeper", deeper)
    given = small_net(seed=1)
    net, taken, fresh = start(given, "deeper")
    assert net.config.depth == 0.67
    assert taken > 0
    assert fresh


def test_takes_the_input_and_anchors_that_weights_expect() -> None:
    """Tensor shapes are equal, but channel order, scale and anchors differ."""
    config = replace(
        CONFIGS["yolov5"], legacy_layout=True, focus_order="rows", input=replace(CONFIGS["yolov5"].input, scale=1.0),
        anchors=tuple(tuple((w + 1.0, h) for w, h in level) for level in CONFIGS["yolov5"].anchors),
    )  # fmt: skip
    given = build(config)
    net, _, fresh = start(given, "tiny-p6")
    assert fresh == []
    assert replace(net.config, name=config.name) == config
    images = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        for ours, theirs in zip(net.eval()(images), given.eval()(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_rejects_weights_of_another_family() -> None:
    with pytest.raises(ValueError, match=r"weights are of a yolox-pose network \(tiny\).*leave --model out"):
        initial_config("tiny-p6", small_net())


def test_rejects_weights_of_which_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(CONFIGS["yolox"], name="wide", width=0.125)
    given = build(replace(CONFIGS["yolox"], head="edgeai"))
    monkeypatch.setattr(given, "state_dict", lambda: {"other": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="nothing in the weights of tiny fits wide"):
        initial_net(wide, given, COCO_17, ("person",), SIZE, seed=0)


@pytest.mark.parametrize("model", [None, "yolox-pose-xxl"])
def test_rejects_missing_and_unknown_models(model: str | None) -> None:
    with pytest.raises(ValueError, match=r"yolox-pose-nano, .*yolov7-w6-pose"):
        initial_config(model, None)


@pytest.mark.parametrize(("family", "size"), [("yolox", 80), ("yolox", 0), ("yolox", -32), ("yolov5", 96)])
def test_rejects_sizes_that_are_no_multiple_of_the_coarsest_stride(family: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"--imgsz must be a multiple of (32|64) for tiny.*, got {size}"):
        check_size("--imgsz", size, CONFIGS[family])


def test_seed_decides_new_weights_and_leaves_the_global_generator() -> None:
    config = initial_config("tiny", None)
    state = torch.get_rng_state()
    nets = [initial_net(config, None, COCO_17, ("person",), SIZE, seed).net.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert not all(torch.equal(nets[0][name], nets[2][name]) for name in nets[0])


def test_demo_weights() -> None:
    demo = yolopose.load("demo")
    net, taken, fresh = start(demo, skeleton=LSP_14)
    assert taken > 200
    assert net.skeleton == LSP_14
    assert net.config.family == demo.config.family
    assert all("keypoint" in name or "visibility" in name for name in fresh), fresh


def test_other_keypoints_of_the_same_number_get_new_predictions() -> None:
    """Weights of the left wrist must not be used for the right hip because both are the seventh keypoint."""
    turned = replace(LSP_14, name="turned", names=LSP_14.names[::-1], flip_pairs=(), limbs=())
    given = small_net("yolox", seed=1)
    given = initial_net(given.config, None, turned, ("person",), SIZE, seed=1).net
    _, _, fresh = start(given, skeleton=LSP_14)
    assert fresh
    assert all(name.startswith(("head.keypoint_predictions.", "head.visibility_predictions.")) for name in fresh)
    nameless = initial_net(given.config, None, generic_skeleton(14), ("person",), SIZE, seed=1).net
    assert start(nameless, skeleton=LSP_14).fresh == []
