"""Small rules of reading other code bases' weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.checkpoints import transfer
from yolopose.checkpoints.archive import Document
from yolopose.model.sizes import SIZES, build
from yolopose.runtime.errors import CheckpointError

NOWHERE = Document(Path("nowhere"), None, {}, "")


@given(st.floats(0.02, 3.0))
def test_depth_is_found_again_from_the_blocks(depth: float) -> None:
    config = replace(SIZES["yolox-pose-s"], depth=depth)
    found = transfer.depth_from_repeats(*config.repeats, NOWHERE)
    assert replace(config, depth=found).repeats == config.repeats


def test_impossible_depth() -> None:
    with pytest.raises(CheckpointError, match="5 and 1 blocks"):
        transfer.depth_from_repeats(5, 1, NOWHERE)


def test_class_names() -> None:
    assert transfer.class_names(1, NOWHERE) == ("person",)
    assert transfer.class_names(2, NOWHERE) == ("class_0", "class_1")
    assert transfer.class_names(2, NOWHERE, ["a", "b"]) == ("a", "b")
    assert transfer.class_names(2, NOWHERE, {0: "a", 1: "b"}) == ("a", "b")
    assert transfer.class_names(2, NOWHERE, ["a"]) == ("class_0", "class_1")
    assert transfer.class_names(1, NOWHERE, [7]) == ("person",)


def test_rules_take_the_first_that_fits() -> None:
    rules = ((r"a\.(\d)\.", r"first.\1."), ("a", "second"))
    assert transfer.renamed("a.3.weight", rules) == "first.3.weight"
    assert transfer.renamed("ab", rules) == "secondb"
    assert transfer.renamed("b.a.3.weight", rules) is None


def test_generic_skeleton_has_no_meaning() -> None:
    skeleton = transfer.generic_skeleton(3)
    assert (skeleton.limbs, skeleton.flip_pairs, skeleton.flip_index) == ((), (), (0, 1, 2))
    assert build(replace(SIZES["yolox-pose-nano"], width=0.0625), skeleton).skeleton == skeleton
