"""What a training takes over from a checkpoint, and what it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import yolopose
from tests.training.small import CONFIGS, SIZE, small_net
from yolopose.model.pose_net import PoseNet
from yolopose.model.sizes import SIZES, build
from yolopose.runtime.skeleton import COCO_17, LSP_14, generic_skeleton
from yolopose.training.run import Start, check_size, initial_net, starting_config


def start(given: PoseNet | None = None, model: str | None = None, skeleton: yolopose.Skeleton = COCO_17) -> Start:
    return initial_net(starting_config(model, given), given, skeleton, ("person",), SIZE, seed=0)


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIZES, "tiny", CONFIGS["yolox"])
    monkeypatch.setitem(SIZES, "tiny-p6", CONFIGS["yolov5"])


@pytest.mark.parametrize("family", ["yolox", "yolov5"])
def test_another_number_of_keypoints_keeps_all_but_their_predictions(family: str) -> None:
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


def test_the_same_network_takes_everything() -> None:
    given = small_net(seed=1)
    given.weights_licence = "of its own"
    net, taken, fresh = start(given, "tiny")
    assert (taken, fresh) == (len(given.state_dict()), [])
    assert net.weights_licence == "of its own"


def test_a_size_of_the_same_family_takes_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    deeper = replace(CONFIGS["yolox"], name="deeper", depth=0.67)
    monkeypatch.setitem(SIZES, "deeper", deeper)
    given = small_net(seed=1)
    net, taken, fresh = start(given, "deeper")
    assert net.config.depth == 0.67
    assert taken > 0
    assert fresh


def test_weights_keep_their_meaning() -> None:
    """Tensors of equal shapes, but other channels: what the weights expect comes along."""
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


def test_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weights are of a yolox-pose network \(tiny\).*leave --model out"):
        starting_config("tiny-p6", small_net())


def test_weights_of_which_nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = replace(CONFIGS["yolox"], name="wide", width=0.125)
    given = build(replace(CONFIGS["yolox"], head="edgeai"))
    monkeypatch.setattr(given, "state_dict", lambda: {"other": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="nothing in the weights of tiny fits wide"):
        initial_net(wide, given, COCO_17, ("person",), SIZE, seed=0)


@pytest.mark.parametrize("model", [None, "yolox-pose-xxl"])
def test_a_network_must_be_named(model: str | None) -> None:
    with pytest.raises(ValueError, match=r"yolox-pose-nano, .*yolov7-w6-pose"):
        starting_config(model, None)


@pytest.mark.parametrize(("family", "size"), [("yolox", 80), ("yolox", 0), ("yolox", -32), ("yolov5", 96)])
def test_sizes_are_multiples_of_the_coarsest_stride(family: str, size: int) -> None:
    with pytest.raises(ValueError, match=rf"--imgsz must be a multiple of (32|64) for tiny.*, got {size}"):
        check_size("--imgsz", size, CONFIGS[family])


def test_the_seed_decides_new_weights_and_nothing_else() -> None:
    config = starting_config("tiny", None)
    state = torch.get_rng_state()
    nets = [initial_net(config, None, COCO_17, ("person",), SIZE, seed).net.state_dict() for seed in (0, 0, 1)]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert not all(torch.equal(nets[0][name], nets[2][name]) for name in nets[0])


def test_the_demo_network() -> None:
    demo = yolopose.load("demo")
    net, taken, fresh = start(demo, skeleton=LSP_14)
    assert taken > 200
    assert net.skeleton == LSP_14
    assert net.config.family == demo.config.family
    assert all("keypoint" in name or "visibility" in name for name in fresh), fresh


def test_other_points_of_the_same_number_begin_anew() -> None:
    """Rows of the left wrist must not become those of the right hip because both are the seventh."""
    turned = replace(LSP_14, name="turned", names=LSP_14.names[::-1], flip_pairs=(), limbs=())
    given = small_net("yolox", seed=1)
    given = initial_net(given.config, None, turned, ("person",), SIZE, seed=1).net
    _, _, fresh = start(given, skeleton=LSP_14)
    assert fresh
    assert all(name.startswith(("head.keypoint_predictions.", "head.visibility_predictions.")) for name in fresh)
    nameless = initial_net(given.config, None, generic_skeleton(14), ("person",), SIZE, seed=1).net
    assert start(nameless, skeleton=LSP_14).fresh == []
