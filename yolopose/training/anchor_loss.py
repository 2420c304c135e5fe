"""Loss of the paper's anchor head: YOLOv5's anchor shape matching, then CIoU, objectness, class, keypoints, confidence.

Weights. The reference (edgeai-yolov5) adds means per level, over four levels, and multiplies by the batch size
(nominally 64). Here box, class and keypoint terms are one mean over the positives of all levels, processes and images
(otherwise a level with one positive would weigh as much as one with hundreds). The weights below therefore contain the
factors 4 and 64: learning rates of the reference stay valid, and terms are as large as those of YOLOX-Pose.

    term         reference                                   effective there, 640 px   here
    box          0.05 x 3 / levels, mean per level           0.0375 x 4 = 0.15         0.15
    keypoints    0.1, mean per level                         0.1 x 4 = 0.4             0.4
    classes      0.5 x classes / 80 x 3 / levels             never trained (1 class)   0.1
    visibility   paper 0.5; code: the weight of classes      0.0047 x 4 = 0.019        0.1
    objectness   3 / levels x (size / 640)^2, mean per       0.75 x balance            0.01 / 64 per cell and image
                 level, balance 4, 1, 0.25, 0.06

Visibility: the code's weight is nearly 0 because of how it is scaled. With the paper's weight the term would outweigh
the keypoints fourfold, although AP does not depend on it. 0.1 is the geometric mean of the two. Classes are trained for
one class too, because the class score multiplies objectness.

Objectness equals the reference for three anchor shapes: balance times stride^2 is 256, 256, 256 and 246, so the
balanced means are a plain sum in which every anchor weighs 0.75 x 256 / (640^2 x 3) = 0.01 / 64, whatever its level and
the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.batch import People
from ..model.heads import HeadOutput
from ..model.heads.anchor import AnchorHead
from .distributed import mean_positives
from .head_loss import HeadLoss, scored_points
from .label_assignment import Assignment
from .settings import LossSettings
from .similarity import MIN_SIDE, ciou

NOMINAL_BATCH = 64
BOX, CLASSES, VISIBILITY = NOMINAL_BATCH * 0.15, NOMINAL_BATCH * 0.1, NOMINAL_BATCH * 0.1
# All keypoint losses begin at about the same size, as in anchor_free_loss.
KEYPOINTS = {"oks": NOMINAL_BATCH * 0.4, "l1": NOMINAL_BATCH * 0.04, "scaled-l1": NOMINAL_BATCH * 0.4}
OBJECTNESS = 0.01

MAX_RATIO = 4.0  # between sides of a person's box and of an anchor; the head's own limit is (2 sigmoid)^2 < 4


class AnchorLoss(HeadLoss[AnchorHead]):
    """Terms "box", "objectness", "classes", "keypoints" and "visibility"."""

    keypoint_weights = KEYPOINTS
    visibility_weight = VISIBILITY
    shapes: Tensor  # (L, A, 2) px
    strides: Tensor  # (L,) px

    def __init__(self, head: AnchorHead, sigmas: Sequence[float], settings: LossSettings) -> None:
        super().__init__(head, sigmas, settings)
        self.register_buffer("shapes", torch.tensor(head.anchor_shapes, dtype=torch.float32), persistent=False)
        self.register_buffer("strides", torch.tensor(head.strides, dtype=torch.float32), persistent=False)

    def terms(self, raw: HeadOutput, people: People) -> dict[str, Tensor]:
        sizes = level_sizes(raw.priors, self.head.strides)
        assignment = match_anchors(people, self.shapes, self.strides, sizes)
        matched = self.positives(raw, people, assignment)
        labeled = matched.labeled
        counts = torch.stack((labeled.new_tensor(len(labeled), dtype=torch.int64), labeled.sum()))
        # One exchange between processes for all three.
        counts = mean_positives(torch.cat((counts, counts.new_tensor([len(people.boxes)]))))
        positives, with_keypoints, images = counts.unbind()

        overlap = ciou(matched.boxes, matched.people.boxes)
        names = F.one_hot(matched.people.labels, matched.classes.shape[1]).float()
        classes = F.binary_cross_entropy_with_logits(matched.classes, names, reduction="none").mean(dim=1)
        return {
            "box": BOX * (1 - overlap).sum() / positives,
            "objectness": OBJECTNESS * _objectness(raw, people, assignment, overlap.detach()) / images,
            "classes": CLASSES * classes.sum() / positives,
            **self.keypoint_terms(matched, with_keypoints),
        }


def _objectness(raw: HeadOutput, people: People, assignment: Assignment, overlap: Tensor) -> Tensor:
    """Sum over all anchors but unmatched ones in crowd regions; the target of a matched one is the CIoU of its box."""
    logits = raw.objectness[:, 0].float()
    target = torch.zeros_like(logits)
    target[assignment.image, assignment.point] = overlap.clamp(min=0)
    terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return torch.where(scored_points(raw.priors, people, assignment), terms, 0.0).sum()


def level_sizes(priors: Tensor, strides: Sequence[int]) -> Tensor:
    """(1, 5, N) priors of an AnchorHead -> (L, 2) int64 columns and rows of each level, without a GPU sync."""
    columns_rows, stride = priors[0, :2], priors[0, 2]
    sizes = [torch.where(stride == level, columns_rows, -1.0).amax(dim=1) + 1 for level in strides]
    return torch.stack(sizes).long()


def match_anchors(people: People, shapes: Tensor, strides: Tensor, sizes: Tensor) -> Assignment:
    """YOLOv5's matching, as the paper uses it, without a loop over people. Every valid person has at least one anchor,
    as far as there are enough.

    A person matches every anchor shape whose sides are within a factor of MAX_RATIO of its own, on all levels: there
    the cell that holds its center, and the neighbors on the nearer side, in x and in y, where they exist.

    Two differences from the reference. A person whom no shape fits (a lying body at the image border, a few pixels)
    matches the shape that fits best, because otherwise it would be trained as background. An anchor that several people
    match is assigned to one of them; the reference trains its objectness for the last one written and its box for all.
    Priority: the person for whom it is the best shape in the center's cell, so that no person loses every anchor to a
    neighbor that has others; then the box with the higher CIoU with the anchor around its cell's center; then the
    earlier row.

    shapes: (L, A, 2) float32 width and height of anchors, px; strides: (L,) float32; sizes: (L, 2) from ``level_sizes``
    """
    images, rows = people.valid.nonzero(as_tuple=True)
    boxes = people.boxes[images, rows]
    fits, best = _fitting_shapes((boxes[:, 2:] - boxes[:, :2]).clamp(min=MIN_SIDE), shapes)
    cells, usable = _cells((boxes[:, :2] + boxes[:, 2:]) / 2, strides, sizes)

    candidates = fits[..., None] & usable[:, :, None]  # (P, L, A, 3)
    person, level, shape, place = candidates.nonzero(as_tuple=True)
    column, row = cells[person, level, place].unbind(-1)
    width, height = sizes[level].unbind(-1)
    cells_of_level = sizes.prod(dim=1)
    starts = shapes.shape[1] * (cells_of_level.cumsum(0) - cells_of_level)
    point = starts[level] + shape * (height * width) + row * width + column

    centers = (torch.stack((column, row), dim=-1) + 0.5) * strides[level, None]
    half = shapes[level, shape] / 2
    overlap = ciou(torch.cat((centers - half, centers + half), dim=-1), boxes[person])
    home = best[person, level, shape] & (place == 0)
    total = shapes.shape[1] * cells_of_level.sum()
    priority = torch.where(home, overlap + 4, overlap)  # CIoU lies in -2..1
    kept = _first_of_each(images[person] * total + point, priority)
    return Assignment(images[person[kept]], point[kept], rows[person[kept]])


def _fitting_shapes(sides: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 2) sides and (L, A, 2) shapes, px -> two (P, L, A) bool: shapes that a person matches; the best of them."""
    ratios = sides[:, None, None] / shapes
    worst = torch.maximum(ratios, 1 / ratios).amax(dim=-1)
    flat = worst.flatten(1)
    best = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, flat.argmin(dim=1, keepdim=True), True)
    return (worst < MAX_RATIO) | best.view_as(worst), best.view_as(worst)


def _cells(centers: Tensor, strides: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 2) centers px -> (P, L, 3, 2) int64 column and row of the own cell and of the neighbors in x and in y; and
    (P, L, 3) bool: which of them exist. Centers outside the image are moved to its border."""
    grid = (centers[:, None] / strides[:, None]).clamp(min=0)  # (P, L, 2), in cells
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
    """(M,) keys and values -> indices of the highest value of each key, by rising key; the earlier one of equals."""
    order = values.argsort(descending=True, stable=True)
    order = order[keys[order].argsort(stable=True)]
    ordered = keys[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]
