"""Overlap of boxes, with gradients: IoU and Complete IoU (Zheng et al. 2020, https://arxiv.org/abs/1911.08287)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIN_SIDE = 1e-3  # px; shorter sides count as this long where a quotient of sides is taken
MIN_AREA = 1e-7  # px^2; a smaller union counts as this large, so that two boxes without area overlap by 0


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes (..., 4) xyxy, float and broadcastable, in pixels -> (...) intersection over union, 0..1.

    Finite, and with finite gradients, for coordinates up to 1e18 px; boxes without area (or turned inside out)
    overlap nothing.
    """
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = _sides(a).prod(-1) + _sides(b).prod(-1) - inner
    return inner / union.clamp(min=MIN_AREA)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Boxes as for ``iou`` -> (...) Complete IoU, above -2 and at most 1: IoU - centre distance - unlikeness of shape.

    Unlike IoU it has a gradient where the boxes lie apart. The weight of the third term is a constant to
    differentiation, as its authors have it.
    """
    overlap = iou(a, b)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    between = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    distance = between.square().sum(-1) / outer.square().sum(-1).clamp(min=MIN_AREA)
    shape = (4 / math.pi**2) * (_angle(a) - _angle(b)).square()
    with torch.no_grad():
        weight = shape / (1 - overlap + shape).clamp(min=MIN_AREA)
    return overlap - distance - weight * shape


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _angle(boxes: Tensor) -> Tensor:
    width, height = _sides(boxes).clamp(min=MIN_SIDE).unbind(-1)
    return torch.atan(width / height)
