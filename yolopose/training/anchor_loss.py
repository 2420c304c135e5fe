"""Loss of the paper's head: CIoU, objectness, class, keypoints and their confidence over matched anchors.

Weights. The reference adds up per-level means, over four levels, and multiplies by the batch size (nominally 64). Here
box, class and keypoint terms are one mean over all positives of all levels, processes and pictures (a level with a
single positive would weigh as much as one with hundreds), so the weights below hold the factors 4 and 64 themselves:
learning rates of the reference keep their meaning and terms are as large as those of the YOLOX school.

    term         reference, in words                        effective there, 640 px   here
    box          0.05 x 3 / levels, mean per level           0.0375 x 4 = 0.15         0.15
    keypoints    0.1, mean per level                         0.1 x 4 = 0.4             0.4
    classes      0.5 x classes / 80 x 3 / levels             never trained (1 class)   0.1
    visibility   text 0.5; code the weight of classes        0.0047 x 4 = 0.019        0.1
    objectness   3 / levels x (size / 640)^2, mean per       0.75 x balance            0.01 / 64 a cell and picture
                 level, balance 4, 1, 0.25, 0.06

Visibility: by an accident of scaling the code all but ignores it, the text's value would outweigh the keypoints
themselves fourfold for a figure that AP does not see; 0.1 lies between (geometric mean). Classes are trained for one
class too: its score multiplies objectness.

Objectness is the same as in the reference for three anchor shapes: balance times stride^2 is 256, 256, 256 and 246, so
the balanced means are a plain sum in which every anchor weighs 0.75 x 256 / (640^2 x 3) = 0.01 / 64, whatever its level
and the size of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from ..data.batch import People
from ..model.heads.anchor import AnchorHead
from ..model.heads.output import HeadOutput, at_anchors
from .anchor_matching import Matches, level_sizes, match_anchors
from .distributed import mean_positives
from .iou import ciou
from .keypoint_loss import KeypointLoss
from .settings import LossSettings

NOMINAL_BATCH = 64
BOX, CLASSES, VISIBILITY = NOMINAL_BATCH * 0.15, NOMINAL_BATCH * 0.1, NOMINAL_BATCH * 0.1
# So that each keypoint loss begins at about the same size, as in the other school.
KEYPOINTS = {"oks": NOMINAL_BATCH * 0.4, "l1": NOMINAL_BATCH * 0.04, "scaled-l1": NOMINAL_BATCH * 0.4}
OBJECTNESS = 0.01


class AnchorLoss(nn.Module):
    """Weighted terms "box", "objectness", "classes", "keypoints", "visibility": float32 scalars, finite for all labels.

    Each has a graph, without people or labelled keypoints too, so that backward works in every process. Sums are
    divided by means over processes: averaged gradients of several processes equal those of one with all pictures.
    ``sigmas``: K COCO OKS sigmas. Raises ValueError when the head has another number of keypoints.
    """

    shapes: Tensor
    strides: Tensor

    def __init__(self, head: AnchorHead, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__()
        if head.num_keypoints != len(sigmas):
            raise ValueError(
                f"the head has {head.num_keypoints} keypoints, but there are {len(sigmas)} sigmas; "
                "build the network with the skeleton of the data"
            )
        # Methods, not the head itself: as an attribute it would make its weights parameters of the loss.
        self.decode_boxes, self.decode_keypoints = head.decode_boxes, head.decode_keypoints
        self.keypoint_logits = head.keypoint_logits
        self.level_strides = head.strides
        self.keypoints_weight = settings.weight_among(KEYPOINTS)
        self.keypoint_loss = KeypointLoss(sigmas, settings.keypoint_loss, settings.robust)
        self.register_buffer("shapes", torch.tensor(head.anchor_shapes, dtype=torch.float32), persistent=False)
        self.register_buffer("strides", torch.tensor(head.strides, dtype=torch.float32), persistent=False)

    def forward(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        with torch.autocast(raw.boxes.device.type, enabled=False):
            return self._terms(HeadOutput(*(part.float() for part in raw)), people)

    def _terms(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        sizes = level_sizes(raw.priors, self.level_strides)
        matches = match_anchors(people, self.shapes, self.strides, sizes)
        images, positives, rows = matches
        priors = raw.priors[:, :, positives]
        visible = people.visible[images, rows]
        labelled = visible.any(dim=1)  # of each match; people without keypoints teach the box alone
        counts = torch.stack((labelled.new_tensor(len(rows), dtype=torch.int64), labelled.sum()))
        # One exchange between processes for all three.
        counts = mean_positives(torch.cat((counts, counts.new_tensor([len(people.boxes)]))))
        matched, with_keypoints, pictures = counts.unbind()

        boxes = self.decode_boxes(at_anchors(raw.boxes, images, positives), priors)[0].T
        overlap = ciou(boxes, people.boxes[images, rows].float())
        classes = at_anchors(raw.classes, images, positives)[0].T
        names = nn.functional.one_hot(people.labels[images, rows], classes.shape[1]).to(classes.dtype)

        encoded = at_anchors(raw.keypoints, images, positives)
        xy = self.decode_keypoints(encoded, priors)[0][0].permute(2, 0, 1)
        per_person = self.keypoint_loss(
            xy, people.keypoints[images, rows].float(), visible, people.areas[images, rows].float(), priors[0, 2]
        )
        confidence = self.keypoint_logits(encoded, priors)[0].T  # (M, K)
        seen = cross_entropy(confidence, visible.to(confidence.dtype), reduction="none").mean(dim=1)

        return {
            "box": BOX * (1 - overlap).sum() / matched,
            "objectness": OBJECTNESS * self._objectness(raw, people, matches, overlap.detach()) / pictures,
            "classes": CLASSES * cross_entropy(classes, names, reduction="none").mean(dim=1).sum() / matched,
            "keypoints": self.keypoints_weight * per_person.sum() / with_keypoints,
            "visibility": VISIBILITY * torch.where(labelled, seen, 0.0).sum() / with_keypoints,
        }

    def _objectness(self, raw: HeadOutput, people: People, matches: Matches, overlap: Tensor) -> Tensor:
        """Sum over all anchors; the target of a matched one is how well it does, the CIoU of its box."""
        logits = raw.objectness[:, 0]
        target, trained = torch.zeros_like(logits), ~covered_anchors(raw.priors, people)
        target[matches.images, matches.priors] = overlap.clamp(min=0)
        trained[matches.images, matches.priors] = True  # a person to learn, in front of a crowd
        return torch.where(trained, cross_entropy(logits, target, reduction="none"), 0.0).sum()


def covered_anchors(priors: Tensor, people: People) -> Tensor:
    """(1, 5, N) priors -> (B, N) bool: the cell's centre lies in a crowd region."""
    images, rows = people.ignore.nonzero(as_tuple=True)
    centres = (priors[0, :2] + 0.5) * priors[0, 2]  # (2, N)
    boxes = people.boxes[images, rows].float()[..., None]  # (R, 4, 1)
    inside = ((centres >= boxes[:, :2]) & (centres < boxes[:, 2:])).all(dim=1)
    hits = torch.zeros(len(people.ignore), priors.shape[-1], device=priors.device)
    return hits.index_add_(0, images, inside.to(hits.dtype)) > 0
