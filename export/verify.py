"""Verification: run an artifact and its reference on the same images, compare their people, give a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from yolopose.bootstrap import APDifference, MatchedPeople, ap_difference, match_image_set
from yolopose.data.image_set import ImageSet
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.evaluation import AP_SCORE_THRESHOLD, MATCH_IOU, iou_matrix, oks_to_reference
from yolopose.runtime.contract import ParityInfo, PoseInfo, read_contract
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.machine import installed_versions, machine_now
from yolopose.runtime.result import NMS_NOT_CONVERGED, PoseResult
from yolopose.runtime.skeleton import Skeleton

from .source import Source

BORDERLINE = 1e-4  # a score or IoU this close to its threshold may fall on either side of it
FLOAT32_PX = 0.05  # tolerances for float32: rounding only
FLOAT32_SCORE = 1e-4
MIN_PEOPLE = 20  # with fewer people in the reference, the verdict is unverified
MIN_AP = 0.01  # with a lower reference AP, the verdict is unverified
MIN_OKS = 0.99  # mean OKS with the reference that fp16 and int8 must keep, without labels
MAX_LOST = 0.02  # share of people that fp16 and int8 may lose or add, without labels
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


def _match(reference: PoseResult, artifact: PoseResult) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Greedy pairs by falling IoU (same label, at least ``MATCH_IOU``), then the unmatched people of either side."""
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


def _finite(people: PoseResult, i: int) -> bool:
    return bool(np.isfinite(people.keypoints[i]).all() and np.isfinite(people.keypoint_scores[i]).all())


@dataclass(frozen=True)
class Verification:
    """Verdict of the accuracy gate.

    report            comparison of people that the verdict rests on
    score_threshold   at which people were compared; below the default where the network finds too few
    info              verdict and figures, for the contract
    reason            one sentence that explains the verdict
    ap                change of keypoint AP from reference to artifact; None without labels
    consensus         change of the reference's AP from its best candidates, ranked by score, to consensus keypoints,
                      ranked by pose score; None without labels, and for a network that gives each person once
    """

    report: ParityReport
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
    exact: bool,
    max_ap_drop: float,
    progress: Progress,
    backend: str = "auto",
    device: str | None = None,
) -> Verification:
    """Compare the artifact, run by ``backend`` on ``device``, with the source's reference on ``images``.

    exact         the artifact is float32: its people must equal the reference's within rounding
    max_ap_drop   allowed loss of keypoint AP for other precisions on labeled images, in points of 100
    """
    contract = read_contract(artifact)
    nms, shape_hw = contract.nms, (contract.input.height.opt, contract.input.width.opt)
    reference = source.reference(nms, shape_hw, contract.pose)
    expected = list(_run_reference(reference, images, progress))
    lowered = sum(len(people) for people in expected) < MIN_PEOPLE
    if lowered:  # compare the arithmetic at a threshold at which the network finds candidates
        few = [images.read(i) for i in range(min(len(images.names), 8))]
        reference.score_threshold = reference.threshold_for(10, few)
        expected = list(_run_reference(reference, images, progress))
    threshold = reference.score_threshold

    def run_artifact(threshold: float) -> Iterator[PoseResult]:
        with PoseEstimator(artifact, backend, device, score_threshold=threshold) as estimate:
            yield from _run_artifact(estimate, images, progress)

    actual = list(run_artifact(threshold))
    # Where R rounds of suppression were not enough, the artifact sets a flag and equal people are not promised.
    converged = [i for i, people in enumerate(actual) if not people.flags & NMS_NOT_CONVERGED]
    report = compare_people(
        [expected[i] for i in converged],
        [actual[i] for i in converged],
        source.skeleton,
        threshold,
        iou_threshold=nms.iou_threshold,
        names=[images.names[i] for i in converged],
    )
    left_out = len(actual) - len(converged)
    ap = consensus = None
    if images.labels is not None:
        reference.score_threshold = AP_SCORE_THRESHOLD
        before, consensus = _match_reference(reference, source, images, progress)
        after = match_image_set(run_artifact(AP_SCORE_THRESHOLD), images, source.skeleton)
        ap = ap_difference(before, after)
    verdict, reason = judge(
        report, exact=exact, lowered=lowered, ap=ap, max_ap_drop=max_ap_drop, reference_name=source.reference_name
    )
    if left_out:
        reason += f"; {left_out} images left out: their suppression chains are longer than {nms.rounds} rounds"
    info = ParityInfo(
        verdict=verdict,
        images=report.images,
        matched_people=report.matched,
        max_px=_digits(report.max_px),
        mean_px=_digits(report.mean_px),
        max_score_deviation=_digits(report.max_score_deviation),
        mean_oks=_digits(report.mean_oks),
        ap_reference=_digits(ap.before) if ap else None,
        ap_artifact=_digits(ap.after) if ap else None,
        ap_interval=(_digits(ap.interval[0]), _digits(ap.interval[1])) if ap and ap.interval else None,
        worst_image=_worst_by_labels(ap, images) if ap else report.worst_image,
        versions=installed_versions(),
        isa=" ".join(machine_now().isa),
    )
    return Verification(report, threshold, info, reason, ap, consensus)


