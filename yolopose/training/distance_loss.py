"""Task-aligned matching (TOOD, Feng et al. 2021, https://arxiv.org/abs/2108.07755, section 3.2).

How well an anchor point now does for a person is t = s^A * u^B: its score for the person's class, and the IoU of its
box. Each person takes the ``most`` points of largest t whose centres lie in its box, or near its centre where the box
holds none; a point wanted twice goes to the larger t, and who has lost all takes the best that is free, as in
simota.py. What the score of a point shall be is t, scaled so that the best point of a person gets that person's best
IoU.

The losses of a distance head: box, distribution of distances, classes, keypoints, visibility.

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
from ..model.heads import HeadOutput, at_anchors
from ..model.heads.distance import DistanceHead
from .label_assignment import Assignment, Rows, centres_of, in_ignored, owners, where_inside
from .processes import mean_positives
from .settings import LossSettings
from .similarity import KeypointLoss, ciou, iou

SCORE_POWER, IOU_POWER = 0.5, 6.0  # A, B: those that YOLOv8 was trained with
SMALL = 1e-3  # of scores and IoUs: early in training nobody overlaps


@torch.no_grad()
def assign(boxes: Tensor, scores: Tensor, priors: Tensor, people: People, most: int) -> tuple[Assignment, Tensor]:
    """Predicted boxes (B, N, 4) xyxy px and scores (B, N, C) in 0..1; priors: (1, P, N) column, row and stride of each
    point -> P matched pairs and (P,) the scores that they shall have, in 0..1."""
    in_box, near = where_inside(priors, people.boxes)
    possible = torch.where(in_box.any(-1, keepdim=True), in_box, near)
    image, person, point = (possible & people.valid[..., None]).nonzero(as_tuple=True)
    overlap = iou(boxes[image, point], people.boxes[image, person])
    if not len(overlap):
        return Assignment(image, point, person), overlap
    found = scores[image, point, people.labels[image, person]]
    alignment = SCORE_POWER * found.clamp(SMALL, 1).log() + IOU_POWER * overlap.clamp(SMALL, 1).log()

    batch, count, points = in_box.shape
    rows = Rows(image * count + person)
    costs = rows.table(-torch.nan_to_num(alignment, nan=-100.0), torch.inf)
    cells = rows.table(image * points + point, 0)
    values, places = costs.topk(min(most, costs.shape[1]), dim=1, largest=False)
    chosen = torch.zeros_like(costs, dtype=torch.bool).scatter_(1, places, values.isfinite())
    owner = owners(costs, cells, chosen, batch * points)
    matches = rows.matches(owner, points, count)

    # of the points that each person has got: its best t and its best IoU
    got = (owner[cells] == torch.arange(len(costs), device=costs.device)[:, None]) & costs.isfinite()
    best_cost = costs.masked_fill(~got, torch.inf).amin(1)
    best_overlap = rows.table(overlap, 0.0).masked_fill(~got, 0.0).amax(1)
    row, place = got.nonzero(as_tuple=True)
    quality = scores.new_zeros(batch * points)
    quality[cells[row, place]] = (best_cost[row] - costs[row, place]).exp() * best_overlap[row]
    return matches, quality[matches.image * points + matches.point]


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
