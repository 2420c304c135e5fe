"""Ultralytics on the same images: train a YOLOv8-pose network from scratch and judge it with our evaluation.

`python -m yolopose.benchmarks.studies.ultralytics_training train ...` runs in an environment that has ultralytics
(AGPL-3.0: never a
dependency, nothing of it is copied) beside yolopose; `evaluate` scores any of its checkpoints; `speed` times epochs of
a tenth of the data, without validation. docs/experiments.md has what came out, and the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.data.coco import CocoImage, CocoKeypoints, CocoPerson
from yolopose.data.sources import Labels, open_labels
from yolopose.evaluation import evaluate
from yolopose.runtime import PoseResult, read_image
from yolopose.runtime.console import Console, output_folder, parser, run
from yolopose.runtime.errors import BackendUnavailable
from yolopose.runtime.output import atomic_write

SCORE, IOU, MOST_PEOPLE = 0.01, 0.65, 100  # as when our own training validates
TIMED_EPOCHS, TIMED_SHARE = 3, 0.1  # after one that warms up; share of the pictures in each


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "python -m yolopose.benchmarks.studies.ultralytics_training",
        "Train and evaluate a YOLOv8-pose network of Ultralytics.",
    )
    made.add_argument("task", choices=("train", "evaluate", "speed"))
    made.add_argument("--data", metavar="LABELS", help="training labels in COCO format (train, speed)")
    made.add_argument("--val", required=True, metavar="LABELS", help="labels to evaluate on")
    made.add_argument("--model", default="yolov8n-pose.yaml", help="a .yaml to train, a .pt to evaluate")
    made.add_argument("--imgsz", type=int, default=256, help="square input, pixels")
    made.add_argument("--minutes", type=float, default=60, help="wall-clock time of the training")
    made.add_argument("--output", type=Path, default=Path("runs/peer"), metavar="DIR", help="data and run of the peer")
    made.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="further settings of its training")
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    try:
        import ultralytics
    except ImportError as error:
        raise BackendUnavailable(f"the peer is not installed ({error}): pip install ultralytics") from None
    val = open_labels(arguments.val)
    model = ultralytics.YOLO(arguments.model)
    document: dict[str, Any] = {"peer": f"ultralytics {ultralytics.__version__}", "model": arguments.model}
    seconds = None
    if arguments.task != "evaluate":
        if not arguments.data:
            raise ValueError(f"{arguments.task} needs --data")
        train = open_labels(arguments.data)
        settings: dict[str, Any] = {
            "data": str(write_yolo({"train": train, "val": val}, arguments.output / "data")),
            "imgsz": arguments.imgsz, "pretrained": False, "project": str(arguments.output.resolve()), "name": "run",
            "exist_ok": True,
        }  # fmt: skip
        settings |= {name: _value(value) for name, value in (entry.split("=", 1) for entry in arguments.set)}
    if arguments.task == "speed":
        document |= _speed(model, settings)
        console.result(document, f"{document['images_per_second']:.1f} images/s, {document['gmacs']:.3f} GMACs")
        return
    if arguments.task == "train":
        started = time.monotonic()
        model.train(time=arguments.minutes / 60, **settings)
        seconds = time.monotonic() - started
        model = ultralytics.YOLO(arguments.output / "run" / "weights" / "best.pt")
    ap = evaluate(_people(model, val.dataset, arguments.imgsz, console), val.dataset, val.skeleton)
    document |= {"seconds": seconds, **ap.to_dict()}
    console.result(document, f"AP {ap.ap}, AP50 {ap.ap50}, AP75 {ap.ap75}, AR {ap.ar} on {ap.images} images")


def _speed(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Images a second of the peer's own training loop, by epoch, the first left out as warm-up."""
    from yolopose.model.pose_net import gmacs

    size = int(settings["imgsz"])
    cost = gmacs(model.model, (size, size), device="cpu")
    speeds: list[float] = []
    started = [0.0]

    def begin(trainer: Any) -> None:
        started[0] = time.perf_counter()

    def end(trainer: Any) -> None:
        speeds.append(len(trainer.train_loader.dataset) / (time.perf_counter() - started[0]))

    model.add_callback("on_train_epoch_start", begin)
    model.add_callback("on_train_epoch_end", end)
    model.train(epochs=1 + TIMED_EPOCHS, fraction=TIMED_SHARE, val=False, plots=False, **settings)
    return {"gmacs": cost, "images_per_second": statistics.median(speeds[1:]), "by_epoch": speeds}


