"""Do artifacts exported from Ultralytics' files find the same people as Ultralytics?

``python -m yolopose.benchmarks.studies.ultralytics_parity NAME... --ultralytics PYTHON --images DIR --output DIR``

Needs the Python of an environment that has Ultralytics (AGPL-3.0, not part of this project). Networks with random
weights are built there by ultralytics_results.py. Both sides get the same letterboxed frames.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.backends.base import RawPeople
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.errors import BackendError
from yolopose.runtime.images import list_images, read_image
from yolopose.runtime.letterbox import letterbox
from yolopose.runtime.output import output_folder
from yolopose.runtime.result import NMS_NOT_CONVERGED, PoseResult

SCRIPT = Path(__file__).with_name("ultralytics_results.py")
VARIANTS = (".pt", "-dynamic.onnx", "-fixed.onnx", "-people.onnx")
SCORE, IOU = 0.25, 0.65


def letterboxed_frames(images: Path, size: int, limit: int) -> np.ndarray:
    """(n, size, size, 3) uint8 BGR."""
    files = list_images(images)[:limit]
    return np.stack([letterbox(read_image(file), (size, size), pad_value=114, pad_side="center")[0] for file in files])


def people_of_rows(rows: np.ndarray, counts: np.ndarray) -> list[PoseResult]:
    """One result per frame from rows of x1 y1 x2 y2 score class and keypoints in pixels, ``counts`` per frame."""
    found = []
    for part in np.split(rows.astype(np.float32), np.cumsum(counts)[:-1]):
        points = part[:, 6:].reshape(len(part), (part.shape[1] - 6) // 3, 3)
        found.append(
            PoseResult(
                boxes=part[:, :4],
                scores=part[:, 4],
                labels=part[:, 5].astype(np.int32),
                keypoints=points[..., :2],
                keypoint_scores=points[..., 2],
                num_candidates=len(part),
                flags=0,
            )
        )
    return found


def people_of_artifact(artifact: Path, frames: np.ndarray, batch: int) -> Iterator[PoseResult]:
    """In pixels of the frames, which are not letterboxed again."""
    with PoseEstimator(artifact, score_threshold=SCORE, iou_threshold=IOU, imgsz=frames.shape[1:3]) as estimate:
        for start in range(0, len(frames), batch):
            some = frames[start : start + batch]
            raw: RawPeople = estimate.infer(np.ascontiguousarray(some))
            for row, count in enumerate(raw.num_people):
                keypoints = raw.keypoints[row, :count]
                yield PoseResult(
                    boxes=raw.boxes[row, :count],
                    scores=raw.scores[row, :count],
                    labels=raw.labels[row, :count],
                    keypoints=keypoints[..., :2],
                    keypoint_scores=keypoints[..., 2],
                    num_candidates=int(raw.num_candidates[row]),
                    flags=int(raw.flags[row]),
                )


def compare(artifact: Path, frames: np.ndarray, expected: Sequence[PoseResult], batch: int) -> dict[str, Any]:
    """Fields of ``export.verify.ParityReport``: people matched, missing, extra, and deviations in pixels and score.

    ``not_converged``: frames that are left out because the artifact flags that its NMS has not converged.
    """
    from yolopose.export.verify import compare_people

    found = list(people_of_artifact(artifact, frames, batch))
    pairs = [(a, b) for a, b in zip(expected, found, strict=True) if not b.flags & NMS_NOT_CONVERGED]
    skeleton = read_contract(artifact).skeleton
    report = compare_people([a for a, _ in pairs], [b for _, b in pairs], skeleton, SCORE, iou_threshold=IOU)
    return {"not_converged": len(found) - len(pairs), **asdict(report)}


def run_ultralytics(arguments: argparse.Namespace, script: Path, words: Sequence[str]) -> str:
    """Stdout of ``script`` in the environment that has Ultralytics. Raises BackendError quoting its last line."""
    command = [arguments.ultralytics, str(script), *words]
    command += ["--shim", str(arguments.shim)] if arguments.shim else []
    environment = os.environ | {"YOLO_CONFIG_DIR": str(arguments.output.resolve()), "YOLO_AUTOINSTALL": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BackendError(f"Ultralytics failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return done.stdout


def forward_deviation(checkpoint: Path, frame: np.ndarray, raw: np.ndarray) -> tuple[float, float]:
    """Largest differences of coordinates (px) and of scores between the forward pass here and Ultralytics' ``raw``.

    raw: (4 + 1 + 3K, N), all anchors with boxes as center and size; or (R, 6 + 3K), people by descending score.
    """
    import yolopose
    from yolopose.deploy.reference import ReferenceEstimator

    net = yolopose.load(checkpoint)
    found, _ = ReferenceEstimator(net, shape_hw=frame.shape[:2]).predict(frame)
    boxes, scores, xy, visible = (part[0].numpy().astype(np.float64) for part in found)
    points = np.concatenate((xy, visible[..., None]), axis=2)
    if net.one_to_one:
        # Rows of nearly equal scores may be in another order.
        same = [abs(boxes - row[:4]).max(axis=1).argmin() for row in raw]
        boxes, scores, points = boxes[same], scores[same], points[same]
        expected, expected_scores = raw[:, :4], raw[:, 4:5]
    else:
        raw = raw.T
        half = raw[:, 2:4] / 2
        expected, expected_scores = np.concatenate((raw[:, :2] - half, raw[:, :2] + half), axis=1), raw[:, 4:5]
    expected_points = raw[:, -3 * points.shape[1] :].reshape(points.shape)
    px = max(abs(boxes - expected).max(), abs(points - expected_points)[..., :2].max())
    return float(px), float(max(abs(scores - expected_scores).max(), abs(points - expected_points)[..., 2].max()))


def _main(arguments: argparse.Namespace, console: Console) -> None:
    from yolopose.export.config import ExportConfig
    from yolopose.export.pipeline import export_artifact
    from yolopose.runtime.contract import NmsInfo

    folder = output_folder(arguments.output)
    frames = letterboxed_frames(arguments.images, arguments.imgsz, arguments.limit)
    np.savez_compressed(folder / "frames.npz", frames=frames)
    run_ultralytics(arguments, SCRIPT, [str(folder), *arguments.names])
    table, forwards = [], {}
    for name in arguments.names:
        stored = np.load(folder / f"{name}.npz")
        forwards[name] = forward_deviation(folder / f"{name}.pt", frames[0], stored["raw"])
        expected = people_of_rows(stored["rows"], stored["counts"])
        for variant in VARIANTS:
            if "26" in name and variant in ("-dynamic.onnx", "-fixed.onnx"):
                continue  # the head with NMS finds other people than the one without
            source = folder / f"{name}{variant}"
            # Random weights give more candidates than trained ones; a head without NMS gives 300 rows.
            max_people = 300 if "26" in name else 100
            nms = NmsInfo(candidates=2000, max_people=max_people, score_threshold=SCORE, iou_threshold=IOU)
            config = ExportConfig(
                str(source), output=folder / f"{source.name}-yolopose.onnx", nms=nms, keypoints="best", limit=1
            )
            exported = export_artifact(config, console.say, lambda items, total, label: items)
            for batch in (batch for batch in (1, 8) if batch in exported.contract.input.batch):
                table.append({"file": source.name, "batch": batch, **compare(exported.path, frames, expected, batch)})
    text = "\n".join(map(_line, table)) + "".join(
        f"\n{name}.pt: forward pass differs from Ultralytics' by at most {px:.2g} px and {score:.2g} in score"
        for name, (px, score) in forwards.items()
    )
    console.result({"frames": list(frames.shape), "comparisons": table, "forwards": forwards}, text)


def _line(row: dict[str, Any]) -> str:
    counts = ", ".join(f"{row[name]} {name}" for name in ("missing", "extra", "borderline", "not_converged"))
    return (
        f"{row['file']} batch {row['batch']}: {row['matched']} of {row['people']} people, {counts}; "
        f"at most {row['max_px']:.3g} px"
    )


def add_ultralytics_options(made: argparse.ArgumentParser) -> None:
    """Options that both comparisons with Ultralytics take."""
    made.add_argument("--ultralytics", required=True, metavar="PYTHON", help="Python of an environment that has it")
    made.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs")
    made.add_argument("--imgsz", type=int, default=640, metavar="PX", help="square input size")
    made.add_argument("--limit", type=int, default=125, metavar="N", help="use at most N photographs")
    made.add_argument("--shim", type=Path, metavar="DIR", help="folder of torchvision_cpu_shim.py, if needed")
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for files and results")


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "python -m yolopose.benchmarks.studies.ultralytics_parity",
        "Compare the people of artifacts exported from Ultralytics' files with those of Ultralytics itself.",
    )
    made.add_argument("names", nargs="+", metavar="NAME", help="yolov8n-pose, yolo11n-pose, yolo26n-pose, ...")
    add_ultralytics_options(made)
    return run(_main, made, argv)


if __name__ == "__main__":
    raise SystemExit(main())
