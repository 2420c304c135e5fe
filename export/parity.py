"""How far an artifact's people are from the reference's: matching, deviation in pixels, OKS. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from yolopose.evaluation import iou_matrix, oks_matrix
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

BORDERLINE = 1e-4  # a score or IoU this near to its threshold may fall on either side of it
MATCH_IOU = 0.5
AREA_OF_BOX = 0.53  # a person's segmentation area as a share of the box: COCO's mean, for OKS without labels


@dataclass(frozen=True)
class ParityReport:
    """Sums over all images. Deviations are over matched people, in pixels of the original images; ``None`` without any.

    missing: people of the reference alone; extra: people of the artifact alone; borderline: those of either kind whose
    score or overlap is within 1e-4 of its threshold (they are in neither of the two other counts). A person with a
    value that is not finite is missing and extra at once.
    """

    images: int
    people: int
    matched: int
    missing: int
    extra: int
    borderline: int
    max_px: float | None
    mean_px: float | None
    max_score_deviation: float | None
    mean_oks: float | None
    worst_image: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _match(reference: PoseResult, artifact: PoseResult) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Pairs by falling IoU (same label, at least ``MATCH_IOU``), then the people of either side that stay alone."""
    iou = np.nan_to_num(iou_matrix(reference.boxes, artifact.boxes))  # a NaN box overlaps nothing
    iou[reference.labels[:, None] != artifact.labels[None]] = 0
    pairs = []
    free_reference, free_artifact = set(range(len(reference))), set(range(len(artifact)))
    for flat in np.argsort(-iou, axis=None, kind="stable"):
        i, j = divmod(int(flat), max(len(artifact), 1))
        if iou[i, j] < MATCH_IOU:
            break
        if i in free_reference and j in free_artifact:
            pairs.append((i, j))
            free_reference.remove(i)
            free_artifact.remove(j)
    return pairs, sorted(free_reference), sorted(free_artifact)


def _count_borderline(alone: PoseResult, others: PoseResult, score_threshold: float, iou_threshold: float) -> int:
    """How many of ``alone`` are there only because a score or an overlap with a kept person is at its threshold."""
    at_score = np.abs(alone.scores - score_threshold) <= BORDERLINE
    at_overlap = (np.abs(iou_matrix(alone.boxes, others.boxes) - iou_threshold) <= BORDERLINE).any(axis=1)
    return int((at_score | at_overlap).sum())


def compare_people(
    reference: Sequence[PoseResult],
    artifact: Sequence[PoseResult],
    skeleton: Skeleton,
    score_threshold: float,
    iou_threshold: float = 0.65,
    names: Sequence[str] = (),
) -> ParityReport:
    """Compare the people of the same images, image by image.

    Pixel deviation is the largest (mean: average) absolute difference over box corners and keypoints of matched people.
    OKS takes the reference's keypoints for the truth, all of them labelled, with 0.53 x box area for the area.
    ``names`` label the images for ``worst_image``, the one with the largest deviation.
    """
    if len(reference) != len(artifact):
        raise ValueError(
            f"reference has {len(reference)} images, artifact {len(artifact)}: they must be the same images"
        )
    sigmas = np.asarray(skeleton.sigmas)
    missing = extra = borderline = 0
    max_px: list[float] = []
    deviations: list[np.ndarray] = []
    score_deviations: list[float] = []
    oks: list[float] = []
    worst: tuple[float, str | None] = (-1.0, None)
    for index, (expected, actual) in enumerate(zip(reference, artifact, strict=True)):
        pairs, lost, found = _match(expected, actual)
        near_lost = _count_borderline(expected[lost], actual, score_threshold, iou_threshold)
        near_found = _count_borderline(actual[found], expected, score_threshold, iou_threshold)
        broken = [(i, j) for i, j in pairs if not _finite(actual, j)]
        pairs = [pair for pair in pairs if pair not in broken]
        missing += len(broken)
        extra += len(broken)
        missing += len(lost) - near_lost
        extra += len(found) - near_found
        borderline += near_lost + near_found
        for i, j in pairs:
            difference = np.concatenate(
                [(expected.boxes[i] - actual.boxes[j]).ravel(), (expected.keypoints[i] - actual.keypoints[j]).ravel()]
            )
            deviations.append(np.abs(difference))
            max_px.append(float(deviations[-1].max()))
            score_deviations.append(
                max(
                    abs(float(expected.scores[i] - actual.scores[j])),
                    float(np.abs(expected.keypoint_scores[i] - actual.keypoint_scores[j]).max()),
                )
            )
            oks.append(_oks(expected, i, actual, j, sigmas))
            if max_px[-1] > worst[0]:
                worst = (max_px[-1], names[index] if names else str(index))
    return ParityReport(
        images=len(reference),
        people=sum(len(people) for people in reference),
        matched=len(oks),
        missing=missing,
        extra=extra,
        borderline=borderline,
        max_px=max(max_px, default=None),
        mean_px=float(np.mean(np.concatenate(deviations))) if deviations else None,
        max_score_deviation=max(score_deviations, default=None),
        mean_oks=float(np.mean(oks)) if oks else None,
        worst_image=worst[1],
    )


def _finite(people: PoseResult, i: int) -> bool:
    return bool(np.isfinite(people.keypoints[i]).all() and np.isfinite(people.keypoint_scores[i]).all())


def _oks(expected: PoseResult, i: int, actual: PoseResult, j: int, sigmas: np.ndarray) -> float:
    """OKS of one pair, see ``compare_people``."""
    x1, y1, x2, y2 = expected.boxes[i]
    truth = np.concatenate([expected.keypoints[i], np.full((len(sigmas), 1), 2.0)], axis=1)
    area = np.array([AREA_OF_BOX * max(float((x2 - x1) * (y2 - y1)), 1.0)])
    return float(oks_matrix(actual.keypoints[j][None], truth[None], area, sigmas)[0, 0])