@overload
def _digits(value: float) -> float: ...
@overload
def _digits(value: None) -> None: ...
def _digits(value: float | None) -> float | None:
    """Four significant digits: further ones differ between machines."""
    return None if value is None else float(f"{value:.4g}")


def _run_reference(reference: ReferenceEstimator, images: ImageSet, progress: Progress) -> Iterator[PoseResult]:
    count = len(images.names)
    for i in progress(range(count), count, f"reference at score {reference.score_threshold:.3g}"):
        yield reference.one(images.read(i))


def _match_reference(
    reference: ReferenceEstimator, source: Source, images: ImageSet, progress: Progress
) -> tuple[MatchedPeople, APDifference | None]:
    """People of the reference, matched to the labels; its change of AP by consensus (``Verification.consensus``)."""
    if source.nms_free:
        return match_image_set(_run_reference(reference, images, progress), images, source.skeleton), None
    by_consensus = reference.pose.keypoints == "consensus"
    consensus = reference.pose if by_consensus else PoseInfo("consensus")
    best: list[PoseResult] = []
    means: list[PoseResult] = []
    count = len(images.names)
    for i in progress(range(count), count, f"reference at score {reference.score_threshold:.3g}"):
        found = reference.predict(images.read(i))
        best.append(reference.people(*found, PoseInfo("best")))
        means.append(reference.people(*found, consensus))
    plain = match_image_set(best, images, source.skeleton, ranking="score")
    better = match_image_set(means, images, source.skeleton)
    shipped = better if by_consensus else match_image_set(best, images, source.skeleton)
    return shipped, ap_difference(plain, better)


def _run_artifact(estimate: PoseEstimator, images: ImageSet, progress: Progress) -> Iterator[PoseResult]:
    count, label = len(images.names), f"artifact at score {estimate.score_threshold:.3g}"
    for start in progress(range(0, count, CHUNK), -(-count // CHUNK), label):
        yield from estimate([images.read(i) for i in range(start, min(start + CHUNK, count))])


def _worst_by_labels(ap: APDifference, images: ImageSet) -> str | None:
    """Name of the image whose people lose most OKS with the labels; None where no image loses."""
    return None if ap.worst_image is None else images.names[images.image_ids.index(ap.worst_image)]


def judge(
    report: ParityReport,
    *,
    exact: bool,
    lowered: bool,
    ap: APDifference | None,
    max_ap_drop: float,
    reference_name: str = "PyTorch",
) -> tuple[str, str]:
    """Verdict ("passed", "failed" or "unverified") and the sentence that explains it.

    lowered   people were compared at a score threshold below the default
    ap        change of keypoint AP; None without labels. The verdict depends on the difference, not on its interval.
    """
    differing = report.missing + report.extra
    if exact:
        px, score = report.max_px or 0.0, report.max_score_deviation or 0.0
        if differing or not (px <= FLOAT32_PX and score <= FLOAT32_SCORE):
            return "failed", (
                f"float32 must match {reference_name} within tolerance: {differing} people differ, "
                f"{px:.3g} px (at most {FLOAT32_PX}), score {score:.2g} (at most {FLOAT32_SCORE})"
            )
    if lowered or report.people < MIN_PEOPLE:
        return "unverified", (
            f"{reference_name} finds fewer than {MIN_PEOPLE} people on these images at the default score threshold, "
            "too few for a verdict: give images with people by --images"
        )
    if exact:
        return "passed", f"all {report.matched} people match {reference_name} within tolerance"
    if ap is not None:
        if ap.before < MIN_AP:
            return "unverified", (
                f"the reference AP is too low to measure a drop: {reference_name} has keypoint AP "
                f"{100 * ap.before:.2f} on these labels"
            )
        verdict = "passed" if -100 * ap.difference <= max_ap_drop else "failed"
        return verdict, f"keypoint AP {ap.in_points()}, allowed drop {max_ap_drop:g} points"
    share, oks = differing / report.people, report.mean_oks or 0.0
    verdict = "passed" if oks >= MIN_OKS and share <= MAX_LOST else "failed"
    return verdict, (
        f"mean OKS with {reference_name} {oks:.4f} (at least {MIN_OKS}), {differing} of {report.people} people differ "
        f"(at most {MAX_LOST:.0%})"
    )
