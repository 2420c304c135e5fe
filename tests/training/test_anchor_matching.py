"""Anchor matching against a slow loop written from its description."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolopose.data.batch import People
from yolopose.model.heads import priors_of_level
from yolopose.model.sizes import COCO_P6_ANCHORS
from yolopose.training.anchor_loss import AnchorMatches, level_sizes, match_anchors

STRIDES = (8, 16, 32, 64)
SHAPES = torch.tensor(COCO_P6_ANCHORS)


def priors(height: int, width: int) -> Tensor:
    parts = [
        priors_of_level(height // stride, width // stride, (stride, *shape), SHAPES)
        for stride, shapes in zip(STRIDES, COCO_P6_ANCHORS, strict=True)
        for shape in shapes
    ]
    return torch.cat(parts, dim=2)


def people(*pictures: list[tuple[float, ...]], crowd: tuple[tuple[int, int], ...] = ()) -> People:
    """People of xyxy boxes, in each picture as many rows as in the fullest; no keypoints."""
    most = max((len(boxes) for boxes in pictures), default=0)
    boxes, valid = torch.zeros(len(pictures), most, 4), torch.zeros(len(pictures), most, dtype=torch.bool)
    ignore = torch.zeros_like(valid)
    for image, rows in enumerate(pictures):
        for row, box in enumerate(rows):
            boxes[image, row] = torch.tensor(box)
            ignore[image, row] = (image, row) in crowd
            valid[image, row] = (image, row) not in crowd
    shape = boxes.shape[:2]
    return People(
        boxes, torch.zeros(*shape, 17, 2), torch.zeros(*shape, 17, dtype=torch.bool), torch.zeros(shape),
        torch.zeros(shape, dtype=torch.int64), valid, ignore,
    )  # fmt: skip


def matched(people: People, size: tuple[int, int] = (128, 192)) -> AnchorMatches:
    grid = priors(*size)
    return match_anchors(people, SHAPES, torch.tensor(STRIDES, dtype=torch.float32), level_sizes(grid, STRIDES))


def claims_of(box: list[float], size: tuple[int, int]) -> dict[tuple[int, int, int, int], bool]:
    """(level, shape, row, column) that a person claims -> whether it is its home; written from the docstring."""
    x1, y1, x2, y2 = box
    w, h = max(x2 - x1, 1e-3), max(y2 - y1, 1e-3)
    fit = {
        (level, shape): max(w / aw, aw / w, h / ah, ah / h)
        for level, shapes in enumerate(COCO_P6_ANCHORS)
        for shape, (aw, ah) in enumerate(shapes)
    }
    best = min(fit, key=lambda key: fit[key])
    claims = {}
    for (level, shape), worst in fit.items():
        if worst >= 4 and (level, shape) != best:
            continue
        rows, columns = size[0] // STRIDES[level], size[1] // STRIDES[level]
        gx = min(max((x1 + x2) / 2 / STRIDES[level], 0), columns)
        gy = min(max((y1 + y2) / 2 / STRIDES[level], 0), rows)
        column, row = min(math.floor(gx), columns - 1), min(math.floor(gy), rows - 1)
        claims[level, shape, row, column] = (level, shape) == best
        if gx - column != 0.5:
            claims.setdefault((level, shape, row, column + (1 if gx - column > 0.5 else -1)), False)
        if gy - row != 0.5:
            claims.setdefault((level, shape, row + (1 if gy - row > 0.5 else -1), column), False)
        for key in list(claims):
            if key[:2] == (level, shape) and not (0 <= key[2] < rows and 0 <= key[3] < columns):
                del claims[key]
    return claims


def index_of(key: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    level, shape, row, column = key
    cells = [(size[0] // stride) * (size[1] // stride) for stride in STRIDES]
    return 3 * sum(cells[:level]) + shape * cells[level] + row * (size[1] // STRIDES[level]) + column


# In quarters of a pixel, so that float32 and the loop's float64 see the same centres.
coordinate = st.one_of(st.integers(-4, 52).map(lambda n: n * 4.0), st.integers(-80, 880).map(lambda n: n / 4))
length = st.one_of(st.sampled_from([0.0, 0.5, 16.0, 38.0, 76.0, 700.0]), st.integers(0, 800).map(lambda n: n / 4))
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), coordinate, coordinate, length, length)
sizes = st.sampled_from([(64, 64), (128, 192), (192, 128)])


@settings(deadline=None)
@given(st.lists(st.lists(boxes, max_size=4), min_size=1, max_size=3), sizes)
def test_like_the_slow_loop(pictures: list[list[tuple[float, ...]]], size: tuple[int, int]) -> None:
    labels = people(*pictures)
    claimed: dict[tuple[int, int], set[int]] = {}
    homes: dict[tuple[int, int], set[int]] = {}
    for image, rows in enumerate(pictures):
        for row in range(len(rows)):
            for key, home in claims_of(labels.boxes[image, row].double().tolist(), size).items():
                claimed.setdefault((image, index_of(key, size)), set()).add(row)
                if home:
                    homes.setdefault((image, index_of(key, size)), set()).add(row)
    found = {(i, n): g for i, n, g in zip(*(part.tolist() for part in matched(labels, size)), strict=True)}
    assert found.keys() == claimed.keys()
    for key, row in found.items():
        assert row in homes.get(key, claimed[key])


@settings(deadline=None)
@given(st.lists(boxes, min_size=1, max_size=6))
def test_nobody_is_left_out(rows: list[tuple[float, ...]]) -> None:
    """But for those whose best shape at the same cell is taken by somebody else."""
    labels = people(rows)
    matches = matched(labels)
    for row in set(range(len(rows))) - set(matches.people.tolist()):
        homes = [
            {key for key, home in claims_of(box, (128, 192)).items() if home}
            for box in labels.boxes[0].double().tolist()
        ]
        assert sum(other == homes[row] for other in homes) > 1


def test_index_is_that_of_the_head() -> None:
    """The prior at the index has the cell, stride and shape that were matched."""
    labels = people([(40, 20, 78, 114)])  # 38 x 94, exactly a shape of the first level; centre (59, 67)
    matches = matched(labels)
    table = priors(128, 192)[0].T[matches.priors]
    assert [7, 8, 8, 38, 94] in table.tolist()  # 59 / 8 = 7.4, 67 / 8 = 8.4
    first = table[(table[:, 2] == 8) & (table[:, 3] == 38)]
    assert sorted(first[:, :2].tolist()) == [[6, 8], [7, 7], [7, 8]]
    ratios = torch.maximum(table[:, 3:] / torch.tensor([38.0, 94]), torch.tensor([38.0, 94]) / table[:, 3:]).amax(1)
    assert (ratios < 4).all()
    assert len(table) == 3 * int((torch.maximum(SHAPES / SHAPES[0, 2], SHAPES[0, 2] / SHAPES).amax(-1) < 4).sum())


@pytest.mark.parametrize("box", [(10, 10, 190, 12), (50, 50, 50, 50), (90, 0, 91, 128), (-50, -50, -20, -20)])
def test_odd_people_have_an_anchor(box: tuple[float, ...]) -> None:
    assert len(matched(people([box])).priors) >= 1


def test_neighbours_with_other_shapes_both_learn() -> None:
    """A tall and a wide person around one centre share the cell, each with its own shapes."""
    matches = matched(people([(50, 20, 70, 108), (16, 56, 104, 72)]))
    assert set(matches.people.tolist()) == {0, 1}


def test_equal_boxes_go_to_the_earlier_row() -> None:
    assert set(matched(people([(40, 20, 78, 114)] * 3)).people.tolist()) == {0}


def test_crowd_and_padding_are_not_matched() -> None:
    labels = people([(40, 20, 78, 114), (0, 0, 100, 100)], [], crowd=((0, 1),))
    matches = matched(labels)
    assert set(matches.images.tolist()) == {0}
    assert set(matches.people.tolist()) == {0}


@pytest.mark.parametrize("labels", [people([], []), people([(0, 0, 9, 9)], crowd=((0, 0),))])
def test_nobody(labels: People) -> None:
    assert [len(part) for part in matched(labels)] == [0, 0, 0]


def test_level_sizes_are_columns_and_rows() -> None:
    assert level_sizes(priors(128, 192), STRIDES).tolist() == [[24, 16], [12, 8], [6, 4], [3, 2]]
