"""The people found in one image: parallel arrays, one row a person."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

# Bits of PoseResult.flags: where the answer may differ from greedy NMS over every anchor.
CANDIDATES_CUT = 1  # more anchors above the score threshold than the graph looks at
PEOPLE_CUT = 2  # more people than the graph returns
NMS_NOT_CONVERGED = 4  # a chain of overlapping boxes longer than the rounds of suppression
FLAG_NAMES = {
    CANDIDATES_CUT: "candidates cut",
    PEOPLE_CUT: "people cut",
    NMS_NOT_CONVERGED: "NMS not converged",
}


@dataclass(frozen=True, eq=False)
class PoseResult:
    """P people with K keypoints. Raises ValueError when the shapes do not fit together.

    boxes: (P, 4) float32 xyxy, pixels of the original image, may reach outside it
    scores: (P,) float32 0..1, falling
    labels: (P,) int32 index of the class
    keypoints: (P, K, 2) float32 xy, pixels of the original image, may lie outside it
    keypoint_scores: (P, K) float32 0..1
    num_candidates: anchors above the score threshold, before suppression
    flags: CANDIDATES_CUT | PEOPLE_CUT | NMS_NOT_CONVERGED
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    keypoints: npt.NDArray[np.float32]
    keypoint_scores: npt.NDArray[np.float32]
    num_candidates: int = 0
    flags: int = 0

    def __post_init__(self) -> None:
        for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int32))
        if self.scores.ndim != 1 or self.keypoint_scores.ndim != 2:
            raise ValueError(
                f"scores must be (P,) and keypoint_scores (P, K), got {self.scores.shape} and "
                f"{self.keypoint_scores.shape}"
            )
        people, keypoints = len(self.scores), self.keypoint_scores.shape[1]
        wanted = {
            "boxes": (people, 4),
            "labels": (people,),
            "keypoints": (people, keypoints, 2),
            "keypoint_scores": (people, keypoints),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape} beside scores, got {getattr(self, name).shape}")

    @classmethod
    def empty(cls, num_keypoints: int) -> PoseResult:
        """Nobody found."""
        return cls(
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            labels=np.zeros(0, np.int32),
            keypoints=np.zeros((0, num_keypoints, 2), np.float32),
            keypoint_scores=np.zeros((0, num_keypoints), np.float32),
        )

    @property
    def num_keypoints(self) -> int:
        return self.keypoint_scores.shape[1]

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: int | slice | list[int] | npt.NDArray[Any]) -> PoseResult:
        """The rows chosen by number, slice, boolean mask (P,) or list of numbers; a number keeps one row."""
        rows: Any = index
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            rows = [int(index)]
        elif isinstance(index, list):
            rows = np.asarray(index, dtype=np.intp if len(index) == 0 else None)
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            keypoints=self.keypoints[rows],
            keypoint_scores=self.keypoint_scores[rows],
        )

    def __iter__(self) -> Iterator[PoseResult]:
        return (self[index] for index in range(len(self)))

    def to_dict(self) -> dict[str, Any]:
        """JSON values: {"people": [{box, score, label, keypoints: [[x, y, score], ...]}, ...], num_candidates, flags}.

        Pixels are rounded to 1/1000, scores to 1e-6; a value that is not finite becomes null.
        """
        keypoints = np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=-1)
        people = [
            {
                "box": [_rounded(value, 3) for value in box],
                "score": _rounded(score, 6),
                "label": label,
                "keypoints": [[_rounded(x, 3), _rounded(y, 3), _rounded(s, 6)] for x, y, s in points],
            }
            for box, score, label, points in zip(
                self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), keypoints.tolist(), strict=True
            )
        ]
        return {"people": people, "num_candidates": int(self.num_candidates), "flags": int(self.flags)}


def flag_names(flags: int) -> list[str]:
    """The set bits of `flags` in words."""
    return [name for bit, name in FLAG_NAMES.items() if flags & bit]


def _rounded(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None
