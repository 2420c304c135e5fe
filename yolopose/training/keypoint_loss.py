"""Object keypoint similarity as a loss, with a remedy for its flat tail, and the two losses it was compared with.

OKS of a person (COCO): the mean over labelled keypoints of exp(-u^2 / 2), u = d / (2 sigma sqrt(area)). The gradient of
1 - exp(-u^2 / 2) vanishes for u above 3: an eye that is 15 px off a person of 60 x 120 px learns nothing. The robust
term sqrt(1 + u^2) - 1 has the same curvature at 0 and slope 1 far away (Charbonnier), so every keypoint is pulled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .settings import KEYPOINT_LOSSES

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
