"""The people found in one image: a PoseResult holds parallel arrays, and iterating over it gives a Person each.

Conversions: JSON values (`to_dict`, `from_dict`), COCO results, supervision and pandas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .errors import BackendUnavailable
from .skeleton import SKELETONS, Skeleton, generic_skeleton

Floats = npt.NDArray[np.float32]
Rows = slice | list[int] | list[bool] | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]

# Bits of PoseResult.flags: where the answer may differ from greedy NMS over every anchor.
CANDIDATES_CUT = 1  # more anchors above the score threshold than the graph looks at
PEOPLE_CUT = 2  # more people than the graph returns
NMS_NOT_CONVERGED = 4  # a chain of overlapping boxes longer than the rounds of suppression
FLAG_NAMES = {
    CANDIDATES_CUT: "candidates cut",
    PEOPLE_CUT: "people cut",
    NMS_NOT_CONVERGED: "NMS not converged",
}


def flag_names(flags: int) -> list[str]:
    """The set bits of `flags` in words."""
    return [name for bit, name in FLAG_NAMES.items() if flags & bit]


def pose_scores_of(scores: Floats, keypoint_scores: Floats) -> Floats:
    """Score (P,) times the mean keypoint score, weighted by the keypoint scores (P, K) themselves: sum v^2 / sum v.

    The pose score of people without candidates to agree with. The weights leave out keypoints that are not visible.
    """
    total = keypoint_scores.sum(axis=1)
    squares = (keypoint_scores * keypoint_scores).sum(axis=1)
    visible = np.divide(squares, total, out=np.zeros_like(total), where=total > 0)
    return np.asarray(scores * visible, np.float32)


@dataclass(frozen=True, eq=False, repr=False)
class Person:
    """One person of a PoseResult; the arrays are views of its rows.

    box: (4,) float32 xyxy, pixels of the original image
    score: 0..1
    label: index of the class
    keypoints: (K, 2) float32 xy, pixels of the original image
    keypoint_scores: (K,) float32 0..1
    pose_score: 0..1, how good the whole pose is (see PoseResult)
    keypoint_spread: (K,) float32 pixels, or None (see PoseResult)
    skeleton: names of the keypoints, if known
    """

    box: Floats
    score: float
    label: int
    keypoints: Floats
    keypoint_scores: Floats
    pose_score: float
    keypoint_spread: Floats | None = None
    skeleton: Skeleton | None = None

    __iter__ = None  # else Python would try person[0], person[1], ...

    @property
    def area(self) -> float:
        """Of the box, in square pixels."""
        width, height = (self.box[2:] - self.box[:2]).tolist()
        return float(width * height)

    def __getitem__(self, name: str) -> tuple[float, float, float]:
        """(x, y, score) of the keypoint called `name`, such as "left_wrist".

        Raises KeyError for a name that the skeleton does not have, ValueError when the skeleton is not known.
        """
        if self.skeleton is None:
            raise ValueError(
                f"cannot look up {name!r}: the result has no skeleton, so its keypoints have no names; "
                "give PoseResult(..., skeleton=...) one, or index `keypoints` with a number"
            )
        if name not in self.skeleton.names:
            raise KeyError(f"no keypoint {name!r} in {self.skeleton.name}; it has {', '.join(self.skeleton.names)}")
        index = self.skeleton.names.index(name)
        x, y = self.keypoints[index].tolist()
        return x, y, float(self.keypoint_scores[index])

    def __repr__(self) -> str:
        box = ", ".join(f"{value:.1f}" for value in self.box.tolist())
        return f"Person(score={self.score:.3f}, label={self.label}, box=[{box}], {len(self.keypoints)} keypoints)"


@dataclass(frozen=True, eq=False, repr=False)
class PoseResult:
    """P people with K keypoints. Raises ValueError when the shapes do not match.

    boxes: (P, 4) float32 xyxy, pixels of the original image, may reach outside it
    scores: (P,) float32 0..1, in descending order
    labels: (P,) int32 index of the class
    keypoints: (P, K, 2) float32 xy, pixels of the original image, may lie outside it
    keypoint_scores: (P, K) float32 0..1
    pose_scores: (P,) float32 0..1, the better ranking of people: score x keypoint scores x, with consensus keypoints,
        agreement of the candidates. None in the constructor computes score x keypoint scores, see pose_scores_of().
    keypoint_spread: (P, K) float32, how far the candidates of a person disagree about a keypoint, pixels of the
        original image; None unless the artifact was exported with --keypoint-spread
    num_candidates: anchors above the score threshold, before suppression
    flags: CANDIDATES_CUT | PEOPLE_CUT | NMS_NOT_CONVERGED
    skeleton: of the K keypoints, if known; the estimator sets it
    """

    boxes: Floats
    scores: Floats
    labels: npt.NDArray[np.int32]
    keypoints: Floats
    keypoint_scores: Floats
    num_candidates: int = 0
    flags: int = 0
    skeleton: Skeleton | None = None
    pose_scores: Floats = None  # type: ignore[assignment]  # never None after __post_init__
    keypoint_spread: Floats | None = None

    def __post_init__(self) -> None:
        for name in ("boxes", "scores", "keypoints", "keypoint_scores"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int32))
        if self.keypoint_spread is not None:
            object.__setattr__(self, "keypoint_spread", np.asarray(self.keypoint_spread, dtype=np.float32))
        if self.scores.ndim != 1 or self.keypoint_scores.ndim != 2:
            raise ValueError(
                f"scores must be (P,) and keypoint_scores (P, K), got {self.scores.shape} and "
                f"{self.keypoint_scores.shape}"
            )
        if len(self.scores) != len(self.keypoint_scores):
            raise ValueError(
                f"keypoint_scores must have shape (P, K) to match {len(self.scores)} scores, got "
                f"{self.keypoint_scores.shape}"
            )
        pose_scores: npt.ArrayLike | None = self.pose_scores
        if pose_scores is None:
            pose_scores = pose_scores_of(self.scores, self.keypoint_scores)
        object.__setattr__(self, "pose_scores", np.asarray(pose_scores, dtype=np.float32))
        people, keypoints = len(self.scores), self.keypoint_scores.shape[1]
        shapes = {
            "boxes": (people, 4),
            "labels": (people,),
            "keypoints": (people, keypoints, 2),
            "keypoint_scores": (people, keypoints),
            "pose_scores": (people,),
            "keypoint_spread": (people, keypoints),
        }
        for name, shape in shapes.items():
            if getattr(self, name) is not None and getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape} to match scores, got {getattr(self, name).shape}")
        if self.skeleton is not None and self.skeleton.num_keypoints != keypoints:
            raise ValueError(
                f"skeleton {self.skeleton.name} has {self.skeleton.num_keypoints} keypoints, people have {keypoints}"
            )

    @classmethod
    def empty(cls, num_keypoints: int, skeleton: Skeleton | None = None) -> PoseResult:
        """A result without people."""
        return cls(
            boxes=np.zeros((0, 4), np.float32),
            scores=np.zeros(0, np.float32),
            labels=np.zeros(0, np.int32),
            keypoints=np.zeros((0, num_keypoints, 2), np.float32),
            keypoint_scores=np.zeros((0, num_keypoints), np.float32),
            skeleton=skeleton,
        )

    @property
    def num_keypoints(self) -> int:
        return int(self.keypoint_scores.shape[1])

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Person]:
        return (self._person(row) for row in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Person: ...
    @overload
    def __getitem__(self, index: Rows) -> PoseResult: ...
    def __getitem__(self, index: int | Rows) -> Person | PoseResult:
        """A number gives that Person; a slice, a boolean mask (P,) or a list of numbers a PoseResult of those rows."""
        if isinstance(index, int | np.integer):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            return self._person(int(index))
        rows = np.asarray(index, dtype=np.intp if len(index) == 0 else None) if isinstance(index, list) else index
        return replace(
            self,
            boxes=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            keypoints=self.keypoints[rows],
            keypoint_scores=self.keypoint_scores[rows],
            pose_scores=self.pose_scores[rows],
            keypoint_spread=None if self.keypoint_spread is None else self.keypoint_spread[rows],
        )

    def _person(self, row: int) -> Person:
        return Person(
            box=self.boxes[row],
            score=float(self.scores[row]),
            label=int(self.labels[row]),
            keypoints=self.keypoints[row],
            keypoint_scores=self.keypoint_scores[row],
            pose_score=float(self.pose_scores[row]),
            keypoint_spread=None if self.keypoint_spread is None else self.keypoint_spread[row],
            skeleton=self.skeleton,
        )

    def __repr__(self) -> str:
        parts = [_count(len(self), "person", "people")]
        if len(self):
            best, worst = self.scores.max(), self.scores.min()
            parts.append(f"score {best:.3f}" if len(self) == 1 else f"scores {best:.3f} to {worst:.3f}")
        kind = "" if self.skeleton is None else f" of {self.skeleton.name}"
        parts.append(_count(self.num_keypoints, "keypoint", "keypoints") + kind)
        return f"PoseResult({', '.join((*parts, *flag_names(self.flags)))})"

    def draw(
        self, image: npt.NDArray[Any], keypoint_threshold: float = 0.3, boxes: bool = True
    ) -> npt.NDArray[np.uint8]:
        """A copy of `image` (H, W, 3) uint8 BGR with the people drawn on it.

        Keypoints with a score below `keypoint_threshold` and their limbs are left out. Raises ValueError when the
        skeleton is not known.
        """
        if self.skeleton is None:
            raise ValueError(
                "cannot draw: the result has no skeleton; give PoseResult(..., skeleton=...) one, or call "
                "draw_people(image, people, skeleton)"
            )
        from .draw import draw_people  # needs OpenCV, which the arrays do not

        return draw_people(image, self, self.skeleton, keypoint_threshold, boxes)

    def to_dict(self, exact: bool = False) -> dict[str, Any]:
        """JSON values: {"people": [{box, score, pose_score, label, keypoints: [[x, y, score], ...]}, ...], ...}.

        The document also has num_candidates and flags; with a skeleton keypoint_names, in the order of the keypoints;
        and each person has keypoint_spread where the result has it. Pixels are rounded to 1/1000 and scores to 1e-6
        unless `exact`; a value that is not finite becomes null.
        """
        pixel_digits, score_digits = (None, None) if exact else (3, 6)
        people = [
            {
                "box": [_finite(value, pixel_digits) for value in box],
                "score": _finite(score, score_digits),
                "pose_score": _finite(pose_score, score_digits),
                "label": label,
                "keypoints": [
                    [_finite(x, pixel_digits), _finite(y, pixel_digits), _finite(s, score_digits)] for x, y, s in points
                ],
            }
            for box, score, pose_score, label, points in zip(
                self.boxes.tolist(),
                self.scores.tolist(),
                self.pose_scores.tolist(),
                self.labels.tolist(),
                self._triples().tolist(),
                strict=True,
            )
        ]
        if self.keypoint_spread is not None:
            for person, spreads in zip(people, self.keypoint_spread.tolist(), strict=True):
                person["keypoint_spread"] = [_finite(value, pixel_digits) for value in spreads]
        document = {"people": people, "num_candidates": int(self.num_candidates), "flags": int(self.flags)}
        return document if self.skeleton is None else document | {"keypoint_names": list(self.skeleton.names)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any], skeleton: Skeleton | None = None) -> PoseResult:
        """The result that `to_dict` wrote; null becomes NaN. Raises ValueError when a key is missing or damaged.

        Documents of version 0.1.0 have no "pose_score"; it is then computed as in the constructor.

        skeleton: of the keypoints. Without it the built-in skeleton with the names in the document is taken; if there
        is none, one with these names and no limbs; and no skeleton if the document has no names.
        """
        try:
            names = document.get("keypoint_names")
            if skeleton is None and names is not None:
                built_in = (each for each in SKELETONS.values() if list(each.names) == list(names))
                skeleton = next(built_in, None) or generic_skeleton(len(names), names)
            people: Sequence[Mapping[str, Any]] = document["people"]
            known_keypoints = 0 if skeleton is None else skeleton.num_keypoints
            num_keypoints = len(people[0]["keypoints"]) if people else known_keypoints
            points = np.array([person["keypoints"] for person in people], np.float32)
            points = points.reshape(len(people), num_keypoints, 3)
            scores, first = np.array([person["score"] for person in people], np.float32), people[0] if people else {}
            pose_scores, spread = pose_scores_of(scores, points[..., 2]), None
            if "pose_score" in first:
                pose_scores = np.array([person["pose_score"] for person in people], np.float32)
            if "keypoint_spread" in first:
                spread = np.array([person["keypoint_spread"] for person in people], np.float32)
            return cls(
                boxes=np.array([person["box"] for person in people], np.float32).reshape(len(people), 4),
                scores=scores,
                labels=np.array([person["label"] for person in people], np.int32),
                keypoints=points[..., :2],
                keypoint_scores=points[..., 2],
                num_candidates=int(document["num_candidates"]),
                flags=int(document["flags"]),
                skeleton=skeleton,
                pose_scores=pose_scores,
                keypoint_spread=spread,
            )
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"not the document of a PoseResult ({type(error).__name__}: {error})") from error

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """One COCO keypoint result a person: image_id, category_id, keypoints [x, y, score, ...], score, bbox xywh.

        COCO ranks people by "score": this is the pose score, and "box_score" the score.

        category_ids: id of each class; without it label + 1, as COCO numbers its person
        """
        widths_heights = self.boxes[:, 2:].astype(np.float64) - self.boxes[:, :2]
        bboxes = np.concatenate([self.boxes[:, :2].astype(np.float64), widths_heights], axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": label + 1 if category_ids is None else category_ids[label],
                "keypoints": points,
                "score": pose_score,
                "box_score": score,
                "bbox": bbox,
            }
            for label, points, pose_score, score, bbox in zip(
                self.labels.tolist(),
                self._triples().reshape(len(self), 3 * self.num_keypoints).tolist(),
                self.pose_scores.tolist(),
                self.scores.tolist(),
                bboxes.tolist(),
                strict=True,
            )
        ]

    def to_supervision(self) -> Any:
        """A supervision.KeyPoints; boxes and scores are in its data as "xyxy", "score" and "pose_score".

        Raises BackendUnavailable when supervision is not installed.
        """
        supervision = _import("supervision")
        shown = self.num_keypoints if len(self) else 0  # supervision's result without people has no keypoints
        # By position: supervision 0.29 renamed its third parameter, `confidence`, to `keypoint_confidence`.
        return supervision.KeyPoints(
            self.keypoints[:, :shown].copy(),
            self.labels.astype(int),
            self.keypoint_scores[:, :shown].copy(),
            data={"xyxy": self.boxes.copy(), "score": self.scores.copy(), "pose_score": self.pose_scores.copy()},
        )

    def to_dataframe(self) -> Any:
        """A pandas.DataFrame with one row a person.

        Columns: person, label, score, pose_score, x1, y1, x2, y2, then <name>_x, <name>_y, <name>_score of each
        keypoint. Without a skeleton the names are keypoint_0, keypoint_1, ... Raises BackendUnavailable when pandas is
        not installed.
        """
        pandas = _import("pandas")
        names = [f"keypoint_{index}" for index in range(self.num_keypoints)]
        if self.skeleton is not None:
            names = list(self.skeleton.names)
        columns: dict[str, npt.NDArray[Any]] = {
            "person": np.arange(len(self)),
            "label": self.labels.copy(),
            "score": self.scores.copy(),
            "pose_score": self.pose_scores.copy(),
        }
        columns |= {name: self.boxes[:, index].copy() for index, name in enumerate(("x1", "y1", "x2", "y2"))}
        triples = self._triples()
        for index, name in enumerate(names):
            columns |= {f"{name}_{part}": triples[:, index, place] for place, part in enumerate(("x", "y", "score"))}
        return pandas.DataFrame(columns)

    def _triples(self) -> Floats:
        """(P, K, 3): x, y, score of each keypoint."""
        return np.concatenate([self.keypoints, self.keypoint_scores[..., None]], axis=-1)


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise BackendUnavailable(f"{name} cannot be imported ({error}): pip install {name}") from error


def _finite(value: float, digits: int | None) -> float | None:
    if not math.isfinite(value):
        return None
    return value if digits is None else round(value, digits)


def _count(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"
