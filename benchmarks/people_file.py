"""People of many images in one .npz file: how results travel from the child process that found them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime.result import PoseResult

_ARRAYS = ("boxes", "scores", "labels", "keypoints", "keypoint_scores")


def save_people(path: Path, results: Sequence[PoseResult]) -> None:
    """Rows of all images one after the other, with the number of people of each image; nothing is rounded."""
    if not results:
        raise ValueError("no results to save")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(people, name) for people in results]) for name in _ARRAYS}
    arrays["people"] = np.array([len(people) for people in results], dtype=np.int64)
    arrays["num_candidates"] = np.array([people.num_candidates for people in results], dtype=np.int64)
    arrays["flags"] = np.array([people.flags for people in results], dtype=np.int64)
    np.savez(path, **arrays)


def load_people(path: Path) -> list[PoseResult]:
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    ends = np.cumsum(stored["people"])
    return [
        PoseResult(
            **{name: stored[name][end - count : end] for name in _ARRAYS},
            num_candidates=int(candidates),
            flags=int(flags),
        )
        for count, end, candidates, flags in zip(
            stored["people"], ends, stored["num_candidates"], stored["flags"], strict=True
        )
    ]
