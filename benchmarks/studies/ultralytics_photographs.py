"""A trained network of Ultralytics, from photograph to people: Ultralytics' predict against yolopose's runtime.

``python -m yolopose.benchmarks.studies.ultralytics_photographs best.pt --ultralytics PYTHON --images DIR --output DIR``

Ultralytics' predict runs its own ONNX of the network; yolopose runs what yolopose-export makes of that ONNX and of the
.pt. People are compared on the frames of Ultralytics' letterbox, where only network and NMS can differ, and on the
photographs. Times are array to people, and the bare run of each side's own session on ready tensors, in turn in one
process per side. Processes take turns in rounds, and every ratio is taken within one round.

Needs the Python of an environment that has Ultralytics (AGPL-3.0, not part of this project); it runs
ultralytics_predict.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from yolopose.evaluation import iou_matrix
from yolopose.runtime import PoseEstimator, read_image
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.errors import DataError
from yolopose.runtime.images import list_images
from yolopose.runtime.letterbox import letterbox, place
from yolopose.runtime.machine import machine_now
from yolopose.runtime.output import atomic_write, output_folder
from yolopose.runtime.result import PoseResult

from ..measure import latency
from ..tasks import EstimatorOptions, TimeTask, run_child
from .ultralytics_parity import IOU, SCORE, add_ultralytics_options, compare, people_of_rows, run_ultralytics

SCRIPT = Path(__file__).with_name("ultralytics_predict.py")
WARM_UP = 10


def clipped(people: PoseResult, image: np.ndarray) -> PoseResult:
    """Boxes and keypoints clipped to the image, as Ultralytics returns them."""
    size_wh = np.array((image.shape[1], image.shape[0]), np.float32)
    return replace(
        people,
        boxes=people.boxes.clip(0, np.tile(size_wh, 2)),
        keypoints=people.keypoints.clip(0, size_wh),
    )


def compare_photographs(
    artifact: Path, files: Sequence[Path], expected: Sequence[PoseResult], size: int
) -> dict[str, Any]:
    """Parity of the whole path, each side with its own letterbox.

    ``p50_px``, ``p90_px``, ``p99_px``: quantiles over people of the largest keypoint distance of a person.
    """
    from yolopose.export.verify import compare_people

    found, largest = [], []
    with PoseEstimator(artifact, score_threshold=SCORE, iou_threshold=IOU, imgsz=size) as estimate:
        skeleton = estimate.skeleton
        for file, of_ultralytics in zip(files, expected, strict=True):
            image = read_image(file)
            people = clipped(estimate(image), image)
            found.append(people)
            overlaps = iou_matrix(of_ultralytics.boxes, people.boxes)
            for row in np.flatnonzero(overlaps.max(axis=1, initial=0) >= 0.5):
                points = people.keypoints[overlaps[row].argmax()]
                largest.append(float(np.abs(points - of_ultralytics.keypoints[row]).max()))
    if not largest:
        raise DataError(f"both sides found no person in {len(files)} photographs at score {SCORE}: give others")
    report = compare_people(expected, found, skeleton, SCORE, iou_threshold=IOU).to_dict()
    quantiles = dict(zip(("p50_px", "p90_px", "p99_px"), np.quantile(largest, (0.5, 0.9, 0.99)).tolist(), strict=True))
    return report | quantiles


def compare_ways_back(
    files: Sequence[Path], size: int, in_frame: Sequence[PoseResult], in_image: Sequence[PoseResult]
) -> float:
    """Largest distance (px of the image) between people mapped back to the image by yolopose and by Ultralytics."""
    largest = [0.0]
    for file, framed, of_ultralytics in zip(files, in_frame, in_image, strict=True):
        image = read_image(file)
        placement, _ = place((image.shape[0], image.shape[1]), (size, size), "center")
        keypoints = placement.to_image(framed.keypoints).clip(0, (image.shape[1], image.shape[0]))
        largest.append(float(np.abs(keypoints - of_ultralytics.keypoints).max(initial=0)))
    return max(largest)


def compare_letterboxes(files: Sequence[Path], frames: np.ndarray) -> dict[str, Any]:
    """Frames of yolopose's letterbox against Ultralytics' ``frames`` (n, size, size, 3) of the same photographs."""
    steps, beyond_one, differing = [], 0, []
    for file, expected in zip(files, frames, strict=True):
        frame, _ = letterbox(read_image(file), (expected.shape[0], expected.shape[1]), pad_value=114, pad_side="center")
        distance = np.abs(frame.astype(np.int16) - expected)
        steps.append(int(distance.max()))
        beyond_one += steps[-1] > 1
        differing.append(float((distance > 0).mean()))
    return {"largest_step": max(steps), "images_beyond_one_step": beyond_one, "share_differing": median(differing)}


def _main(arguments: argparse.Namespace, console: Console) -> None:
    from yolopose.export.config import ExportConfig
    from yolopose.export.pipeline import export_artifact

    folder = output_folder(arguments.output)
    files = [file.resolve() for file in list_images(arguments.images)[: arguments.limit]]
    atomic_write(folder / "photographs.txt", "".join(f"{file}\n" for file in files))
    source = folder / "exported.onnx"
    _run_predict(arguments, "export", arguments.weights.resolve())
    artifacts = {}
    for name, weights in (("from its ONNX", source), ("from the .pt", arguments.weights)):
        config = ExportConfig(str(weights), output=folder / f"{weights.name}-yolopose.onnx", keypoints="best", limit=8)
        artifacts[name] = export_artifact(
            replace(config, size=arguments.imgsz) if weights != source else config,
            console.say, lambda items, total, label: items,
        ).path  # fmt: skip
    _run_predict(arguments, "people", source)
    stored = np.load(folder / "people.npz")
    in_frame, in_image = (people_of_rows(stored[name], stored["counts"]) for name in ("frame", "image"))
    document: dict[str, Any] = {"machine": asdict(machine_now()), "images": len(files), "imgsz": arguments.imgsz}
    document["letterbox"] = compare_letterboxes(files, stored["frames"])
    document["ways_back_px"] = compare_ways_back(files, arguments.imgsz, in_frame, in_image)
    lines = [
        f"letterboxes: {json.dumps(document['letterbox'])}; "
        f"mapping back to the image: at most {document['ways_back_px']:.3g} px"
    ]
    for name, artifact in artifacts.items():
        same = compare(artifact, stored["frames"], in_frame, 1)
        whole = compare_photographs(artifact, files, in_image, arguments.imgsz)
        document[name] = {"same_frames": same, "photographs": whole}
        for kind, found in (("Ultralytics' frames", same), ("photographs", whole)):
            lines.append(
                f"{name}, {kind}: {found['matched']} of {found['people']} people, {found['missing']} missing, "
                f"{found['extra']} extra, {found['borderline']} at a threshold; at most {found['max_px']:.3g} px, "
                f"mean {found['mean_px']:.3g} px, OKS {found['mean_oks']:.6f}"
            )
        quantiles = ", ".join(f"{key[:-3]} {whole[key]:.3g} px" for key in ("p50_px", "p90_px", "p99_px"))
        lines.append(f"{name}, photographs: largest keypoint distance of a person {quantiles}")
    if arguments.rounds:
        document["time"] = _time(arguments, source, artifacts, files, console)
        lines += document["time"]["lines"]
    console.result(document, "\n".join(lines))


def _run_predict(arguments: argparse.Namespace, task: str, network: Path) -> str:
    folder = str(arguments.output.resolve())
    sizes = ["--imgsz", str(arguments.imgsz), "--iterations", str(arguments.iterations)]
    return run_ultralytics(arguments, SCRIPT, [task, str(network), folder, *sizes])


def _time(
    arguments: argparse.Namespace, source: Path, artifacts: dict[str, Path], files: Sequence[Path], console: Console
) -> dict[str, Any]:
    """Samples of every round, and ratios to the bare run of Ultralytics' file: of each round, and their median."""
    names, rounds = ["ultralytics", *artifacts], []
    versions: dict[str, str] = {}
    for number in range(arguments.rounds):
        console.say(f"round {number + 1} of {arguments.rounds}")
        first, samples = number % len(names), {}
        for name in (*names[first:], *names[:first]):
            if name == "ultralytics":
                answer = json.loads(_run_predict(arguments, "time", source).strip().splitlines()[-1])
                samples[name], versions = answer["samples"], versions | answer["versions"]
                continue
            path = str(artifacts[name].resolve())
            size = [arguments.imgsz, arguments.imgsz]
            options = EstimatorOptions(path, "onnxruntime", "cpu", None, size, SCORE, IOU)
            answer = run_child(TimeTask(options, [str(file) for file in files], arguments.iterations, WARM_UP, []))
            samples[name] = {"whole": answer["samples_ms"]["total"], "bare": answer["samples_ms"]["bare"]}
            versions["onnxruntime of yolopose"] = answer["backend"]["version"]
        rounds.append(samples)
    bare = [latency(samples["ultralytics"]["bare"]).p50_ms for samples in rounds]
    table, lines = [], [f"bare run of Ultralytics' ONNX: {median(bare):.2f} ms"]
    for name in names:
        for kind in ("whole", "bare"):
            figures = [latency(samples[name][kind]) for samples in rounds]
            ratios = [figure.p50_ms / base for figure, base in zip(figures, bare, strict=True)]
            row = {
                "name": name, "kind": kind, "p50_ms": median(f.p50_ms for f in figures),
                "p90_ms": median(f.p90_ms for f in figures), "ratio": median(ratios), "ratios": ratios,
            }  # fmt: skip
            table.append(row)
            lines.append(
                f"{name}, {kind}: {row['p50_ms']:.2f} ms (p90 {row['p90_ms']:.2f}), {row['ratio']:.3f} of the bare run "
                f"({min(ratios):.3f} to {max(ratios):.3f})"
            )
    return {"versions": versions, "rounds": rounds, "table": table, "lines": lines}


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(
        "python -m yolopose.benchmarks.studies.ultralytics_photographs",
        "Compare Ultralytics' predict with yolopose's runtime, from photograph to people.",
    )
    made.add_argument("weights", type=Path, help="a trained .pt of Ultralytics")
    add_ultralytics_options(made)
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="timed processes per side; 0: people only")
    made.add_argument("--iterations", type=int, default=60, metavar="N", help="timed photographs per process")
    return run(_main, made, argv)


if __name__ == "__main__":
    raise SystemExit(main())
