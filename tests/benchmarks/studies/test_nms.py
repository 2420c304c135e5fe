"""The depth of suppression chains, which determines how many rounds the graph gets."""

from __future__ import annotations

import numpy as np
import pytest

from yolopose.benchmarks.studies.nms import rounds_to_converge


@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_each_round_resolves_one_link_of_a_chain(count: int) -> None:
    left = np.arange(count, dtype=np.float32) * 30
    boxes = np.stack([left, 0 * left, left + 100, 0 * left + 100], axis=1)  # each overlaps only its neighbors
    assert rounds_to_converge(boxes, 0.5) == max(count - 1, 0)


def test_rounds_of_separate_boxes_and_of_copies() -> None:
    apart = np.array([[0, 0, 10, 10], [50, 0, 60, 10], [100, 0, 110, 10]], np.float32)
    assert rounds_to_converge(apart, 0.5) == 0
    assert rounds_to_converge(np.repeat(apart[:1], 5, axis=0), 0.5) == 1