def _people(model: Any, dataset: CocoKeypoints, size: int, console: Console) -> dict[int, PoseResult]:
    """What the peer's own prediction finds on each image, in pixels of the image."""
    results: dict[int, PoseResult] = {}
    for image in console.progress(dataset.images.values(), len(dataset.images), "predicting"):
        pixels = read_image(image.path)
        found = model.predict(pixels, imgsz=size, rect=False, conf=SCORE, iou=IOU, max_det=MOST_PEOPLE, verbose=False)
        boxes, points = found[0].boxes, found[0].keypoints
        keypoints = points.data.cpu().numpy() if len(boxes) else np.zeros((0, dataset.num_keypoints, 3), np.float32)
        results[image.id] = PoseResult(
            boxes=boxes.xyxy.cpu().numpy().reshape(-1, 4),
            scores=boxes.conf.cpu().numpy(),
            labels=boxes.cls.cpu().numpy().astype(np.int32),
            keypoints=keypoints[..., :2],
            keypoint_scores=keypoints[..., 2],
            num_candidates=len(boxes),
        )
    return results


def write_yolo(splits: dict[str, Labels], folder: Path) -> Path:
    """Images (as links) and labels in the YOLO-pose folder format; returns the path of its data.yaml."""
    if (folder / "images").exists():
        raise ValueError(f"{folder} holds another data set; give another --output")
    for split, labels in splits.items():
        stems = [image.path.stem for image in labels.dataset.images.values()]
        if len(set(stems)) < len(stems):
            raise ValueError(f"{labels.dataset.path}: pictures of equal names in several folders")
        classes = {category.id: index for index, category in enumerate(labels.dataset.categories)}
        for kind in ("images", "labels"):
            output_folder(folder / kind / split)
        for image in labels.dataset.images.values():
            os.symlink(image.path.resolve(), folder / "images" / split / image.path.name)
            rows = [
                _row(person, image, classes[person.category_id])
                for person in labels.dataset.people[image.id]
                if not person.is_crowd
            ]
            atomic_write(folder / "labels" / split / f"{image.path.stem}.txt", "".join(rows))
    labels = next(iter(splits.values()))
    flip = list(range(labels.skeleton.num_keypoints))
    for a, b in labels.skeleton.flip_pairs:
        flip[a], flip[b] = b, a
    entries: dict[str, Any] = {"path": str(folder.resolve()), **{split: f"images/{split}" for split in splits}}
    entries["names"] = [category.name for category in labels.dataset.categories]
    entries |= {"kpt_shape": [labels.skeleton.num_keypoints, 3], "flip_idx": flip}
    path = folder / "data.yaml"
    atomic_write(path, "".join(f"{key}: {json.dumps(value)}\n" for key, value in entries.items()))
    return path


def _row(person: CocoPerson, image: CocoImage, label: int) -> str:
    width, height = image.size_wh
    x, y, w, h = person.bbox_xywh
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    box = ((left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height)
    points = [
        (px / width, py / height, v) if v and 0 <= px <= width and 0 <= py <= height else (0, 0, 0)
        for px, py, v in person.keypoints
    ]
    numbers = " ".join(f"{value:.6f}" for value in (*box, *(value for point in points for value in point)))
    return f"{label} {numbers}\n"


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
