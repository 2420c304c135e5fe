"""What the columns of a foreign network's outputs mean."""

from __future__ import annotations

from dataclasses import dataclass

from yolopose.model.input_spec import InputSpec

STRIDES = ((8, 16, 32), (8, 16, 32, 64))


@dataclass(frozen=True)
class Layout:
    """Outputs, concatenated along their features: a row a prediction, or a person where NMS is inside already.

    Columns: box 0..3; scores of ``num_classes`` classes from ``scores`` on, times column ``objectness`` where there is
    one; of finished rows the one score, and the class as a number in column ``label``; x, y, visibility of each
    keypoint from ``keypoints`` on, in pixels and 0..1.
    """

    name: str
    why: str  # how it was recognised
    outputs: tuple[str, ...]
    features_axis: int  # 1: (B, F, N); 2: (B, N, F)
    box: str  # "xywh": centre and size; "xyxy"
    scores: int
    num_classes: int
    keypoints: int
    num_keypoints: int
    input: InputSpec
    objectness: int | None = None
    label: int | None = None
    finished: bool = False  # NMS, or a head that needs none, is inside


def anchors(shape_hw: tuple[int, int], strides: tuple[int, ...]) -> int:
    """Cells of all levels."""
    return sum((shape_hw[0] // stride) * (shape_hw[1] // stride) for stride in strides)


def strides_of(rows: int, shape_hw: tuple[int, int], per_cell: int = 1) -> tuple[int, ...] | None:
    """The levels whose cells, so many times each, are ``rows``; None: they are something else."""
    return next((strides for strides in STRIDES if per_cell * anchors(shape_hw, strides) == rows), None)


def keypoints_in(features: int, others: int) -> int | None:
    """How many triples (x, y, visibility) fill what ``others`` columns leave; None: they do not."""
    left = features - others
    return left // 3 if left >= 3 and left % 3 == 0 else None
