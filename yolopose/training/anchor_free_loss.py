"""The losses of YOLOX-Pose (mmpose's yoloxpose_head.py has the weights): box, objectness, class, keypoints, visibility.

Each term is a sum over matched anchor points divided by their number over all processes; keypoint terms, by the number
of those whose person has labelled keypoints. Objectness is 1 at every matched point; the class score learns how good
the point is, OKS^0.5, so that their product ranks people as COCO does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads.anchor_free import AnchorFreeHead
from ..model.heads.output import HeadOutput, at_anchors
from .distributed import mean_positives
from .iou import iou
from .keypoint_loss import KeypointLoss, oks
from .matching import Guess, Matches, in_ignored
from .settings import LossSettings
from .simota import assign

BOX, OBJECTNESS, CLASSES, VISIBILITY = 5.0, 1.0, 1.0, 1.0
# So that each keypoint loss begins at about the same size; OKS as in mmpose.
KEYPOINTS = {"oks": 30.0, "l1": 3.0, "scaled-l1": 30.0}
QUALITY_POWER = 0.5  # of OKS as the target of the class score


class AnchorFreeLoss(nn.Module):
    """Losses of an anchor-free head for a batch of people. Computed in float32."""

    def __init__(self, head: AnchorFreeHead, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__()
        self.head = [head]  # in a list: its weights are the network's, not the loss's
        self.keypoints_weight = settings.weight_among(KEYPOINTS)
        self.keypoint_loss = KeypointLoss(sigmas, settings.keypoint_loss, settings.robust)

    def forward(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        """Weighted terms, scalars whose sum is the loss; finite for any people, none included."""
        head = self.head[0]
        matches = assign(_guess(head, raw), raw.priors, people, self.keypoint_loss.sigmas)
        image, point, person = matches
        priors = raw.priors[:, :, point]
        wanted = People(*(part[image, person] for part in people))
        labelled = wanted.visible.any(-1)
        counts = torch.stack((labelled.new_tensor(len(labelled), dtype=torch.int64), labelled.sum()))
        positives, with_keypoints = mean_positives(counts).unbind()

        overlap = iou(head.decode_boxes(at_anchors(raw.boxes, image, point).float(), priors)[0].T, wanted.boxes)
        encoded = at_anchors(raw.keypoints, image, point).float()
        found = head.decode_keypoints(encoded, priors)[0][0].permute(2, 0, 1)  # (P, K, 2)
        similarity = oks(found.detach(), wanted.keypoints, wanted.visible, wanted.areas, self.keypoint_loss.sigmas)
        quality = torch.where(labelled, similarity.pow(QUALITY_POWER), overlap.detach())
        classes = at_anchors(raw.classes, image, point).float()[0].T
        target = F.one_hot(wanted.labels, classes.shape[1]) * quality[:, None]
        pose = self.keypoint_loss(found, wanted.keypoints, wanted.visible, wanted.areas, priors[0, 2])
        seen = head.keypoint_logits(encoded, priors)[0].T  # (P, K)
        seen = F.binary_cross_entropy_with_logits(seen, wanted.visible.float(), reduction="none").mean(-1)
        return {
            "box": BOX * (1 - overlap.square()).sum() / positives,
            "objectness": OBJECTNESS * self._objectness(raw, people, matches) / positives,
            "classes": CLASSES * F.binary_cross_entropy_with_logits(classes, target, reduction="sum") / positives,
            "keypoints": self.keypoints_weight * pose.sum() / with_keypoints,
            "visibility": VISIBILITY * torch.where(labelled, seen, 0.0).sum() / with_keypoints,
        }

    def _objectness(self, raw: HeadOutput, people: People, matches: Matches) -> Tensor:
        """Sum over all points but those, unmatched, whose centre lies in a region to ignore."""
        logits = raw.objectness[:, 0].float()
        target = torch.zeros_like(logits)
        target[matches.image, matches.point] = 1
        terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if people.ignore.any():
            terms = terms * ~(in_ignored(raw.priors, people) & (target == 0))
        return terms.sum()


@torch.no_grad()
def _guess(head: AnchorFreeHead, raw: HeadOutput) -> Guess:
    """What all points predict; the losses decode the few that are matched once more, with a gradient."""
    raw = HeadOutput(*(part.float() for part in raw))
    boxes = head.decode_boxes(raw.boxes, raw.priors).mT
    xy, _ = head.decode_keypoints(raw.keypoints, raw.priors)
    return Guess(boxes, head.scores(raw.objectness, raw.classes).mT, xy.permute(0, 3, 1, 2))
