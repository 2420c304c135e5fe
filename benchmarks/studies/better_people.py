"""``python -m yolopose.benchmarks.studies.better_people``: which consensus of candidates, and which score, are best.

For each network and data set the candidates of every image are computed once. Forms of the consensus are then compared
on every second image, and some are reported on the other half and on all images, with paired intervals. Labels
of another skeleton are reduced to the keypoints that network and labels share, by name. Results: docs/experiments.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.bootstrap import MatchedPeople, ap_difference, match_people
from yolopose.data.coco import CocoKeypoints, plain_name, read_coco
from yolopose.deploy.consensus import TINY
from yolopose.evaluation import AP_SCORE_THRESHOLD, AREA_OF_BOX, iou_matrix
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.errors import UsageError
from yolopose.runtime.letterbox import Placement
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

CANDIDATES, MAX_PEOPLE, IOU = 300, 100, 0.65


@dataclass(frozen=True)
class Form:
    """One way to make people from candidates; the default is the one that ships.

    keypoints   "best" or "consensus"
    ranking     "score", "keypoints" (times the mean keypoint score) or "pose" (times the agreement too)
    ramp        weights grow from 0 at the IoU of support; else they are the scores above it
    visible     keypoint score above which a keypoint counts; None: weighted by its score
    """

    keypoints: str = "consensus"
    ranking: str = "pose"
    support_iou: float = 0.7
    supporters: int = 8
    ramp: bool = True
    score_power: float = 1.0
    keypoint_power: float = 0.0
    visible: float | None = None
    agreement_power: float = 1.0


SHIPPED, BEST = Form(), Form("best", "score")
FORMS = {
    "best candidate, by score": BEST,
    "best candidate, by keypoint scores": Form("best", "keypoints"),
    "consensus, by score": Form(ranking="score"),
    "consensus, by keypoint scores": Form(ranking="keypoints"),
    "consensus, pose score (shipped)": SHIPPED,
    **{f"IoU of support {iou}": Form(support_iou=iou) for iou in (0.5, 0.6, 0.8, 0.9)},
    **{f"{count} supporters": Form(supporters=count) for count in (3, 5, 10, 15, 30)},
    "weights without ramp, IoU 0.8": Form(ramp=False, support_iou=0.8),
    **{f"weights by score^{power:g}": Form(score_power=power) for power in (0.0, 0.5, 2.0)},
    **{f"weights by keypoint score^{power:g}": Form(keypoint_power=power) for power in (0.5, 1.0)},
    **{f"visible above {score}": Form(visible=score) for score in (0.1, 0.3, 0.5)},
    **{f"agreement^{power:g}": Form(agreement_power=power) for power in (0.5, 2.0)},
}


@dataclass(frozen=True)
class Candidates:
    """The C best anchors of one image by score, in letterboxed pixels; ``kept``: indices that NMS keeps."""

    boxes: np.ndarray
    scores: np.ndarray
    keypoints: np.ndarray
    keypoint_scores: np.ndarray
    kept: np.ndarray
    overlaps: np.ndarray  # (P, C) IoU of the kept with all
    placement: Placement


@dataclass(frozen=True)
class Subject:
    """A network on a data set: candidates by image id, and the labels reduced to the shared keypoints."""

    name: str
    candidates: dict[int, Candidates]
    labels: CocoKeypoints
    skeleton: Skeleton  # of the labels
    network: Skeleton
    shared: list[int]  # keypoints of the network that the labels have, in their order


def parse_subject(text: str) -> tuple[str, Path, Path, int]:
    """The arguments of ``find_candidates``. Raises UsageError."""
    parts = text.split(",")
    if len(parts) != 4 or not parts[3].isdecimal():
        raise UsageError(f"expected WEIGHTS,LABELS.json,IMAGES,SIZE, got {text!r}")
    return parts[0], Path(parts[1]), Path(parts[2]), int(parts[3])


def find_candidates(weights: str, labels: Path, images: Path, size: int) -> Subject:
    import yolopose
    from yolopose.deploy.reference import ReferenceEstimator, greedy_nms
    from yolopose.runtime import read_image

    net = yolopose.load(weights)
    dataset, skeleton, shared = shared_labels(read_coco(labels, images), net.skeleton)
    estimate = ReferenceEstimator(net, shape_hw=(size, size))
    found = {}
    for image_id, image in dataset.images.items():
        predictions, placement = estimate.predict(read_image(image.path))
        boxes, classes, keypoints, keypoint_scores = (part[0].numpy() for part in predictions)
        scores = classes.max(1)
        top = np.argsort(-scores, kind="stable")[:CANDIDATES]
        above = top[scores[top] > AP_SCORE_THRESHOLD]
        kept = greedy_nms(boxes[above], scores[above], np.zeros(len(above), int), IOU)[:MAX_PEOPLE]
        found[image_id] = Candidates(
            boxes[top], scores[top], keypoints[top], keypoint_scores[top], kept,
            iou_matrix(boxes[top][kept], boxes[top]), placement,
        )  # fmt: skip
    name = f"{Path(weights).stem} {size} {labels.parent.name}"
    return Subject(name, found, dataset, skeleton, net.skeleton, shared)


def shared_labels(labels: CocoKeypoints, skeleton: Skeleton) -> tuple[CocoKeypoints, Skeleton, list[int]]:
    """Labels with the keypoints that ``skeleton`` names too, their skeleton, and their indices in ``skeleton``."""
    names = labels.keypoint_names or skeleton.names
    plain = [plain_name(name) for name in names]
    shared = [i for i, name in enumerate(skeleton.names) if plain_name(name) in plain]
    columns = [plain.index(plain_name(skeleton.names[i])) for i in shared]
    part = Skeleton(
        f"{len(shared)} shared", tuple(skeleton.names[i] for i in shared), (), (),
        tuple(skeleton.sigmas[i] for i in shared),
    )  # fmt: skip
    people = {
        image_id: tuple(
            replace(
                person,
                keypoints=person.keypoints[columns],
                num_keypoints=int((person.keypoints[columns, 2] > 0).sum()),
            )
            for person in some
        )
        for image_id, some in labels.people.items()
    }
    reduced = replace(labels, people=people, num_keypoints=len(shared), keypoint_names=part.names)
    return reduced, part, shared


def people_of(found: Candidates, form: Form, sigmas: Sequence[float]) -> PoseResult:
    """The people of one image in this form, in pixels of the image; all keypoints of the network."""
    kept, scores = found.kept, found.scores.astype(np.float64)
    excess = found.overlaps - form.support_iou
    weights = np.where(excess > 0, excess if form.ramp else 1.0, 0.0) * scores**form.score_power
    chosen = np.argsort(-weights, axis=1, kind="stable")[:, : form.supporters]
    weights = np.take_along_axis(weights, chosen, 1)
    weights = weights / np.maximum(weights.sum(1, keepdims=True), TINY)  # (P, S)
    points, visible = found.keypoints[chosen], found.keypoint_scores[chosen]  # (P, S, K, 2), (P, S, K)
    for_points = weights[..., None] * np.maximum(visible, 1e-6) ** form.keypoint_power
    for_points = for_points / np.maximum(for_points.sum(1, keepdims=True), TINY)
    mean = (for_points[..., None] * points).sum(1)
    squared = (for_points * ((points - mean[:, None]) ** 2).sum(-1)).sum(1)  # (P, K)
    keypoint_scores = (weights[..., None] * visible).sum(1)
    if form.keypoints == "best":
        mean, keypoint_scores = found.keypoints[kept], found.keypoint_scores[kept]
    sides = np.maximum(found.boxes[kept, 2:] - found.boxes[kept, :2], 0)
    area = np.maximum(sides.prod(1, keepdims=True), 1)
    agreement = np.exp(-squared / (2 * AREA_OF_BOX * area * (2 * np.array(sigmas)) ** 2))
    counted = keypoint_scores if form.visible is None else (keypoint_scores > form.visible).astype(float)
    total = np.maximum(counted.sum(1), TINY)
    ranking = scores[kept]
    if form.ranking != "score":
        ranking = ranking * (counted * keypoint_scores).sum(1) / total
    if form.ranking == "pose":
        ranking = ranking * ((counted * agreement).sum(1) / total) ** form.agreement_power
    placement = found.placement
    return PoseResult(
        boxes=placement.boxes_to_image(found.boxes[kept]),
        scores=found.scores[kept],
        labels=np.zeros(len(kept), np.int32),
        keypoints=placement.to_image(mean),
        keypoint_scores=keypoint_scores,
        pose_scores=ranking.astype(np.float32),
        keypoint_spread=placement.lengths_to_image(np.sqrt(squared)),
    )


def matched(subject: Subject, form: Form, image_ids: Sequence[int]) -> MatchedPeople:
    results = {}
    for image_id in image_ids:
        people = people_of(subject.candidates[image_id], form, subject.network.sigmas)
        results[image_id] = replace(
            people,
            keypoints=people.keypoints[:, subject.shared],
            keypoint_scores=people.keypoint_scores[:, subject.shared],
            keypoint_spread=None,
        )
    return match_people(results, subject.labels, subject.skeleton, image_ids=image_ids)


def lines_of(subjects: Sequence[Subject]) -> Iterator[str]:
    """The tables in Markdown."""
    yield "AP of every form on the half of the images that chooses:\n"
    yield "| form | " + " | ".join(subject.name for subject in subjects) + " |"
    yield "|---|" + "---|" * len(subjects)
    halves = [sorted(subject.candidates) for subject in subjects]
    for name, form in FORMS.items():
        aps = [matched(subject, form, ids[0::2]).ap() for subject, ids in zip(subjects, halves, strict=True)]
        yield f"| {name} | " + " | ".join("-" if ap is None else f"{100 * ap:.2f}" for ap in aps) + " |"
    yield "\nAgainst the best candidate ranked by score, paired 95 % intervals:\n"
    yield "| network, input, data | images | form | AP |"
    yield "|---|---|---|---|"
    for subject, ids in zip(subjects, halves, strict=True):
        for what, some in (("the other half", ids[1::2]), ("all", ids)):
            before = matched(subject, BEST, some)
            for name in list(FORMS)[1:5]:
                change = ap_difference(before, matched(subject, FORMS[name], some))
                yield f"| {subject.name} | {what} | {name} | {'-' if change is None else change.in_points()} |"


def build_parser() -> argparse.ArgumentParser:
    made = parser("better_people", __doc__ or "")
    made.add_argument(
        "subjects",
        nargs="+",
        metavar="WEIGHTS,LABELS.json,IMAGES,SIZE",
        help="a network, a labeled data set and an input size; labels may have another skeleton",
    )
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    subjects = []
    for text in arguments.subjects:
        console.say(f"candidates of {text}")
        subjects.append(find_candidates(*parse_subject(text)))
    document: dict[str, Any] = {"lines": list(lines_of(subjects))}
    console.result(document, "\n".join(document["lines"]))


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
