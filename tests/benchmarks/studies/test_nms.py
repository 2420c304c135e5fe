"""The depth of suppression chains, which decides how many rounds the graph gets."""

from __future__ import annotations

import numpy as np
import pytest

from yolopose.benchmarks.studies.nms import rounds_to_settle


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_a_chain_settles_one_link_a_round(count: int) -> None:
    left = np.arange(count, dtype=np.float32) * 30
    boxes = np.stack([left, 0 * left, left + 100, 0 * left + 100], axis=1)  # each overlaps its neighbours alone
    assert rounds_to_settle(boxes, 0.5) == max(count - 1, 0)


def test_boxes_apart_and_copies_of_one() -> None:
    apart = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [100, 0, 110, 10]], np.float32)
    assert rounds_to_settle(apart, 0.5) == 0
    assert rounds_to_settle(np.repeat(apart[:1], 5, axis=0), 0.5) == 1
