"""Overlap of boxes, against figures worked out by hand, and finite where boxes are degenerate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolopose.training.similarity import ciou, iou

SQUARE = torch.tensor([0.0, 0.0, 10.0, 10.0])
corner = st.one_of(st.sampled_from([0.0, 1.0, -5.0, 1e6]), st.floats(-1e6, 1e6, width=32))
box = st.tuples(corner, corner, corner, corner)


def test_iou_by_hand() -> None:
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [2, 2, 4, 4], [10, 0, 20, 10], [30, 30, 40, 40]])
    torch.testing.assert_close(iou(SQUARE, others), torch.tensor([1, 1 / 3, 0.04, 0, 0]))


def test_ciou_by_hand() -> None:
    apart = torch.tensor([30.0, 0, 40, 10])  # same shape: the distance of centres alone, 30^2 / (40^2 + 10^2)
    assert ciou(SQUARE, apart).item() == pytest.approx(-900 / 1700)
    tall = torch.tensor([0.0, -5, 10, 15])  # same centre: overlap 1/2, and the term of shape
    shape = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    assert ciou(SQUARE, tall).item() == pytest.approx(0.5 - shape * shape / (0.5 + shape), rel=1e-5)


def test_shapes_broadcast() -> None:
    assert ciou(torch.rand(5, 1, 4), torch.rand(3, 4)).shape == (5, 3)
    assert iou(torch.rand(0, 4), torch.rand(0, 4)).shape == (0,)


def test_apart_boxes_are_drawn_together() -> None:
    moving = torch.tensor([30.0, 0, 40, 10], requires_grad=True)
    ciou(moving, SQUARE).backward()
    assert moving.grad is not None
    assert moving.grad[[0, 2]].sum() < 0  # higher CIoU lies to the left


@given(box, box)
def test_finite_for_any_box(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    """Boxes without area, turned inside out, equal, far apart: value and gradient are numbers, in the stated range."""
    first, second = (torch.tensor(values, requires_grad=True) for values in (a, b))
    plain, complete = iou(first, second), ciou(first, second)
    (plain + complete).backward()
    assert 0 <= plain.item() <= 1 + 1e-6
    assert math.isfinite(complete.item())
    for gradient in (first.grad, second.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@given(box, box)
def test_ciou_of_ordered_boxes_lies_between_its_bounds(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = (
        torch.tensor([*values[:2], values[0] + abs(values[2]), values[1] + abs(values[3])]) for values in (a, b)
    )
    assert -2 < ciou(first, second).item() <= iou(first, second).item() + 1e-6
