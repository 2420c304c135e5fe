"""Similarity of boxes (IoU, CIoU) and of poses (OKS) with gradients, and the keypoint losses built on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .settings import KEYPOINT_LOSSES

MIN_SIDE = 1e-3  # px; shorter sides of a box count as this long where sides are divided
MIN_DIVISOR = 1e-7  # smallest divisor of IoU and CIoU: two boxes without area have an IoU of 0
MIN_PERSON_AREA = 1.0  # px^2; smaller people count as this large, because OKS divides by the area


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy in px, float and broadcastable -> (...) intersection over union in 0..1.

    Value and gradient are finite for coordinates up to 1e18 px. Boxes without area, or with x2 < x1, have an IoU of 0.
    """
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = _sides(a).prod(-1) + _sides(b).prod(-1) - inner
    return inner / union.clamp(min=MIN_DIVISOR)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes as for ``iou`` -> (...) Complete IoU in (-2, 1] (Zheng et al. 2020, https://arxiv.org/abs/1911.08287).

    IoU minus a center distance minus an aspect ratio term. Unlike IoU it has a gradient where boxes do not overlap. The
    weight of the aspect ratio term has no gradient, as in the paper.
    """
    overlap = iou(a, b)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = between.square().sum(-1) / outer.square().sum(-1).clamp(min=MIN_DIVISOR)
    shape = (4 / math.pi**2) * (_angle(a) - _angle(b)).square()
    with torch.no_grad():
        weight = shape / (1 - overlap + shape).clamp(min=MIN_DIVISOR)
    return overlap - distance - weight * shape


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _angle(boxes: Tensor) -> Tensor:
    width, height = _sides(boxes).clamp(min=MIN_SIDE).unbind(-1)
    return torch.atan(width / height)


def oks(xy: Tensor, target: Tensor, visible: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """COCO's object keypoint similarity, (...) in 0..1; 0 for people without labeled keypoints.

    The mean over labeled keypoints of exp(-u^2 / 2) with u = distance / (2 sigma sqrt(area)).

    xy, target: (..., K, 2) px; visible: (..., K) bool, labeled; areas: (...) px^2; sigmas: (K,)
    """
    return mean_visible(torch.exp(-0.5 * scaled_distances(xy, target, areas, sigmas)), visible)


def scaled_distances(xy: Tensor, target: Tensor, areas: Tensor, sigmas: Tensor) -> Tensor:
    """u^2 of each keypoint, squared distance / (2 sigma)^2 / area; arguments as for ``oks`` -> (..., K)."""
    squared = (xy - target).square().sum(-1)
    return squared / ((2 * sigmas).square() * areas.clamp(min=MIN_PERSON_AREA)[..., None])


def mean_visible(values: Tensor, visible: Tensor) -> Tensor:
    """Mean over labeled keypoints, (..., K) -> (...); 0 where no keypoint is labeled."""
    return torch.where(visible, values, 0.0).sum(-1) / visible.sum(-1).clamp(min=1)


class KeypointLoss(nn.Module):
    """Keypoint loss of each matched person; ``kind`` selects one of the three of the paper's ablation (table 5).

    kind "oks"         1 - OKS, plus ``robust`` x mean(sqrt(1 + u^2) - 1)
    kind "l1"          mean of |dx| + |dy| in strides, the unit of the network's outputs
    kind "scaled-l1"   the same in units of sqrt(area)

    The gradient of 1 - exp(-u^2 / 2) vanishes for u > 3: an eye that is 15 px off on a person of 60 x 120 px has no
    gradient. The robust (Charbonnier) term has the same curvature at 0 and slope 1 far away, so that every labeled
    keypoint has a gradient. ``robust=0`` gives the paper's loss.
    """

    sigmas: Tensor

    def __init__(self, sigmas: Sequence[float], kind: str = "oks", robust: float = 0.0) -> None:
        super().__init__()
        if kind not in KEYPOINT_LOSSES:
            raise ValueError(f"kind must be one of {KEYPOINT_LOSSES}, got {kind!r}")
        self.kind, self.robust = kind, robust
        self.register_buffer("sigmas", torch.tensor(sigmas, dtype=torch.float32), persistent=False)

    def forward(self, xy: Tensor, target: Tensor, visible: Tensor, areas: Tensor, strides: Tensor) -> Tensor:
        """-> (P,) loss of each person, 0 for people without labeled keypoints.

        xy, target: (P, K, 2) px; visible: (P, K) bool; areas: (P,) px^2; strides: (P,) px

        Keypoints that are not labeled may hold any value, NaN included: they have no effect on value or gradient.
        """
        target = torch.where(visible[..., None], target, xy.detach())
        if self.kind != "oks":
            unit = strides if self.kind == "l1" else areas.clamp(min=MIN_PERSON_AREA).sqrt()
            return mean_visible((xy - target).abs().sum(-1) / unit[:, None], visible)
        u2 = scaled_distances(xy, target, areas, self.sigmas)
        per_point = 1 - torch.exp(-0.5 * u2)
        if self.robust:
            per_point = per_point + self.robust * ((1 + u2).sqrt() - 1)
        return mean_visible(per_point, visible)
