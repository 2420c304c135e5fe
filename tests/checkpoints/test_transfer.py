"""Renaming, filling and naming, with their limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import yolopose
from yolopose.checkpoints import transfer
from yolopose.checkpoints.archive import Document
from yolopose.checkpoints.transfer import MAX_KEYPOINTS
from yolopose.model.sizes import SIZES, build
from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import generic_skeleton

from .small_nets import saved, stored

NOWHERE = Document(Path("nowhere"), None, {}, "")


@given(st.floats(0.02, 3.0))
def test_depth_is_recovered_from_the_blocks(depth: float) -> None:
    config = replace(SIZES["yolox-pose-s"], depth=depth)
    found = transfer.depth_from_repeats(*config.repeats, NOWHERE)
    assert replace(config, depth=found).repeats == config.repeats


def test_rejects_an_impossible_depth() -> None:
    with pytest.raises(CheckpointError, match="stages of 5 and 1 blocks"):
        transfer.depth_from_repeats(5, 1, NOWHERE)


def test_class_names() -> None:
    assert transfer.class_names(1, NOWHERE) == ("person",)
    assert transfer.class_names(2, NOWHERE) == ("class_0", "class_1")
    assert transfer.class_names(2, NOWHERE, ["a", "b"]) == ("a", "b")
    assert transfer.class_names(2, NOWHERE, {0: "a", 1: "b"}) == ("a", "b")
    assert transfer.class_names(2, NOWHERE, ["a"]) == ("class_0", "class_1")
    assert transfer.class_names(1, NOWHERE, [7]) == ("person",)


def test_the_first_matching_rule_applies() -> None:
    rules = ((r"a\.(\d)\.", r"first.\1."), ("a", "second"))
    assert transfer.renamed("a.3.weight", rules) == "first.3.weight"
    assert transfer.renamed("ab", rules) == "secondb"
    assert transfer.renamed("b.a.3.weight", rules) is None


def test_generic_skeleton_has_no_limbs_and_no_mirror_pairs() -> None:
    skeleton = generic_skeleton(3)
    assert (skeleton.limbs, skeleton.flip_pairs, skeleton.flip_index) == ((), (), (0, 1, 2))
    assert build(replace(SIZES["yolox-pose-nano"], width=0.0625), skeleton).skeleton == skeleton


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_rejects_integer_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    state = stored(tmp_path)["state_dict"]
    weight = "backbone.stem.conv.conv.weight"
    state[weight] = state[weight].to(dtype)
    with pytest.raises(CheckpointError, match=rf"{weight} is {dtype}"):
        yolopose.load(saved(tmp_path, state_dict=state))


def test_counters_may_have_any_type(tmp_path: Path) -> None:
    state = {key: t.half() for key, t in stored(tmp_path)["state_dict"].items()}
    net = yolopose.load(saved(tmp_path, state_dict=state))
    counters = [t for key, t in net.state_dict().items() if key.endswith("num_batches_tracked")]
    assert {t.dtype for t in counters} == {torch.int64}


@pytest.mark.parametrize("count", [0, MAX_KEYPOINTS + 1])
def test_keypoints_and_classes_have_a_limit(count: int, tmp_path: Path) -> None:
    config = json.loads(stored(tmp_path)["config"])
    if count:
        points = [f"p{index}" for index in range(count)]
        skeleton = {"name": "x", "names": points, "flip_pairs": [], "limbs": [], "sigmas": [0.1] * count}
        with pytest.raises(CheckpointError, match=r"the network has 1001 keypoints; 1 to 1000 are supported"):
            yolopose.load(saved(tmp_path, config=json.dumps({**config, "skeleton": skeleton})))
    with pytest.raises(CheckpointError, match=r"class"):
        yolopose.load(saved(tmp_path, config=json.dumps({**config, "classes": ["x"] * count})))


def test_size_of_the_input_has_a_limit(tmp_path: Path) -> None:
    config = json.loads(stored(tmp_path)["config"])
    config["input"]["size"] = 32 << 20
    with pytest.raises(CheckpointError, match="pixels per side"):
        yolopose.load(saved(tmp_path, config=json.dumps(config)))
