"""Skeletons: names, mirror pairs, limbs and OKS sigmas of the keypoints, for flips, OKS, networks and drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Pairs = tuple[tuple[int, int], ...]
NEUTRAL_SIGMA = 0.07  # where nothing is known about a keypoint: the mean of COCO's sigmas, rounded


@dataclass(frozen=True)
class Skeleton:
    """K keypoints of a person. Raises ValueError when the parts do not fit together.

    names: K different names, `left_...` and `right_...` for the sides
    flip_pairs: indices that a horizontal flip exchanges; each index is in at most one pair
    limbs: pairs of indices joined by a line when drawn
    sigmas: K COCO OKS sigmas; the exponent of OKS is -d^2 / (2 area (2 sigma)^2)
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: Pairs
    limbs: Pairs
    sigmas: tuple[float, ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        if count == 0:
            raise ValueError("names: a skeleton needs at least one keypoint")
        for key, names in (("name", (self.name,)), ("names", self.names)):
            if not all(names):
                raise ValueError(f"{key}: must not be empty, got {list(names)}")
        if len(set(self.names)) != count:
            raise ValueError(f"names: keypoint names must differ, got {list(self.names)}")
        if len(self.sigmas) != count:
            raise ValueError(f"sigmas: {len(self.sigmas)} values for {count} keypoints; give one for each name")
        for sigma in self.sigmas:
            if not (math.isfinite(sigma) and sigma > 0):
                raise ValueError(f"sigmas: must be positive numbers, got {sigma}")
        for field, pairs in (("flip_pairs", self.flip_pairs), ("limbs", self.limbs)):
            for pair in pairs:
                if pair[0] == pair[1] or not all(0 <= index < count for index in pair):
                    raise ValueError(f"{field}: {list(pair)} is not two different indices in 0..{count - 1}")
        paired = [index for pair in self.flip_pairs for index in pair]
        if len(set(paired)) != len(paired):
            raise ValueError(f"flip_pairs: an index is in two pairs: {[list(pair) for pair in self.flip_pairs]}")

    @property
    def num_keypoints(self) -> int:
        return len(self.names)

    @property
    def flip_index(self) -> tuple[int, ...]:
        """Permutation for a horizontal flip: keypoints[flip_index] swaps left and right."""
        index = list(range(self.num_keypoints))
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        return tuple(index)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `contract.skeleton_from_dict` reads them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def generic_skeleton(num_keypoints: int, names: Sequence[str] | None = None, flip_pairs: Pairs = ()) -> Skeleton:
    """A skeleton of unknown points: no limbs, one sigma for all. Raises ValueError when names and pairs do not fit."""
    return Skeleton(
        name=f"generic-{num_keypoints}",
        names=tuple(f"keypoint_{index}" for index in range(num_keypoints)) if names is None else tuple(names),
        flip_pairs=flip_pairs,
        limbs=(),
        sigmas=(NEUTRAL_SIGMA,) * num_keypoints,
    )


# Names, limbs and sigmas of the COCO keypoint task (pycocotools, cocoeval.py), indices from 0.
COCO_17 = Skeleton(
    name="coco-17",
    names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
        (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
)  # fmt: skip

# Leeds Sports Pose. CrowdPose has the same 14 keypoints; its sigmas are used here.
LSP_14 = Skeleton(
    name="lsp-14",
    names=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "right_wrist", "right_elbow",
        "right_shoulder", "left_shoulder", "left_elbow", "left_wrist", "neck", "head_top",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    limbs=(
        (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (2, 8), (3, 9), (6, 7), (7, 8), (8, 12), (12, 9), (9, 10), (10, 11),
        (12, 13),
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079),
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (COCO_17, LSP_14)}
