"""Overlap of boxes, with gradients: IoU and Complete IoU (Zheng et al. 2020, https://arxiv.org/abs/1911.08287).

Object keypoint similarity as a loss, with a remedy for its flat tail, and the two losses it was compared with.

OKS of a person (COCO): the mean over labelled keypoints of exp(-u^2 / 2), u = d / (2 sigma sqrt(area)). The gradient of
1 - exp(-u^2 / 2) vanishes for u above 3: an eye that is 15 px off a person of 60 x 120 px learns nothing. The robust
term sqrt(1 + u^2) - 1 has the same curvature at 0 and slope 1 far away (Charbonnier), so every keypoint is pulled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .settings import KEYPOINT_LOSSES

MIN_SIDE = 1e-3  # px; shorter sides count as this long where a quotient of sides is taken
IouMIN_AREA = 1e-7  # px^2; a smaller union counts as this large, so that two boxes without area overlap by 0


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy, float and broadcastable, in pixels -> (...) intersection over union, 0..1.

    Finite, and with finite gradients, for coordinates up to 1e18 px; boxes without area (or turned inside out)
    overlap nothing.
    """
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = _sides(a).prod(-1) + _sides(b).prod(-1) - inner
    return inner / union.clamp(min=IouMIN_AREA)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes as for ``iou`` -> (...) Complete IoU, above -2 and at most 1: IoU - centre distance - unlikeness of shape.

    Unlike IoU it has a gradient where the boxes lie apart. The weight of the third term is a constant to
    differentiation, as its authors have it.
    """
    overlap = iou(a, b)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = between.square().sum(-1) / outer.square().sum(-1).clamp(min=IouMIN_AREA)
    shape = (4 / math.pi**2) * (_angle(a) - _angle(b)).square()
    with torch.no_grad():
        weight = shape / (1 - overlap + shape).clamp(min=IouMIN_AREA)
    return overlap - distance - weight * shape


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _angle(boxes: Tensor) -> Tensor:
    width, height = _sides(boxes).clamp(min=MIN_SIDE).unbind(-1)
    return torch.atan(width / height)


MIN_AREA = 1.0  # px^2: a person without area cannot have a scale


def scaled_distances(xy: Tensor, target: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """u^2 of each keypoint, d^2 / (2 sigma)^2 / area.

    xy, target: (..., K, 2) px; areas: (...) px^2; sigmas: (K,) -> (..., K)
    """
    squared = (xy - target).square().sum(-1)
    return squared / ((2 * sigmas).square() * areas.clamp(min=MIN_AREA)[..., None])


def oks(xy: Tensor, target: Tensor, visible: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """COCO's object keypoint similarity, (...) in 0..1; 0 where nothing is labelled.

    xy, target: (..., K, 2) px; visible: (..., K) bool; areas: (...) px^2; sigmas: (K,)
    """
    return mean_visible(torch.exp(-0.5 * scaled_distances(xy, target, areas, sigmas)), visible)


def mean_visible(values: Tensor, visible: Tensor) -> Tensor:
    """Mean over labelled keypoints, (..., K) -> (...); 0 where there are none."""
    return torch.where(visible, values, 0.0).sum(-1) / visible.sum(-1).clamp(min=1)


class KeypointLoss(nn.Module):
    """Loss of each matched person.

    kind "oks": 1 - OKS + ``robust`` x mean(sqrt(1 + u^2) - 1); "l1": mean |dx| + |dy| in strides, the unit of the
    network's own outputs; "scaled-l1": the same in units of sqrt(area). The paper's ablation (table 5) compares these
    three, with ``robust`` 0.
    """

    sigmas: Tensor

    def __init__(self, sigmas: Sequence[float], kind: str = "oks", robust: float = 0.0) -> None:
        super().__init__()
        if kind not in KEYPOINT_LOSSES:
            raise ValueError(f"kind must be one of {KEYPOINT_LOSSES}, got {kind!r}")
        self.kind, self.robust = kind, robust
        self.register_buffer("sigmas", torch.tensor(sigmas, dtype=torch.float32), persistent=False)

    def forward(self, xy: Tensor, target: Tensor, visible: Tensor, areas: Tensor, strides: Tensor) -> Tensor:
        """xy, target: (P, K, 2) px; visible: (P, K) bool; areas: (P,) px^2; strides: (P,) px -> (P,), 0 without labels.

        Unlabelled keypoints may hold anything: they take no part, in value or gradient.
        """
        target = torch.where(visible[..., None], target, xy.detach())
        if self.kind != "oks":
            unit = strides if self.kind == "l1" else areas.clamp(min=MIN_AREA).sqrt()
            return mean_visible((xy - target).abs().sum(-1) / unit[:, None], visible)
        u2 = scaled_distances(xy, target, areas, self.sigmas)
        per_point = 1 - torch.exp(-0.5 * u2)
        if self.robust:
            per_point = per_point + self.robust * ((1 + u2).sqrt() - 1)
        return mean_visible(per_point, visible)
