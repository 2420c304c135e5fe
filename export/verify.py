"""Verification: run an artifact and its reference on the same images, compare their people, have the gate judge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from yolopose.bootstrap import APDifference, MatchedPeople, ap_difference, match_image_set
from yolopose.data.image_set import ImageSet
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.evaluation import AP_SCORE_THRESHOLD, Ranking, iou_matrix, oks_to_reference
from yolopose.runtime.contract import ParityInfo, PoseInfo, read_contract
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.machine import installed_versions, machine_now
from yolopose.runtime.result import NMS_NOT_CONVERGED, PoseResult
from yolopose.runtime.skeleton import Skeleton

from .config import Limits
from .gate import MIN_PEOPLE, PeopleChange, is_finite, judge, judge_float32, match_by_boxes, people_change
from .source import Source

BORDERLINE = 1e-4  # a score or IoU this close to its threshold may fall on either side of it
CHUNK = 4  # images per call of the artifact, so that batches are verified as well

Progress = Callable[[Iterable[int], int, str], Iterable[int]]  # (items, total, label)


@dataclass(frozen=True)
class ParityReport:
    """Differences between the people of two estimators, summed over all images.

    Deviations are over matched people, in pixels of the original images; None without any. ``missing`` people are found
    by the reference alone, ``extra`` people by the artifact alone. ``borderline`` counts people of either kind whose
    score or overlap is within 1e-4 of its threshold; the two other counts leave them out. A person with a value that is
    not finite counts as missing and as extra.
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


