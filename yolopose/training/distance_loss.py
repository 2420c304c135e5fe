"""The losses of a distance head: box, distribution of distances, classes, keypoints, visibility.

Class scores learn over all points what task_aligned.py asks of them; boxes are weighted by the same, CIoU and the
distribution focal loss (Li et al. 2020, https://arxiv.org/abs/2006.04388, equation 6); both are divided by its sum over
all processes. Keypoint terms are divided by the number of matched points whose person has labelled keypoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads.distance import DistanceHead
from ..model.heads.output import HeadOutput, at_anchors
from .distributed import mean_positives
from .iou import ciou
from .keypoint_loss import KeypointLoss
from .matching import centres_of, in_ignored
from .settings import LossSettings
from .task_aligned import assign

# As these networks were trained; a head that gives each person once learns from one point a person.
BOX, DISTRIBUTION, CLASSES, VISIBILITY = 7.5, 1.5, 0.5, 1.0
KEYPOINTS = {"oks": 12.0, "l1": 1.2, "scaled-l1": 12.0}
MOST_POINTS = 10


class DistanceLoss(nn.Module):
    """Losses of a distance head for a batch of people. Computed in float32."""

    def __init__(self, head: DistanceHead, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__()
        self.head = [head]  # in a list: its weights are the network's, not the loss's
        self.most = 1 if head.settings.one_to_one else MOST_POINTS
        self.keypoints_weight = settings.weight_among(KEYPOINTS)
        self.keypoint_loss = KeypointLoss(sigmas, settings.keypoint_loss, settings.robust)

    def forward(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        """Weighted terms, scalars whose sum is the loss; finite for any people, none included."""
        head = self.head[0]
        with torch.no_grad():  # of all points; the few that are matched are decoded once more, with a gradient
            guess = head.decode_boxes(raw.boxes.float(), raw.priors).mT
            scores = head.scores(raw.objectness, raw.classes.float()).mT
        matches, quality = assign(guess, scores, raw.priors, people, self.most)
        image, point, person = matches
        priors = raw.priors[:, :, point]
        wanted = People(*(part[image, person] for part in people))
        labelled = wanted.visible.any(-1)
        total, with_keypoints = mean_positives(torch.stack((quality.sum(), labelled.sum().float()))).unbind()

        boxes = at_anchors(raw.boxes, image, point).float()
        overlap = ciou(head.decode_boxes(boxes, priors)[0].T, wanted.boxes)
        encoded = at_anchors(raw.keypoints, image, point).float()
        found = head.decode_keypoints(encoded, priors)[0][0].permute(2, 0, 1)  # (P, K, 2)
        pose = self.keypoint_loss(found, wanted.keypoints, wanted.visible, wanted.areas, priors[0, 2])
        seen = head.keypoint_logits(encoded, priors)[0].T  # (P, K)
        seen = F.binary_cross_entropy_with_logits(seen, wanted.visible.float(), reduction="none").mean(-1)

        logits = raw.classes.float()
        target = torch.zeros_like(logits)
        target[image, wanted.labels, point] = quality
        errors = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if people.ignore.any():
            taught = torch.zeros_like(logits[:, 0], dtype=torch.bool)
            taught[image, point] = True
            errors = errors * ~(in_ignored(raw.priors, people) & ~taught)[:, None]
        terms = {
            "box": BOX * ((1 - overlap) * quality).sum() / total,
            "classes": CLASSES * errors.sum() / total,
            "keypoints": self.keypoints_weight * pose.sum() / with_keypoints,
            "visibility": VISIBILITY * torch.where(labelled, seen, 0.0).sum() / with_keypoints,
        }
        if head.settings.bins > 1:
            spread = _distribution_loss(boxes[0], wanted.boxes, priors, head.settings.bins)
            terms["distribution"] = DISTRIBUTION * (spread * quality).sum() / total
        return terms


def _distribution_loss(boxes: Tensor, wanted: Tensor, priors: Tensor, bins: int) -> Tensor:
    """(4 * bins, P) logits, (P, 4) xyxy px -> (P,): cross-entropy of the two bins beside a distance, mean of 4."""
    centres, stride = centres_of(priors).T, priors[0, 2, :, None]  # (P, 2), (P, 1)
    distances = torch.cat((centres - wanted[:, :2], wanted[:, 2:] - centres), dim=1) / stride  # (P, 4)
    distances = distances.clamp(0, bins - 1)
    below = distances.floor().clamp(max=bins - 2).long()
    share = distances - below  # of the bin above
    logs = boxes.unflatten(0, (4, bins)).log_softmax(dim=1).permute(2, 0, 1)  # (P, 4, bins)
    lower, upper = (logs.gather(2, (below + step)[..., None]).squeeze(2) for step in (0, 1))
    return -(lower * (1 - share) + upper * share).mean(1)
