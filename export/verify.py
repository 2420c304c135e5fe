"""How far an artifact's people are from the reference's: matching, deviation in pixels, OKS. Pure numpy.

The last step before an artifact gets its name: run it on the images that PyTorch sees, compare, give a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.bootstrap import APDifference, ap_difference, match_image_set
from yolopose.data.image_set import ImageSet
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.evaluation import AP_SCORE_THRESHOLD, MATCH_IOU, iou_matrix, oks_to_reference
from yolopose.runtime.contract import ParityInfo, read_contract
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.machine import installed_versions, machine_now
from yolopose.runtime.result import NMS_NOT_CONVERGED, PoseResult
from yolopose.runtime.skeleton import Skeleton

from .source import Source

BORDERLINE = 1e-4  # a score or IoU this near to its threshold may fall on either side of it


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


FLOAT32_PX = 0.05  # float32 may differ by no more: rounding alone
FLOAT32_SCORE = 1e-4
MIN_PEOPLE = 20  # matched people under which nothing is claimed
MIN_AP = 0.01  # keypoint AP of the reference under which a drop means nothing
MIN_OKS = 0.99  # mean OKS with the reference that reduced precision must keep where there are no labels
MAX_LOST = 0.02  # and the share of people that may be lost or invented
CHUNK = 4  # images at a time, so that batches are verified as well

Progress = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True)
class Verification:
    """Verdict with its reason, the comparison it rests on, and what goes into the contract."""

    report: ParityReport
    score_threshold: float  # lower than the default where the network finds hardly anybody
    info: ParityInfo
    reason: str
    ap: APDifference | None  # from the reference to the artifact, on labelled images


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
    """Compare the artifact, run by that engine, with the reference on ``images``.

    exact: the artifact is float32, its people must equal the reference's up to rounding. max_ap_drop: points of
    keypoint AP (of 100) that other precisions may lose on labelled images.
    """
    contract = read_contract(artifact)
    nms, shape_hw = contract.nms, (contract.input.height.opt, contract.input.width.opt)
    reference = source.reference(nms, shape_hw)
    expected = list(_run_reference(reference, images, progress))
    lowered = sum(len(people) for people in expected) < MIN_PEOPLE
    if lowered:  # arithmetic is compared all the same, where the network finds candidates
        few = [images.read(i) for i in range(min(len(images.names), 8))]
        reference.score_threshold = reference.threshold_for(10, few)
        expected = list(_run_reference(reference, images, progress))
    threshold = reference.score_threshold

    def run_artifact(threshold: float) -> Iterator[PoseResult]:
        with PoseEstimator(artifact, backend, device, score_threshold=threshold) as estimate:
            yield from _run_artifact(estimate, images, progress)

    actual = list(run_artifact(threshold))
    # Where the rounds have not settled the artifact says so itself, and nothing equal is promised.
    settled = [i for i, people in enumerate(actual) if not people.flags & NMS_NOT_CONVERGED]
    report = compare_people(
        [expected[i] for i in settled],
        [actual[i] for i in settled],
        source.skeleton,
        threshold,
        iou_threshold=nms.iou_threshold,
        names=[images.names[i] for i in settled],
    )
    unsettled = len(actual) - len(settled)
    ap = None
    if images.labels is not None:
        reference.score_threshold = AP_SCORE_THRESHOLD
        before = match_image_set(_run_reference(reference, images, progress), images, source.skeleton)
        after = match_image_set(run_artifact(AP_SCORE_THRESHOLD), images, source.skeleton)
        ap = ap_difference(before, after)
    verdict, reason = judge(
        report, exact=exact, lowered=lowered, ap=ap, max_ap_drop=max_ap_drop, witness=source.reference_name
    )
    info = ParityInfo(
        verdict=verdict,
        images=report.images,
        matched_people=report.matched,
        max_px=_rounded(report.max_px),
        mean_px=_rounded(report.mean_px),
        max_score_deviation=_rounded(report.max_score_deviation),
        mean_oks=_rounded(report.mean_oks),
        ap_reference=_rounded(ap.before) if ap else None,
        ap_artifact=_rounded(ap.after) if ap else None,
        ap_interval=(_digits(ap.interval[0]), _digits(ap.interval[1])) if ap and ap.interval else None,
        worst_image=_worst_by_labels(ap, images) if ap else report.worst_image,
        versions=installed_versions(),
        isa=" ".join(machine_now().isa),
    )
    if unsettled:
        reason += f"; {unsettled} images left out, their suppression chains are deeper than {nms.rounds} rounds"
    return Verification(report, threshold, info, reason, ap)


def _rounded(value: float | None) -> float | None:
    return None if value is None else _digits(value)


def _digits(value: float) -> float:
    """Four significant digits: what is behind them is the noise of the machine."""
    return float(f"{value:.4g}")


def _run_reference(reference: ReferenceEstimator, images: ImageSet, progress: Progress) -> Iterator[PoseResult]:
    count = len(images.names)
    for i in progress(range(count), count, f"reference at score {reference.score_threshold:.3g}"):
        yield reference.one(images.read(i))


def _run_artifact(estimate: PoseEstimator, images: ImageSet, progress: Progress) -> Iterator[PoseResult]:
    count, label = len(images.names), f"artifact at score {estimate.score_threshold:.3g}"
    for start in progress(range(0, count, CHUNK), -(-count // CHUNK), label):
        yield from estimate([images.read(i) for i in range(start, min(start + CHUNK, count))])


def _worst_by_labels(ap: APDifference, images: ImageSet) -> str | None:
    """Name of the image whose people lose most OKS to the labels, None where none loses."""
    return None if ap.worst_image is None else images.names[images.image_ids.index(ap.worst_image)]


def judge(
    report: ParityReport,
    *,
    exact: bool,
    lowered: bool,
    ap: APDifference | None,
    max_ap_drop: float,
    witness: str = "PyTorch",
) -> tuple[str, str]:
    """Verdict and the sentence that explains it.

    lowered: compared at a score threshold below the default; ap: from the reference to the artifact, where labelled;
    its interval is told, but the verdict goes by the figure itself.
    """
    lost = report.missing + report.extra
    if exact:
        px, score = report.max_px or 0.0, report.max_score_deviation or 0.0
        if lost or not (px <= FLOAT32_PX and score <= FLOAT32_SCORE):
            return "failed", (
                f"float32 must give the reference's people up to rounding: {lost} people differ, "
                f"{px:.3g} px (at most {FLOAT32_PX}), score {score:.2g} (at most {FLOAT32_SCORE})"
            )
    if lowered or report.people < MIN_PEOPLE:
        return "unverified", (
            f"{witness} finds fewer than {MIN_PEOPLE} people on these images at the default score threshold, too few "
            "to judge by: name images with people by --images"
        )
    if exact:
        return "passed", f"the same {report.matched} people as {witness} up to rounding"
    if ap is not None:
        if ap.before < MIN_AP:
            own = f"{100 * ap.before:.2f}"
            return "unverified", f"{witness}'s own keypoint AP on these labels is {own}: there is nothing to lose"
        verdict = "passed" if -100 * ap.difference <= max_ap_drop else "failed"
        return verdict, f"keypoint AP {ap.in_points()}, {max_ap_drop:g} points may be lost"
    share, oks = lost / report.people, report.mean_oks or 0.0
    verdict = "passed" if oks >= MIN_OKS and share <= MAX_LOST else "failed"
    return verdict, (
        f"mean OKS with {witness} {oks:.4f} (at least {MIN_OKS}), {lost} of {report.people} people differ "
        f"(at most {MAX_LOST:.0%})"
    )
