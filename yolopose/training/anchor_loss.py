"""Which anchors learn which person: the matching of YOLOv5 that the paper takes over, without a loop over people.

Loss of the paper's head: CIoU, objectness, class, keypoints and their confidence over matched anchors.

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
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from ..data.batch import People
from ..model.heads import HeadOutput, at_anchors
from ..model.heads.anchor import AnchorHead
from .processes import mean_positives
from .settings import LossSettings
from .similarity import KeypointLoss, ciou

MAX_RATIO = 4.0  # between a side of a person's box and that of an anchor; the head can give (2 sigmoid)^2 < 4 at most
MIN_SIDE = 1e-3  # px; a box without width still has a best anchor


class AnchorMatches(NamedTuple):
    """M pairs of an anchor and the person that it learns; no (image, prior) stands twice."""

    images: Tensor  # (M,) int64, index into the batch
    priors: Tensor  # (M,) int64, index into the N of HeadOutput
    people: Tensor  # (M,) int64, index into the G of People


def level_sizes(priors: Tensor, strides: Sequence[int]) -> Tensor:
    """(1, 5, N) priors of an AnchorHead -> (L, 2) int64 columns and rows of each level, without waiting for the GPU."""
    columns_rows, stride = priors[0, :2], priors[0, 2]
    sizes = [torch.where(stride == level, columns_rows, -1.0).amax(dim=1) + 1 for level in strides]
    return torch.stack(sizes).long()


def match_anchors(people: People, shapes: Tensor, strides: Tensor, sizes: Tensor) -> AnchorMatches:
    """Match every valid person with at least one anchor, as far as anchors suffice.

    shapes: (L, A, 2) float32 anchor width and height, px; strides: (L,) float32; sizes: (L, 2) from ``level_sizes``.

    A person goes to all anchor shapes whose sides are within a factor of MAX_RATIO of its own, on all levels; there to
    the cell with its centre and to the neighbour on the nearer side, across and down, where the picture has one.

    Two differences from the reference. A person that no shape fits (a lying body at the picture's edge, a speck) takes
    the shape that fits best: left out, it would be taught as background. An anchor that several people claim learns
    one of them, where the reference lets the last written win its objectness and the others pull at its box: first
    comes the person for whom it is the best shape at the centre's cell, so that nobody loses everything to a
    neighbour who has other anchors; then the one whose box has the higher CIoU with the anchor around its cell's
    centre; between equal boxes the earlier row.
    """
    images, rows = people.valid.nonzero(as_tuple=True)
    boxes = people.boxes[images, rows].float()
    fits, best = _fitting_shapes((boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE), shapes)
    cells, usable = _cells((boxes[:, :2] + boxes[:, 2:]) / 2, strides, sizes)

    candidates = fits[..., None] & usable[:, :, None]  # (P, L, A, 3)
    person, level, shape, place = candidates.nonzero(as_tuple=True)
    column, row = cells[person, level, place].unbind(-1)
    width, height = sizes[level].unbind(-1)
    cells_of_level = sizes.prod(dim=1)
    starts = shapes.shape[1] * (cells_of_level.cumsum(0) - cells_of_level)
    prior = starts[level] + shape * (height * width) + row * width + column

    centres = (torch.stack((column, row), dim=-1) + 0.5) * strides[level, None]
    half = shapes[level, shape] / 2
    overlap = ciou(torch.cat((centres - half, centres + half), dim=-1), boxes[person])
    home = best[person, level, shape] & (place == 0)
    total = shapes.shape[1] * cells_of_level.sum()
    kept = _first_of_each(images[person] * total + prior, torch.where(home, overlap + 4, overlap))  # CIoU: -2..1
    return AnchorMatches(images[person[kept]], prior[kept], rows[person[kept]])


def _fitting_shapes(sides: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 2) sides and (L, A, 2) shapes, px -> two (P, L, A) bool: shapes that a person takes; the best of them."""
    ratios = sides[:, None, None] / shapes
    worst = torch.maximum(ratios, 1 / ratios).amax(dim=-1)
    flat = worst.flatten(1)
    best = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.argmin(dim=1, keepdim=True), True)
    return (worst < MAX_RATIO) | best.view_as(worst), best.view_as(worst)


def _cells(centres: Tensor, strides: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 2) centres px -> (P, L, 3, 2) int64 column and row of own cell, neighbour across, neighbour down; and
    (P, L, 3) bool: which of them exist. A centre outside the picture counts as on its edge."""
    grid = (centres[:, None] / strides[:, None]).clamp(min=0)  # (P, L, 2), in cells
    grid = torch.minimum(grid, sizes.to(grid.dtype))
    own = torch.minimum(grid.floor().long(), sizes - 1)
    inside = grid - own
    step = (inside > 0.5).long() - (inside < 0.5).long()  # 0 in the very middle: neither side is nearer
    none = torch.zeros_like(step[..., 0])
    steps = torch.stack(
        (torch.zeros_like(step), torch.stack((step[..., 0], none), -1), torch.stack((none, step[..., 1]), -1)), dim=2
    )
    cells = own[:, :, None] + steps
    exists = ((cells >= 0) & (cells < sizes[:, None])).all(dim=-1)
    moved = (steps != 0).any(dim=-1)
    moved[..., 0] = True
    return cells, exists & moved


def _first_of_each(keys: Tensor, values: Tensor) -> Tensor:
    """(M,) keys and values -> indices, by rising key, of the highest value of each key; the earlier one of equals."""
    order = values.argsort(descending=True, stable=True)
    order = order[keys[order].argsort(stable=True)]
    ordered = keys[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]


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

    def _objectness(self, raw: HeadOutput, people: People, matches: AnchorMatches, overlap: Tensor) -> Tensor:
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
