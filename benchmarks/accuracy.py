"""What the people that a network finds are worth: counts and flags, parity with the reference, AP against labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from yolopose.bootstrap import Matches, match_people
from yolopose.evaluation import Convention, evaluate
from yolopose.runtime.result import CANDIDATES_CUT, NMS_NOT_CONVERGED, PEOPLE_CUT, PoseResult
from yolopose.runtime.skeleton import Skeleton

from .inputs import BenchImages
from .report import Found


def summary(results: Sequence[PoseResult], score: float) -> Found:
    def flagged(bit: int) -> int:
        return sum(bool(people.flags & bit) for people in results)

    return Found(
        score=score,
        images=len(results),
        people=sum(len(people) for people in results),
        max_candidates=max((people.num_candidates for people in results), default=0),
        candidates_cut=flagged(CANDIDATES_CUT),
        people_cut=flagged(PEOPLE_CUT),
        nms_not_converged=flagged(NMS_NOT_CONVERGED),
    )


def parity(
    reference: Sequence[PoseResult],
    artifact: Sequence[PoseResult],
    skeleton: Skeleton,
    score: float,
    iou: float,
    images: BenchImages,
) -> dict[str, Any]:
    """Fields of ``export.parity.ParityReport``; both lists in the order of ``images.paths``."""
    from yolopose.export.parity import compare_people  # numpy alone: neither torch nor onnx

    names = [path.name for path in images.paths]
    report = compare_people(reference, artifact, skeleton, score, iou_threshold=iou, names=names)
    return report.to_dict()


def average_precision(
    results: Sequence[PoseResult], skeleton: Skeleton, images: BenchImages, convention: Convention
) -> dict[str, Any]:
    """Fields of ``evaluation.KeypointAP`` over the images of this run; they must be labelled."""
    assert images.dataset is not None, "AP needs labels"
    by_id = dict(zip(images.image_ids, results, strict=True))
    figures = evaluate(by_id, images.dataset, skeleton, image_ids=list(images.image_ids), images=convention)
    return figures.to_dict()


def matches(results: Sequence[PoseResult], skeleton: Skeleton, images: BenchImages, convention: Convention) -> Matches:
    """The same people matched to the labels, so that their AP can be compared with that of others."""
    assert images.dataset is not None, "AP needs labels"
    by_id = dict(zip(images.image_ids, results, strict=True))
    return match_people(by_id, images.dataset, skeleton, image_ids=list(images.image_ids), images=convention)
