"""``python -m yolopose.benchmarks.studies.ultralytics_photographs best.pt``: a trained network of Ultralytics,
from photograph to
people, by its own predict and by ours.

Its predict runs its own ONNX of the network; ours runs what yolopose-export makes of that ONNX, and of the .pt. People:
on the frames that its letterbox makes, where nothing but the network and NMS can differ, and on the photographs. Time:
an array to people, and the bare run of each one's own session on ready tensors, in turn in one process each; processes
take turns in rounds, and every ratio is one of a round. Needs the Python of an environment that has Ultralytics
(AGPL-3.0, no part of this project), see ultralytics_predict.py.
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
from ..tasks import Opening, TimeTask, run_child
from .ultralytics_parity import IOU, SCORE, compare, people_of_rows, run_ultralytics

SCRIPT = Path(__file__).with_name("ultralytics_predict.py")
WARM_UP = 10


def clipped(people: PoseResult, image: np.ndarray) -> PoseResult:
    """As Ultralytics gives them: nothing outside of the image."""
    most = np.array((image.shape[1], image.shape[0]), np.float32)
    return replace(
        people,
        boxes=people.boxes.clip(0, np.tile(most, 2)),
        keypoints=people.keypoints.clip(0, most),
    )


def compare_photographs(
    artifact: Path, files: Sequence[Path], expected: Sequence[PoseResult], size: int
) -> dict[str, Any]:
    """The whole path, each by its own letterbox."""
    from yolopose.export.verify import compare_people

    found, largest = [], []
    with PoseEstimator(artifact, score_threshold=SCORE, iou_threshold=IOU, imgsz=size) as estimate:
        skeleton = estimate.skeleton
        for file, theirs in zip(files, expected, strict=True):
            image = read_image(file)
            ours = clipped(estimate(image), image)
            found.append(ours)
            nearest = iou_matrix(theirs.boxes, ours.boxes)
            for row in np.flatnonzero(nearest.max(axis=1, initial=0) >= 0.5):
                points = ours.keypoints[nearest[row].argmax()]
                largest.append(float(np.abs(points - theirs.keypoints[row]).max()))
    if not largest:
        raise DataError(f"nobody was found in {len(files)} photographs by both at score {SCORE}: give others")
    report = compare_people(expected, found, skeleton, SCORE, iou_threshold=IOU).to_dict()
    shares = dict(zip(("p50_px", "p90_px", "p99_px"), np.quantile(largest, (0.5, 0.9, 0.99)).tolist(), strict=True))
    return report | shares  # of the keypoint that is farthest off, person by person


def compare_ways_back(
    files: Sequence[Path], size: int, in_frame: Sequence[PoseResult], in_image: Sequence[PoseResult]
) -> float:
    """The same people of its frames brought back to the images by our placement and by its own: largest distance, px
    of the image."""
    largest = [0.0]
    for file, framed, theirs in zip(files, in_frame, in_image, strict=True):
        image = read_image(file)
        placement, _ = place((image.shape[0], image.shape[1]), (size, size), "center")
        ours = placement.to_image(framed.keypoints).clip(0, (image.shape[1], image.shape[0]))
        largest.append(float(np.abs(ours - theirs.keypoints).max(initial=0)))
    return max(largest)


def compare_letterboxes(files: Sequence[Path], frames: np.ndarray) -> dict[str, Any]:
    """Our frames beside Ultralytics' (n, size, size, 3) of the same photographs."""
    steps, elsewhere, differing = [], 0, []
    for file, theirs in zip(files, frames, strict=True):
        ours, _ = letterbox(read_image(file), (theirs.shape[0], theirs.shape[1]), pad_value=114, pad_side="center")
        distance = np.abs(ours.astype(np.int16) - theirs)
        steps.append(int(distance.max()))
        elsewhere += steps[-1] > 1
        differing.append(float((distance > 0).mean()))
    return {"largest_step": max(steps), "images_beyond_one_step": elsewhere, "share_differing": median(differing)}


