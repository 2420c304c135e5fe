"""Image grids: size, positions of labels and predictions, any coordinates."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from yolopose.data.coco import read_coco
from yolopose.data.sample import Sample
from yolopose.data.synthetic import SyntheticScenes
from yolopose.runtime.images import read_image
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17
from yolopose.training.preview import grid, predictions_grid


def sample(people: int = 1, size_wh: tuple[int, int] = (200, 100), name: str = "a.jpg") -> Sample:
    keypoints = np.random.default_rng(0).uniform(10, 90, (people, 17, 3)).astype(np.float32)
    keypoints[..., 2] = np.arange(17) % 3
    return Sample(
        image=np.full((size_wh[1], size_wh[0], 3), 30, np.uint8),
        boxes=np.tile(np.array([[10, 10, 90, 90]], np.float32), (people, 1)),
        keypoints=keypoints,
        areas=np.full(people, 900, np.float32),
        labels=np.zeros(people, np.int64),
        crowd=np.zeros(people, bool),
        name=name,
    )


def test_grid_size(tmp_path: Path) -> None:
    samples = [sample(), sample(0), sample(3, (50, 300)), sample(2), sample()]
    sheet = read_image(grid(samples, COCO_17, tmp_path / "grid.png", columns=3, cell=120))
    assert sheet.shape == (2 * 120 + 2, 3 * 120 + 4, 3)
    assert read_image(grid(samples, COCO_17, tmp_path / "grid.jpg", columns=9, cell=64)).shape[:2] == (64, 5 * 66 - 2)


def test_labels_are_drawn_at_their_positions(tmp_path: Path) -> None:
    """An image of 200 x 100 in a cell of 100: coordinates are halved and 25 px lower."""
    one = sample(0)
    bare = read_image(grid([one], COCO_17, tmp_path / "bare.png", cell=100))
    box = np.array([[40, 20, 120, 60]], np.float32)
    keypoints = np.zeros((1, 17, 3), np.float32)
    one = replace(
        one, boxes=box, keypoints=keypoints, areas=np.ones(1, np.float32), labels=np.zeros(1, int),
        crowd=np.zeros(1, bool),
    )  # fmt: skip
    changed = np.argwhere((read_image(grid([one], COCO_17, tmp_path / "box.png", cell=100)) != bare).any(axis=2))
    np.testing.assert_allclose(changed.min(axis=0), (35, 20), atol=1)
    np.testing.assert_allclose(changed.max(axis=0), (55, 60), atol=1)
    keypoints[0, 5] = 100, 50, 2
    point = replace(one, boxes=np.zeros((1, 4), np.float32), keypoints=keypoints)
    changed = np.argwhere((read_image(grid([point], COCO_17, tmp_path / "p.png", cell=100)) != bare).any(axis=2))
    np.testing.assert_allclose(changed[changed[:, 0] > 30].mean(axis=0), (50, 50), atol=1)


def test_draws_coordinates_that_are_not_finite(tmp_path: Path) -> None:
    wild = sample(2, name="Größe/图.jpg")
    wild.boxes[0] = -1e30, np.nan, np.inf, 1e30
    wild.keypoints[0, :, 0] = np.inf
    wild.keypoints[1, :, 1] = -1e30
    wild.crowd[1] = True
    assert grid([wild], COCO_17, tmp_path / "wild.jpg").is_file()


def test_rejects_empty_grids_and_other_suffixes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 images"):
        grid([], COCO_17, tmp_path / "grid.jpg")
    with pytest.raises(ValueError, match="0 columns"):
        grid([sample()], COCO_17, tmp_path / "grid.jpg", columns=0)
    with pytest.raises(ValueError, match=r"grid\.gif"):
        grid([sample()], COCO_17, tmp_path / "grid.gif")


def test_predictions_are_right_of_the_labels(tmp_path: Path) -> None:
    labels = SyntheticScenes(4, (160, 120), seed=3, people=(0, 3)).save_coco(tmp_path)
    dataset = read_coco(labels, tmp_path / "images", COCO_17)
    nobody = {id: PoseResult.empty(17) for id in dataset.images}
    two = {
        id: PoseResult(
            np.array([[20, 20, 100, 100], [60, 20, 140, 100]], np.float32), np.array([0.2, 0.1], np.float32),
            np.zeros(2, np.int32), np.full((2, 17, 2), 50, np.float32), np.ones((2, 17), np.float32),
        )
        for id in dataset.images
    }  # fmt: skip
    sheets = []
    for name, results, threshold in (("none", nobody, 0.25), ("best", two, 0.25), ("both", two, 0.05)):
        path = predictions_grid(
            dataset, results, COCO_17, tmp_path / f"{name}.png", limit=3, cell=128, score_threshold=threshold
        )
        sheets.append(read_image(path))
    assert sheets[0].shape == (2 * 130 - 2, 4 * 130 - 2, 3)
    for before, after in pairwise(sheets):
        changed = (before != after).any(axis=2)
        assert changed[:, 130:258].any()  # the best person below the threshold, then the other one
        assert not changed[:, :128].any()  # labels are the same
