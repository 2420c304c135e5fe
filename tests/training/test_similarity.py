"""Similarity of boxes and poses, against values by hand and pycocotools; keypoint losses; finite for any input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton
from yolopose.training.settings import KEYPOINT_LOSSES
from yolopose.training.similarity import KeypointLoss, ciou, iou, oks

EYE = COCO_17.sigmas[1]
PERSON = 60.0 * 120.0  # px^2
coordinate = st.floats(-2000, 2000, width=32)
SQUARE = torch.tensor([0.0, 0.0, 10.0, 10.0])
corner = st.one_of(st.sampled_from([0.0, 1.0, -5.0, 1e6]), st.floats(-1e6, 1e6, width=32))
box = st.tuples(corner, corner, corner, corner)


def test_iou_by_hand() -> None:
    others = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [2, 2, 4, 4], [10, 0, 20, 10], [30, 30, 40, 40]])
    torch.testing.assert_close(iou(SQUARE, others), torch.tensor([1, 1 / 3, 0.04, 0, 0]))


def test_ciou_by_hand() -> None:
    apart = torch.tensor([30.0, 0, 40, 10])  # same shape: only the distance of centers, 30^2 / (40^2 + 10^2)
    assert ciou(SQUARE, apart).item() == pytest.approx(-900 / 1700)
    tall = torch.tensor([0.0, -5, 10, 15])  # same center: IoU 1/2 and the aspect ratio term
    shape = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    assert ciou(SQUARE, tall).item() == pytest.approx(0.5 - shape * shape / (0.5 + shape), rel=1e-5)


def test_iou_broadcasts() -> None:
    assert ciou(torch.rand(5, 1, 4), torch.rand(3, 4)).shape == (5, 3)
    assert iou(torch.rand(0, 4), torch.rand(0, 4)).shape == (0,)


def test_ciou_of_separate_boxes_has_a_gradient() -> None:
    moving = torch.tensor([30.0, 0, 40, 10], requires_grad=True)
    ciou(moving, SQUARE).backward()
    assert moving.grad is not None
    assert moving.grad[[0, 2]].sum() < 0  # higher CIoU lies to the left


@given(box, box)
def test_iou_and_ciou_are_finite_for_any_box(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    """Boxes without area, with x2 < x1, equal, far apart: value and gradient are finite and in range."""
    first, second = (torch.tensor(values, requires_grad=True) for values in (a, b))
    plain, complete = iou(first, second), ciou(first, second)
    (plain + complete).backward()
    assert 0 <= plain.item() <= 1 + 1e-6
    assert math.isfinite(complete.item())
    for gradient in (first.grad, second.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


@given(box, box)
def test_ciou_lies_between_its_bounds(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = (
        torch.tensor([*values[:2], values[0] + abs(values[2]), values[1] + abs(values[3])]) for values in (a, b)
    )
    assert -2 < ciou(first, second).item() <= iou(first, second).item() + 1e-6


def coco_oks(xy: np.ndarray, target: np.ndarray, visible: np.ndarray, area: float, sigmas: Any) -> float:
    """One person's OKS by pycocotools."""
    evaluation = COCOeval(None, None, "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(sigmas)
    truth = np.concatenate([target, visible[:, None]], axis=1).reshape(-1).tolist()
    found = np.concatenate([xy, np.ones((len(xy), 1))], axis=1).reshape(-1).tolist()
    evaluation._gts[1, 1] = [{"keypoints": truth, "area": area, "bbox": [0, 0, 1, 1], "ignore": 0}]
    evaluation._dts[1, 1] = [{"keypoints": found, "score": 1.0}]
    evaluation.params.catIds = [1]
    return float(evaluation.computeOks(1, 1)[0, 0])


@pytest.mark.parametrize("skeleton", [COCO_17, LSP_14])
@settings(deadline=None)
@given(data=st.data())
def test_oks_equals_pycocotools(skeleton: Skeleton, data: st.DataObject) -> None:
    k = skeleton.num_keypoints
    target = data.draw(hnp.arrays(np.float32, (k, 2), elements=coordinate))
    error = data.draw(hnp.arrays(np.float32, (k, 2), elements=st.floats(-60, 60, width=32)))
    visible = data.draw(hnp.arrays(np.int64, k, elements=st.integers(0, 2)).filter(lambda v: v.any()))
    area = data.draw(st.floats(1, 1e6, width=32))
    xy = target + error
    ours = oks(*map(torch.from_numpy, (xy, target, visible > 0)), torch.tensor(area), torch.tensor(skeleton.sigmas))
    assert ours.item() == pytest.approx(coco_oks(xy, target, visible, area, skeleton.sigmas), abs=2e-6)


def test_oks_of_a_batch_and_of_small_areas() -> None:
    """Any leading shape; 0 without labels; an area below 1 px^2, by which COCO would divide, counts as 1."""
    sigmas = torch.tensor([EYE, 0.1])
    target, visible = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, dtype=torch.bool)
    visible[0, 0] = False
    found = oks(target + 0.01, target, visible, torch.zeros(2, 3), sigmas)
    assert found.shape == (2, 3)
    assert found[0, 0] == 0
    torch.testing.assert_close(found, oks(target + 0.01, target, visible, torch.ones(2, 3), sigmas))
    assert 0.9 < found[1, 2] < 1