def _main(arguments: argparse.Namespace, console: Console) -> None:
    from yolopose.export.config import ExportConfig
    from yolopose.export.pipeline import export_artifact

    folder = output_folder(arguments.output)
    files = [file.resolve() for file in list_images(arguments.images)[: arguments.limit]]
    atomic_write(folder / "photographs.txt", "".join(f"{file}\n" for file in files))
    source = folder / "exported.onnx"
    _ultralytics(arguments, "export", arguments.weights.resolve())
    artifacts = {}
    for name, weights in (("from its ONNX", source), ("from the .pt", arguments.weights)):
        config = ExportConfig(str(weights), output=folder / f"{weights.name}-yolopose.onnx", limit=8)
        artifacts[name] = export_artifact(
            replace(config, size=arguments.imgsz) if weights != source else config,
            console.say, lambda items, total, label: items,
        ).path  # fmt: skip
    _ultralytics(arguments, "people", source)
    stored = np.load(folder / "people.npz")
    in_frame, in_image = (people_of_rows(stored[name], stored["counts"]) for name in ("frame", "image"))
    document: dict[str, Any] = {"machine": asdict(machine_now()), "images": len(files), "imgsz": arguments.imgsz}
    document["letterbox"] = compare_letterboxes(files, stored["frames"])
    document["ways_back_px"] = compare_ways_back(files, arguments.imgsz, in_frame, in_image)
    lines = [f"letterboxes: {json.dumps(document['letterbox'])}; ways back: at most {document['ways_back_px']:.3g} px"]
    for name, artifact in artifacts.items():
        same = compare(artifact, stored["frames"], in_frame, 1)
        whole = compare_photographs(artifact, files, in_image, arguments.imgsz)
        document[name] = {"same_frames": same, "photographs": whole}
        for kind, found in (("its frames", same), ("photographs", whole)):
            lines.append(
                f"{name}, {kind}: {found['matched']} of {found['people']} people, {found['missing']} missing, "
                f"{found['extra']} extra, {found['borderline']} at a threshold; at most {found['max_px']:.3g} px, "
                f"mean {found['mean_px']:.3g} px, OKS {found['mean_oks']:.6f}"
            )
        shares = ", ".join(f"{key[:-3]} {whole[key]:.3g} px" for key in ("p50_px", "p90_px", "p99_px"))
        lines.append(f"{name}, photographs: the farthest keypoint of a person {shares}")
    if arguments.rounds:
        document["time"] = _time(arguments, source, artifacts, files, console)
        lines += document["time"]["lines"]
    console.result(document, "\n".join(lines))


def _ultralytics(arguments: argparse.Namespace, task: str, network: Path) -> str:
    folder = str(arguments.output.resolve())
    sizes = ["--imgsz", str(arguments.imgsz), "--iterations", str(arguments.iterations)]
    return run_ultralytics(arguments, SCRIPT, [task, str(network), folder, *sizes])


def _time(
    arguments: argparse.Namespace, source: Path, artifacts: dict[str, Path], files: Sequence[Path], console: Console
) -> dict[str, Any]:
    """Samples of every round, and ratios to the bare run of Ultralytics' file: the median over rounds, and all."""
    names, rounds = ["ultralytics", *artifacts], []
    versions: dict[str, str] = {}
    for number in range(arguments.rounds):
        console.say(f"round {number + 1} of {arguments.rounds}")
        first, found = number % len(names), {}
        for name in (*names[first:], *names[:first]):
            if name == "ultralytics":
                answer = json.loads(_ultralytics(arguments, "time", source).strip().splitlines()[-1])
                found[name], versions = answer["samples"], versions | answer["versions"]
                continue
            path = str(artifacts[name].resolve())
            size = [arguments.imgsz, arguments.imgsz]
            opening = Opening(path, "onnxruntime", "cpu", None, size, SCORE, IOU)
            answer = run_child(TimeTask(opening, [str(file) for file in files], arguments.iterations, WARM_UP, []))
            found[name] = {"whole": answer["samples_ms"]["total"], "bare": answer["samples_ms"]["bare"]}
            versions["onnxruntime of ours"] = answer["backend"]["version"]
        rounds.append(found)
    bare = [latency(found["ultralytics"]["bare"]).p50_ms for found in rounds]
    table, lines = [], [f"bare run of its ONNX: {median(bare):.2f} ms"]
    for name in names:
        for kind in ("whole", "bare"):
            figures = [latency(found[name][kind]) for found in rounds]
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
        "python -m yolopose.benchmarks.studies.ultralytics_photographs", "Ultralytics' predict beside our runtime."
    )
    made.add_argument("weights", type=Path, help="a .pt of Ultralytics")
    made.add_argument("--ultralytics", required=True, metavar="PYTHON", help="Python of an environment that has it")
    made.add_argument("--images", type=Path, required=True, metavar="DIR", help="photographs")
    made.add_argument("--imgsz", type=int, default=640, help="square size in pixels")
    made.add_argument("--limit", type=int, default=125, help="photographs at most")
    made.add_argument("--rounds", type=int, default=5, help="of processes to time; 0: people only")
    made.add_argument("--iterations", type=int, default=60, help="timed photographs a process")
    made.add_argument("--shim", type=Path, metavar="DIR", help="folder of torchvision_cpu_shim.py, where it is needed")
    made.add_argument("--output", type=Path, required=True, metavar="DIR", help="where files and results go")
    return run(_main, made, argv)


if __name__ == "__main__":
    raise SystemExit(main())