def _count_borderline(alone: PoseResult, others: PoseResult, score_threshold: float, iou_threshold: float) -> int:
    """Number of people in ``alone`` whose score, or overlap with one of ``others``, is at its threshold."""
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

    The pixel deviation of a matched person is the largest absolute difference over box corners and keypoints; the mean
    is over all of these coordinates. OKS takes the reference's keypoints as ground truth, all of them labeled, with
    0.53 x box area as area. ``names`` of the images are for ``worst_image``, the one with the largest deviation.
    """
    if len(reference) != len(artifact):
        raise ValueError(
            f"reference has {len(reference)} images, artifact {len(artifact)}: they must be the same images"
        )
    missing = extra = borderline = 0
    max_px: list[float] = []
    deviations: list[np.ndarray] = []
    score_deviations: list[float] = []
    oks: list[float] = []
    worst: tuple[float, str | None] = (-1.0, None)
    for index, (expected, actual) in enumerate(zip(reference, artifact, strict=True)):
        pairs = match_by_boxes(expected, actual)
        lost = sorted(set(range(len(expected))) - {i for i, _ in pairs})
        found = sorted(set(range(len(actual))) - {j for _, j in pairs})
        near_lost = _count_borderline(expected[lost], actual, score_threshold, iou_threshold)
        near_found = _count_borderline(actual[found], expected, score_threshold, iou_threshold)
        broken = [(i, j) for i, j in pairs if not is_finite(actual, j)]
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
                    abs(float(expected.pose_scores[i] - actual.pose_scores[j])),
                    float(np.abs(expected.keypoint_scores[i] - actual.keypoint_scores[j]).max()),
                )
            )
            oks.append(float(oks_to_reference(actual[[j]], expected[[i]], skeleton)[0, 0]))
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


@dataclass(frozen=True)
class Verification:
    """Verdict of the accuracy gate.

    report            comparison of people; for float32 the verdict rests on it
    change            what became of people, for float16 and int8; None for float32
    score_threshold   at which people were compared; below the default where the network finds too few
    info              verdict and figures, for the contract
    reason            one sentence that explains the verdict
    ap                change of keypoint AP from reference to artifact; None without labels
    consensus         change of the reference's AP from its best candidates, ranked by score, to consensus keypoints,
                      ranked by pose score; None without labels, and for a network that gives each person once
    """

    report: ParityReport
    change: PeopleChange | None
    score_threshold: float
    info: ParityInfo
    reason: str
    ap: APDifference | None
    consensus: APDifference | None = None


def verify(
    artifact: Path,
    source: Source,
    images: ImageSet,
    *,
    limits: Limits | None,
    progress: Progress,
    backend: str = "auto",
    device: str | None = None,
) -> Verification:
    """Compare the artifact, run by ``backend`` on ``device``, with the source's reference on ``images``.

    limits   what the artifact may change; None for float32, whose people must equal the reference's within rounding
    """
    contract = read_contract(artifact)
    nms, shape_hw = contract.nms, (contract.input.height.opt, contract.input.width.opt)
    reference = source.reference(nms, shape_hw, contract.pose)
    threshold = nms.score_threshold
    run_at = threshold if limits is None else min(threshold, AP_SCORE_THRESHOLD)  # people above both are the same

    def run_reference(run_at: float) -> _ReferencePeople:
        reference.score_threshold = run_at
        return _run_reference(reference, source, images, progress)

    def run_artifact(run_at: float) -> list[PoseResult]:
        with PoseEstimator(artifact, backend, device, score_threshold=run_at) as estimate:
            return list(_run_artifact(estimate, images, progress))

    expected = run_reference(run_at)
    lowered = sum(len(people) for people in _above(expected.shipped, threshold)) < MIN_PEOPLE
    if lowered:  # compare the arithmetic at a threshold at which the network finds candidates
        few = [images.read(i) for i in range(min(len(images.names), 8))]
        threshold = reference.threshold_for(10, few)
        if threshold < run_at:
            run_at = threshold
            expected = run_reference(run_at)
    actual = run_artifact(run_at)
    # Where R rounds of suppression were not enough, the artifact sets a flag and equal people are not promised.
    compared = [i for i, people in enumerate(actual) if limits or not people.flags & NMS_NOT_CONVERGED]
    report = compare_people(
        _above([expected.shipped[i] for i in compared], threshold),
        _above([actual[i] for i in compared], threshold),
        source.skeleton,
        threshold,
        iou_threshold=nms.iou_threshold,
        names=[images.names[i] for i in compared],
    )
    ap = consensus = None
    if images.labels is not None:
        if run_at > AP_SCORE_THRESHOLD:
            expected, actual = run_reference(AP_SCORE_THRESHOLD), run_artifact(AP_SCORE_THRESHOLD)
        ap, consensus = _compare_ap(expected, actual, images, source)
    advice = f"give {'more ' if images.paths else ''}images with people by --images"
    change = None
    if limits is None:
        judgment = judge_float32(
            report.missing + report.extra, report.matched, report.max_px or 0.0, report.max_score_deviation or 0.0,
            lowered, source.reference_name, advice,
        )  # fmt: skip
    else:
        change = people_change(expected.shipped, actual, source.skeleton, threshold)
        judgment = judge(
            change, ap, limits,
            images=len(images), lowered=lowered, reference_name=source.reference_name, advice=advice,
        )  # fmt: skip
    reason = judgment.reason
    if left_out := len(actual) - len(compared):
        reason += f"; {left_out} images left out: their suppression chains are longer than {nms.rounds} rounds"
    info = ParityInfo(
        verdict=judgment.verdict,
        images=report.images,
        matched_people=report.matched,
        max_px=_digits(report.max_px),
        mean_px=_digits(report.mean_px),
        max_score_deviation=_digits(report.max_score_deviation),
        mean_oks=_digits(change.mean_oks if change else report.mean_oks),
        ap_reference=_digits(ap.before) if ap else None,
        ap_artifact=_digits(ap.after) if ap else None,
        ap_interval=(_digits(ap.interval[0]), _digits(ap.interval[1])) if ap and ap.interval else None,
        worst_image=_worst_by_labels(ap, images) if ap else report.worst_image,
        versions=installed_versions(),
        isa=" ".join(machine_now().isa),
    )
    return Verification(report, change, threshold, info, reason, ap, consensus)


def _above(people: Sequence[PoseResult], threshold: float) -> list[PoseResult]:
    return [each[each.scores > threshold] for each in people]


@overload
def _digits(value: float) -> float: ...
@overload
def _digits(value: None) -> None: ...
def _digits(value: float | None) -> float | None:
    """Four significant digits: further ones differ between machines."""
    return None if value is None else float(f"{value:.4g}")


@dataclass(frozen=True)
class _ReferencePeople:
    """People of all images: as the artifact should give them; where AP is taken also in both forms of keypoints."""

    shipped: list[PoseResult]
    best: list[PoseResult] | None = None
    consensus: list[PoseResult] | None = None


def _run_reference(
    reference: ReferenceEstimator, source: Source, images: ImageSet, progress: Progress
) -> _ReferencePeople:
    both = images.labels is not None and not source.nms_free and reference.score_threshold <= AP_SCORE_THRESHOLD
    shipped, best, consensus = [], [], []
    count = len(images.names)
    for i in progress(range(count), count, f"reference at score {reference.score_threshold:.3g}"):
        found = reference.predict(images.read(i))
        shipped.append(reference.people(*found))
        if both:
            by_consensus = reference.pose.keypoints == "consensus"
            other = reference.people(*found, PoseInfo("best") if by_consensus else PoseInfo("consensus"))
            best.append(other if by_consensus else shipped[-1])
            consensus.append(shipped[-1] if by_consensus else other)
    return _ReferencePeople(shipped, best, consensus) if both else _ReferencePeople(shipped)


def _compare_ap(
    expected: _ReferencePeople, actual: Sequence[PoseResult], images: ImageSet, source: Source
) -> tuple[APDifference | None, APDifference | None]:
    """``ap`` and ``consensus`` of a Verification."""

    def match(people: Sequence[PoseResult], ranking: Ranking = "pose_score") -> MatchedPeople:
        return match_image_set(_above(people, AP_SCORE_THRESHOLD), images, source.skeleton, ranking=ranking)

    ap = ap_difference(match(expected.shipped), match(actual))
    if expected.best is None or expected.consensus is None:
        return ap, None
    return ap, ap_difference(match(expected.best, "score"), match(expected.consensus))


def _run_artifact(estimate: PoseEstimator, images: ImageSet, progress: Progress) -> Iterator[PoseResult]:
    count, label = len(images.names), f"artifact at score {estimate.score_threshold:.3g}"
    for start in progress(range(0, count, CHUNK), -(-count // CHUNK), label):
        yield from estimate([images.read(i) for i in range(start, min(start + CHUNK, count))])


def _worst_by_labels(ap: APDifference, images: ImageSet) -> str | None:
    """Name of the image whose people lose most OKS with the labels; None where no image loses."""
    return None if ap.worst_image is None else images.names[images.image_ids.index(ap.worst_image)]