def losses() -> list[KeypointLoss]:
    return [KeypointLoss((EYE, 0.1), kind, robust) for kind in KEYPOINT_LOSSES for robust in (0.0, 0.3)]


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (3, 2, 2), elements=st.sampled_from([0.0, 1e6, -1e6, 7.5, 1e-30])),
    hnp.arrays(np.float32, (3, 2, 2), elements=st.sampled_from([0.0, 1e6, -1e6, 7.0])),
    hnp.arrays(np.bool_, (3, 2)),
    hnp.arrays(np.float32, 3, elements=st.sampled_from([0.0, 1e-30, 1.0, 1e8])),
)
def test_keypoint_losses_are_finite_for_any_input(
    xy: np.ndarray, target: np.ndarray, visible: np.ndarray, areas: np.ndarray
) -> None:
    """No labels, no area, NaN where not labeled, a million pixels off: value and gradient are finite."""
    target = np.where(visible[..., None], target, np.float32("nan"))
    for loss in losses():
        predicted = torch.from_numpy(xy.copy()).requires_grad_()
        values = loss(predicted, *map(torch.from_numpy, (target, visible, areas)), torch.tensor([8.0, 16, 32]))
        values.sum().backward()
        assert values.shape == (3,)
        assert torch.isfinite(values).all()
        assert (values >= 0).all()
        assert not values[~torch.from_numpy(visible).any(1)].any()
        assert predicted.grad is not None
        assert torch.isfinite(predicted.grad).all()
        assert not predicted.grad[~torch.from_numpy(visible)].any()


@pytest.mark.parametrize("loss", losses())
def test_keypoint_losses_without_people(loss: KeypointLoss) -> None:
    empty = torch.zeros(0, 2, 2, requires_grad=True)
    values = loss(empty, torch.zeros(0, 2, 2), torch.zeros(0, 2, dtype=torch.bool), torch.zeros(0), torch.zeros(0))
    assert values.shape == (0,)
    values.sum().backward()


def pull(loss: KeypointLoss, pixels: float, area: float = PERSON) -> float:
    """Gradient of an eye that is ``pixels`` off."""
    xy = torch.tensor([[[pixels, 0.0]]], requires_grad=True)
    loss(
        xy, torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), torch.tensor([area]), torch.tensor([8.0])
    ).sum().backward()
    assert xy.grad is not None
    return xy.grad[0, 0, 0].item()


def test_oks_loss_has_no_gradient_far_away_and_the_robust_term_has() -> None:
    """The paper says that OKS never plateaus. It does for an eye 15 to 20 px off, on a person of 60 x 120 px."""
    pure, robust = KeypointLoss([EYE]), KeypointLoss([EYE], robust=0.3)
    unit = 2 * EYE * math.sqrt(PERSON)  # 4.2 px
    peak = pull(pure, unit)
    assert pull(pure, 4 * unit) < 0.003 * peak
    assert pull(pure, 15) < 0.02 * peak
    assert pull(pure, 20) < 2e-4 * peak
    for pixels in (15, 20, 200, 1e5):
        assert pull(robust, pixels) > 0.4 * peak
    assert pull(robust, 1e6) == pytest.approx(0.3 / unit, rel=1e-3)  # slope 1 in units of u, times its weight


def test_robust_term_has_the_curvature_of_oks_at_the_target() -> None:
    pure, both = KeypointLoss([EYE]), KeypointLoss([EYE], robust=1.0)
    assert pull(both, 0.05) == pytest.approx(2 * pull(pure, 0.05), rel=1e-3)


def value(loss: KeypointLoss, xy: Tensor, visible: list[bool], area: float, stride: float) -> float:
    target = torch.zeros_like(xy)
    return loss(xy, target, torch.tensor([visible]), torch.tensor([area]), torch.tensor([stride])).item()


def test_keypoint_losses_by_hand() -> None:
    xy = torch.tensor([[[3.0, -4.0], [100.0, 0.0]]])
    assert value(KeypointLoss((EYE, 0.1), "l1"), xy, [True, False], 100, 8) == pytest.approx(7 / 8)
    assert value(KeypointLoss((EYE, 0.1), "l1"), xy, [True, True], 100, 8) == pytest.approx(107 / 16)
    assert value(KeypointLoss((EYE, 0.1), "scaled-l1"), xy, [True, False], 100, 8) == pytest.approx(0.7)
    u2 = 25 / (2 * 0.1) ** 2 / 2500
    loss = KeypointLoss((0.1, 0.1), robust=0.5)
    expected = 1 - math.exp(-u2 / 2) + 0.5 * (math.sqrt(1 + u2) - 1)
    assert value(loss, xy, [True, False], 2500, 8) == pytest.approx(expected, rel=1e-5)


def test_rejects_unknown_keypoint_losses() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        KeypointLoss([EYE], "l2")
