"""What the keypoints mean: names, mirror pairs, limbs, OKS sigmas; one place for flips, OKS, networks and drawing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .document import is_utf8
from .errors import DataError

Pairs = tuple[tuple[int, int], ...]
# Used when nothing is known about the points: the mean of COCO's sigmas, rounded.
NEUTRAL_SIGMA = 0.07


@dataclass(frozen=True)
class Skeleton:
    """K keypoints of a person. Raises ValueError when the parts do not fit together.

    names: K different names, `left_...` and `right_...` for the sides
    flip_pairs: indices that a mirror image exchanges; each index in one pair at most
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
            raise ValueError(f"flip_pairs: an index stands in two pairs: {[list(pair) for pair in self.flip_pairs]}")

    @property
    def num_keypoints(self) -> int:
        return len(self.names)

    @property
    def flip_index(self) -> tuple[int, ...]:
        """Permutation of a mirror image: keypoints[flip_index] puts left where right was."""
        index = list(range(self.num_keypoints))
        for a, b in self.flip_pairs:
            index[a], index[b] = b, a
        return tuple(index)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "names": list(self.names),
            "flip_pairs": [list(pair) for pair in self.flip_pairs],
            "limbs": [list(pair) for pair in self.limbs],
            "sigmas": list(self.sigmas),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], where: str = "skeleton") -> Skeleton:
        """Build from JSON values; unknown keys are ignored. Raises ValueError that starts with `where` and the key."""
        if not isinstance(document, Mapping):
            raise ValueError(f"{where}: must be an object, got {type(document).__name__}")
        try:
            return cls(
                name=_text(document, "name"),
                names=tuple(_texts(document, "names")),
                flip_pairs=tuple(_pairs(document, "flip_pairs")),
                limbs=tuple(_pairs(document, "limbs")),
                sigmas=tuple(_numbers(document, "sigmas")),
            )
        except ValueError as error:
            raise ValueError(f"{where}.{error}") from error


def generic_skeleton(num_keypoints: int, names: Sequence[str] | None = None, flip_pairs: Pairs = ()) -> Skeleton:
    """Points of which no more is known: no limbs, one sigma for all. ValueError where names and pairs do not fit."""
    return Skeleton(
        name=f"generic-{num_keypoints}",
        names=tuple(f"keypoint_{index}" for index in range(num_keypoints)) if names is None else tuple(names),
        flip_pairs=flip_pairs,
        limbs=(),
        sigmas=(NEUTRAL_SIGMA,) * num_keypoints,
    )


def skeleton_from_json(path: str | Path) -> Skeleton:
    """A user's own skeleton: a JSON file with the keys of `Skeleton`. Raises DataError when it is not one."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        return Skeleton.from_dict(document)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"cannot read the skeleton {path}: {error}") from error
    except ValueError as error:  # JSON errors are ValueErrors too
        raise DataError(f"{path} is not a skeleton: {error}; see COCO_17.to_dict() for an example") from error


def _list(document: Mapping[str, Any], key: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key}: must be a list, got {value!r}")
    return list(value)


def _text(document: Mapping[str, Any], key: str) -> str:
    return _checked_text(key, document.get(key))


def _texts(document: Mapping[str, Any], key: str) -> Iterable[str]:
    return (_checked_text(f"{key}[{index}]", value) for index, value in enumerate(_list(document, key)))


def _checked_text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key}: must be a text, got {value!r}")
    if not is_utf8(value):
        raise ValueError(f"{key}: must be a text without lone surrogates, got {value!r}")
    return value


def _numbers(document: Mapping[str, Any], key: str) -> Iterable[float]:
    for index, value in enumerate(_list(document, key)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key}[{index}]: must be a number, got {value!r}")
        try:
            yield float(value)
        except OverflowError as error:
            raise ValueError(f"{key}[{index}]: must be a number that a float can hold") from error


def _pairs(document: Mapping[str, Any], key: str) -> Iterable[tuple[int, int]]:
    for index, value in enumerate(_list(document, key)):
        whole = isinstance(value, list | tuple) and len(value) == 2
        if not whole or any(isinstance(part, bool) or not isinstance(part, int) for part in value):
            raise ValueError(f"{key}[{index}]: must be two whole numbers, got {value!r}")
        yield value[0], value[1]


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

# Leeds Sports Pose; CrowdPose uses the same 14 points and its sigmas serve here.
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
