"""Candidates and suppression chains on photographs, and the AP that a small number of candidates C costs.

They are the basis for C and the number of NMS rounds R. ``make bench-nms`` runs it. All numbers come from the PyTorch
network and numpy, so they do not depend on C and R; tests/deploy/test_nms.py shows that the graph computes the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolopose.data.coco import read_coco
from yolopose.evaluation import evaluate, iou_matrix
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.images import list_images, read_image
from yolopose.runtime.result import PoseResult

if TYPE_CHECKING:
    from yolopose.deploy.reference import ReferenceEstimator

THRESHOLDS = (0.25, 0.05, 0.01, 0.001)
CANDIDATES = (50, 100, 200, 300, 500, 1000, 3000)
MAX_STUDIED = 3000  # candidates of an image whose chains are measured; an image has 8,400 anchors at 640


def rounds_to_converge(boxes: np.ndarray, iou_threshold: float) -> int:
    """Rounds until the NMS of the graph reaches greedy NMS: the depth of the longest effective suppression chain.

    boxes: (n, 4) xyxy float32 by descending score. The graph needs one more round to see that nothing changes.
    """
    suppresses = np.tril(iou_matrix(boxes, boxes) > iou_threshold, -1).astype(np.float32)
    keep = np.ones(len(boxes), np.float32)
    for rounds in range(len(boxes) + 1):
        following = (suppresses @ keep < 0.5).astype(np.float32)
        if np.array_equal(following, keep):
            return rounds
        keep = following
    raise AssertionError("a chain cannot be longer than the number of boxes")


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "python -m yolopose.benchmarks.studies.nms", "Candidates, suppression chains and the AP that a small C costs."
    )
    made.add_argument("--weights", required=True, help="a trained checkpoint")
    made.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs")
    made.add_argument("--data", type=Path, metavar="JSON", help="their labels: adds the table of AP over C")
    made.add_argument("--imgsz", type=int, default=None, help="square size; default: size of the network")
    made.add_argument("--iou", type=float, nargs="+", default=[0.65, 0.45], help="IoU thresholds")
    made.add_argument("--limit", type=int, default=200, help="number of images for the chains")
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    from yolopose.checkpoints import load
    from yolopose.deploy.reference import ReferenceEstimator

    net = load(arguments.weights)
    size = arguments.imgsz or net.input.size
    reference = ReferenceEstimator(net, shape_hw=(size, size))
    document: dict[str, Any] = {"weights": Path(arguments.weights).name, "images": arguments.images.name, "imgsz": size}
    files = list_images(arguments.images)[: arguments.limit]
    rows: dict[tuple[float, float], list[tuple[int, int]]] = {}
    for file in console.progress(files, len(files), "chains"):
        predictions, _ = reference.predict(read_image(file))
        scores = predictions.scores[0].amax(dim=1).numpy()
        order = np.argsort(-scores, kind="stable")[:MAX_STUDIED]
        boxes = predictions.boxes[0].numpy()[order]
        for score in THRESHOLDS:
            count = int((scores > np.float32(score)).sum())
            for iou in arguments.iou:
                depth = rounds_to_converge(boxes[: min(count, MAX_STUDIED)], iou)
                rows.setdefault((score, iou), []).append((count, depth))
    document["chains"] = [
        _chain_row(score, iou, np.array(counts)) for (score, iou), counts in sorted(rows.items(), reverse=True)
    ]
    if arguments.data is not None:
        document["ap_over_candidates"] = _ap_over_candidates(reference, arguments, console)
    console.result(document, _text(document))


def _chain_row(score: float, iou: float, measured: np.ndarray) -> dict[str, Any]:
    """measured: (images, 2) number of candidates and depth of the longest chain."""
    counts, depths = measured[:, 0], measured[:, 1]
    return {
        "score": score,
        "iou": iou,
        "images": len(measured),
        "candidates": {
            "p50": float(np.median(counts)),
            "p99": float(np.percentile(counts, 99)),
            "max": int(counts.max()),
        },
        "chain": {"p50": float(np.median(depths)), "p99": float(np.percentile(depths, 99)), "max": int(depths.max())},
    }


def _ap_over_candidates(
    reference: ReferenceEstimator, arguments: argparse.Namespace, console: Console
) -> list[dict[str, Any]]:
    """Keypoint AP at score 0.001 if only the C best candidates enter NMS (at most 100 people per image)."""
    data = read_coco(arguments.data, arguments.images, reference.net.skeleton)
    reference.score_threshold = THRESHOLDS[-1]  # lower than AP_SCORE_THRESHOLD: here many candidates are the subject
    results: dict[int, dict[int, PoseResult]] = {c: {} for c in CANDIDATES}
    for image in console.progress(data.images.values(), len(data.images), "AP"):
        predictions, placement = reference.predict(read_image(image.path))
        for c in CANDIDATES:
            reference.max_candidates = c
            results[c][image.id] = reference.people(predictions, placement)
    rows = []
    for c in CANDIDATES:
        ap = evaluate(results[c], data, reference.net.skeleton)
        rows.append({"candidates": c, "ap": ap.ap, "ap50": ap.ap50, "ar": ap.ar})
    return rows


def _text(document: dict[str, Any]) -> str:
    lines = [
        f"{document['weights']} on {document['images']} at {document['imgsz']}",
        "| score | IoU | images | candidates p50 / p99 / max | chain p50 / p99 / max |",
        "|---|---|---|---|---|",
    ]
    for row in document["chains"]:
        candidates, chain = ("{p50:.0f} / {p99:.0f} / {max}".format(**row[key]) for key in ("candidates", "chain"))
        lines.append(f"| {row['score']:g} | {row['iou']:g} | {row['images']} | {candidates} | {chain} |")
    if "ap_over_candidates" in document:
        lines += ["", "| C | AP | AP50 | AR |", "|---|---|---|---|"]
        for row in document["ap_over_candidates"]:
            lines.append(f"| {row['candidates']} | {row['ap']:.4f} | {row['ap50']:.4f} | {row['ar']:.4f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
