from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolopose.benchmarks.tasks import load_people, save_people
from yolopose.runtime.result import PoseResult


def some_people(count: int, keypoints: int, seed: int) -> PoseResult:
    rng = np.random.default_rng(seed)
    return PoseResult(
        boxes=rng.normal(100, 50, (count, 4)),
        scores=np.sort(rng.random(count))[::-1],
        labels=rng.integers(0, 3, count),
        keypoints=rng.normal(100, 50, (count, keypoints, 2)),
        keypoint_scores=rng.random((count, keypoints)),
        num_candidates=int(rng.integers(0, 9000)),
        flags=int(rng.integers(0, 8)),
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 4), min_size=1, max_size=6), keypoints=st.integers(1, 5))
def test_people_come_back_bit_for_bit(tmp_path: Path, counts: list[int], keypoints: int) -> None:
    sent = [some_people(count, keypoints, seed) for seed, count in enumerate(counts)]
    save_people(tmp_path / "people.npz", sent)
    received = load_people(tmp_path / "people.npz")
    assert len(received) == len(sent)
    for before, after in zip(sent, received, strict=True):
        for name in ("boxes", "scores", "labels", "keypoints", "keypoint_scores"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
            assert getattr(after, name).dtype == getattr(before, name).dtype
        assert (after.num_candidates, after.flags) == (before.num_candidates, before.flags)


def test_nothing_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results"):
        save_people(tmp_path / "people.npz", [])
