"""Base of the losses of the three heads: decoding at matched anchor points, keypoint terms, crowd regions.

To add a head: a subclass of ``HeadLoss``, in a module with its label assignment, and an entry in
``criterion.HEAD_LOSSES``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..data.batch import People
from ..model.heads import HeadOutput, at_anchors
from ..model.heads.anchor import AnchorHead
from ..model.heads.anchor_free import AnchorFreeHead
from ..model.heads.distance import DistanceHead
from .label_assignment import Assignment, in_crowd
from .settings import LossSettings
from .similarity import KeypointLoss

Head = TypeVar("Head", bound=AnchorHead | AnchorFreeHead | DistanceHead)


class Positives(NamedTuple):
    """Predictions (float32, with gradient) and labels of P matched pairs."""

    priors: Tensor  # (1, 3 or 5, P)
    encoded_boxes: Tensor  # (4 or 4 * bins, P), as the head gives them
    boxes: Tensor  # (P, 4) xyxy px
    classes: Tensor  # (P, C) logits
    keypoints: Tensor  # (P, K, 2) px
    visibility: Tensor  # (P, K) logits
    people: People  # the person of each pair; (P, ...)

    @property
    def labeled(self) -> Tensor:
        """(P,) bool: the person has labeled keypoints. Other people train box and class alone."""
        return self.people.visible.any(-1)


class HeadLoss(nn.Module, Generic[Head]):
    """Weighted loss terms of a head for a batch of people, computed in float32.

    Every term is a scalar that is finite for any labels and has a graph without people too, so that backward works in
    every process. Sums are divided by means over processes (``distributed.mean_positives``): gradients averaged over
    several processes equal those of one process with the whole batch.

    Raises ValueError when the head has another number of keypoints than ``sigmas`` (COCO's OKS sigmas).
    """

    keypoint_weights: ClassVar[Mapping[str, float]]  # default weight for each kind of keypoint loss
    visibility_weight: ClassVar[float]

    def __init__(self, head: Head, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__()
        if head.num_keypoints != len(sigmas):
            raise ValueError(
                f"the head has {head.num_keypoints} keypoints, but there are {len(sigmas)} sigmas; "
                "build the network with the skeleton of the data"
            )
        self._head = (head,)  # in a tuple: as an attribute its weights would become parameters of the loss
        self.keypoint_weight = settings.weight_among(self.keypoint_weights)
        self.keypoint_loss = KeypointLoss(sigmas, settings.keypoint_loss, settings.robust)

    @property
    def head(self) -> Head:
        return self._head[0]

    def forward(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        """Terms by name; their sum is the loss."""
        with torch.autocast(raw.boxes.device.type, enabled=False):
            return self.terms(raw, people)

    def terms(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        raise NotImplementedError

    def boxes_and_scores(self, raw: HeadOutput) -> tuple[Tensor, Tensor]:
        """Of all points: boxes (B, N, 4) xyxy px and scores (B, N, C) in 0..1, float32."""
        boxes = self.head.decode_boxes(raw.boxes.float(), raw.priors).mT
        return boxes, self.head.scores(raw.objectness.float(), raw.classes.float()).mT

    def positives(self, raw: HeadOutput, people: People, assignment: Assignment) -> Positives:
        """Decode the matched points alone."""
        image, point, person = assignment
        priors = raw.priors[:, :, point]
        boxes = at_anchors(raw.boxes, image, point).float()
        keypoints = at_anchors(raw.keypoints, image, point).float()
        return Positives(
            priors=priors,
            encoded_boxes=boxes[0],
            boxes=self.head.decode_boxes(boxes, priors)[0].T,
            classes=at_anchors(raw.classes, image, point).float()[0].T,
            keypoints=self.head.decode_keypoints(keypoints, priors)[0][0].permute(2, 0, 1),
            visibility=self.head.keypoint_logits(keypoints, priors)[0].T,
            people=People(*(part[image, person] for part in people)),
        )

    def keypoint_terms(self, positives: Positives, count: Tensor) -> dict[str, Tensor]:
        """Terms "keypoints" and "visibility", sums over pairs divided by ``count``."""
        people = positives.people
        pose = self.keypoint_loss(
            positives.keypoints, people.keypoints, people.visible, people.areas, positives.priors[0, 2]
        )
        visibility = binary_cross_entropy_with_logits(positives.visibility, people.visible.float(), reduction="none")
        visibility = torch.where(positives.labeled, visibility.mean(-1), 0.0)
        return {
            "keypoints": self.keypoint_weight * pose.sum() / count,
            "visibility": self.visibility_weight * visibility.sum() / count,
        }


def scored_points(priors: Tensor, people: People, assignment: Assignment) -> Tensor:
    """(B, N) bool: points whose score is trained, which are all but unmatched points in crowd regions."""
    trained = ~in_crowd(priors, people)
    trained[assignment.image, assignment.point] = True
    return trained
