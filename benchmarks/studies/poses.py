"""``python -m yolopose.benchmarks.studies.poses``: what pose scores and keypoint spread tell, and pictures.

Crowds: OKS of people by how far another labeled person overlaps them; where keypoints of one person leak into the
other, the consensus is worse. Phantoms: people found in images without any, at thresholds of equal recall on the
others, by score and by pose score. Calibration: distance of keypoints to their labels by their spread; the line is
fitted on every second image and judged on the others. Pictures: the best candidate (left) and the consensus (right)
with the labeled keypoints as crosses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.evaluation import iou_matrix, oks_matrix
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.output import output_folder
from yolopose.runtime.result import PoseResult

from .better_people import BEST, SHIPPED, Subject, find_candidates, parse_subject, people_of

SAME_PERSON = 0.5  # OKS
DEPLOYED_SCORE = 0.25
OVERLAPS = (0.0, 0.1, 0.3, 0.5)
BINS = 10
PICTURES = 10


def pairs_with_labels(subject: Subject, image_id: int, people: PoseResult) -> np.ndarray:
    """OKS (P, Q) of people and the Q labeled people that evaluation counts."""
    labeled = [person for person in subject.labels.people[image_id] if person.is_labeled]
    keypoints = np.stack([person.keypoints for person in labeled]) if labeled else np.zeros((0, len(subject.shared), 3))
    areas = np.array([person.area for person in labeled])
    return oks_matrix(people.keypoints[:, subject.shared], keypoints, areas, subject.skeleton.sigmas)


def phantoms(subject: Subject) -> dict[str, Any]:
    """People found in images without people, at the recall of the deployed score threshold."""
    found: dict[str, list[np.ndarray]] = {"score": [], "pose_score": []}
    best: dict[str, list[float]] = {"score": [], "pose_score": []}  # of each labeled person: of the people that find it
    empty = [image_id for image_id, people in subject.labels.people.items() if not people]
    for image_id, candidates in subject.candidates.items():
        people = people_of(candidates, SHIPPED, subject.network.sigmas)
        oks = pairs_with_labels(subject, image_id, people)
        for name, ranks in (("score", people.scores), ("pose_score", people.pose_scores)):
            if image_id in empty:
                found[name].append(ranks)
            best[name] += [float(np.max(ranks[column >= SAME_PERSON], initial=0)) for column in oks.T]
    recall = float(np.mean(np.array(best["score"]) > DEPLOYED_SCORE))
    counts = {}
    for name in found:
        threshold = float(np.sort(best[name])[::-1][max(round(recall * len(best[name])) - 1, 0)])
        counts[name] = {
            "threshold": threshold,
            "people": int(sum((ranks >= threshold).sum() for ranks in found[name])),
            "images": int(sum(bool((ranks >= threshold).any()) for ranks in found[name])),
        }
    return {"subject": subject.name, "empty_images": len(empty), "recall": recall, **counts}


def crowds(subject: Subject) -> list[dict[str, Any]]:
    """Change of OKS from best to consensus, by the largest IoU of a labeled person's box with another's."""
    changes: dict[float, list[float]] = {lowest: [] for lowest in OVERLAPS}
    for image_id, candidates in subject.candidates.items():
        labeled = [person for person in subject.labels.people[image_id] if person.is_labeled]
        if not labeled:
            continue
        boxes = np.array([person.bbox_xyxy for person in labeled])
        overlaps = iou_matrix(boxes, boxes)
        np.fill_diagonal(overlaps, 0)
        both = [
            pairs_with_labels(subject, image_id, people_of(candidates, form, subject.network.sigmas))
            for form in (BEST, SHIPPED)
        ]
        for column, overlap in enumerate(overlaps.max(1)):
            row = int(both[0][:, column].argmax()) if len(both[0]) else 0
            if not len(both[0]) or both[0][row, column] < SAME_PERSON:
                continue
            lowest = max(each for each in OVERLAPS if each <= overlap)
            changes[lowest].append(float(both[1][row, column] - both[0][row, column]))
    return [
        {
            "iou_from": lowest,
            "people": len(each),
            "oks_change": float(np.mean(each)) if each else None,
            "standard_error": float(np.std(each, ddof=1) / len(each) ** 0.5) if len(each) > 1 else None,
            "worse_by_0.1": sum(change < -0.1 for change in each),
            "better_by_0.1": sum(change > 0.1 for change in each),
        }
        for lowest, each in changes.items()
    ]


def errors_and_spread(subject: Subject, image_ids: Sequence[int]) -> np.ndarray:
    """(n, 2): distance to the label and spread of every labeled keypoint of every person found, px."""
    rows = []
    for image_id in image_ids:
        people = people_of(subject.candidates[image_id], SHIPPED, subject.network.sigmas)
        oks = pairs_with_labels(subject, image_id, people)
        labeled = [person for person in subject.labels.people[image_id] if person.is_labeled]
        spread = people.keypoint_spread
        assert spread is not None
        for column, person in zip(oks.T, labeled, strict=True):
            if not len(column) or column.max() < SAME_PERSON:
                continue
            row, visible = int(column.argmax()), person.keypoints[:, 2] > 0
            distance = np.linalg.norm(people.keypoints[row, subject.shared] - person.keypoints[:, :2], axis=1)
            rows.append(np.stack([distance, spread[row, subject.shared]], axis=1)[visible])
    return np.concatenate(rows) if rows else np.zeros((0, 2))


def calibration(subject: Subject) -> dict[str, Any]:
    """Error by spread: ``line`` (a, b), where a x spread + b is the 68th percentile of the error; bins of spread."""
    ids = sorted(subject.candidates)
    fit, judged = errors_and_spread(subject, ids[0::2]), errors_and_spread(subject, ids[1::2])

    def bins(rows: np.ndarray) -> np.ndarray:
        """(BINS, 3): mean spread, 68th percentile of the error, keypoints."""
        parts = np.array_split(rows[np.argsort(rows[:, 1])], BINS)
        return np.array([(part[:, 1].mean(), np.percentile(part[:, 0], 68), len(part)) for part in parts])

    spread, error, _ = bins(fit).T
    a, b = np.polyfit(spread, error, 1)
    ranks = [np.argsort(np.argsort(column)) for column in judged.T]
    other = bins(judged)
    return {
        "subject": subject.name,
        "line": (float(a), float(b)),
        "rank_correlation": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
        "share_within_predicted": float(np.mean(judged[:, 0] <= a * judged[:, 1] + b)),
        "bins": [{"spread": s, "predicted": float(a * s + b), "error_68": e, "keypoints": int(n)} for s, e, n in other],
    }


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.add_subplot()
    for result in results:
        axes.plot(
            [each["predicted"] for each in result["bins"]], [each["error_68"] for each in result["bins"]],
            marker="o", label=result["subject"],
        )  # fmt: skip
    largest = max(each["predicted"] for result in results for each in result["bins"])
    axes.plot([0, largest], [0, largest], color="gray", linestyle=":")
    axes.set_xlabel("error predicted from the spread, px")
    axes.set_ylabel("68th percentile of the error, px")
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_pictures(subject: Subject, folder: Path) -> None:
    import cv2

    from yolopose.runtime import read_image

    def labeled(image_id: int) -> int:
        return sum(person.is_labeled for person in subject.labels.people[image_id])

    for image_id in sorted(subject.candidates, key=labeled)[-PICTURES:]:
        image = read_image(subject.labels.images[image_id].path)
        sides = []
        for form in (BEST, SHIPPED):
            people = people_of(subject.candidates[image_id], form, subject.network.sigmas)
            people = replace(people, keypoint_spread=None)[people.scores > DEPLOYED_SCORE]
            side = replace(people, skeleton=subject.network).draw(image, boxes=False)
            for person in subject.labels.people[image_id]:
                for x, y, v in person.keypoints:
                    if v > 0:
                        cv2.drawMarker(side, (int(x), int(y)), (255, 255, 255), cv2.MARKER_CROSS, 8, 1)
            sides.append(side)
        cv2.imwrite(str(folder / f"{image_id}.png"), np.concatenate(sides, axis=1))


def build_parser() -> argparse.ArgumentParser:
    made = parser("poses", __doc__ or "")
    made.add_argument("subjects", nargs="+", metavar="WEIGHTS,LABELS.json,IMAGES,SIZE", help="as for better_people")
    made.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for plot and pictures")
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    folder = output_folder(arguments.output)
    found, lines = [], []
    for text in arguments.subjects:
        subject = find_candidates(*parse_subject(text))
        entry: dict[str, Any] = {"calibration": calibration(subject), "crowds": crowds(subject)}
        if any(not people for people in subject.labels.people.values()):
            entry["phantoms"] = phantoms(subject)
        found.append(entry)
        draw_pictures(subject, output_folder(folder / subject.name.replace(" ", "-")))
        lines.append(str(entry))
    plot([entry["calibration"] for entry in found], folder / "keypoint_spread.png")
    console.result({"subjects": found}, "\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
