"""yolopose-run: people in pictures, drawn and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .backends.base import BACKENDS
from .console import EXIT_DONE, EXIT_FAILED, ArgumentParser, Console, parser, run
from .errors import OutputError, SourceError
from .output import atomic_write, output_folder
from .result import PoseResult, flag_names

PROG = "yolopose-run"
_VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(run_command, build_parser(), argv)


def build_parser() -> ArgumentParser:
    made = parser(PROG, "Find people and their keypoints in an image or a folder of images.")
    add = made.add_argument
    add("artifact", help="the file that yolopose-export wrote (.onnx)")
    add("--source", required=True, help="an image, or a folder of images")
    add(
        "--output",
        metavar="DIR",
        help="folder for the annotated pictures and people.json; without it nothing is written",
    )
    add("--backend", default="auto", choices=BACKENDS, help="inference engine; auto: the one the artifact was made for")
    add("--device", help="cpu, cuda, cuda:N (ONNX Runtime), gpu, gpu:N (OpenVINO); the engine's usual one unless given")
    add("--score", type=float, metavar="S", help="score threshold in 0..1; as in the artifact unless given")
    add("--iou", type=float, metavar="T", help="IoU threshold of suppression in 0..1; as in the artifact unless given")
    add("--threads", type=int, metavar="N", help="threads of the engine; its own choice unless given")
    add("--imgsz", type=int, nargs="+", metavar="PX", help="frame: one number, or height width; as in the artifact")
    add("--keypoint-score", type=float, default=0.3, metavar="S", help="keypoints below this score are not drawn")
    return made


def run_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run over the source; exit code 1 when an image could not be read, after all the others are done."""
    from .estimator import PoseEstimator
    from .images import readable

    paths = _source_paths(arguments.source)
    folder = _checked_output(arguments.output, arguments.source, paths)
    if not 0 <= arguments.keypoint_score <= 1:
        raise ValueError(f"--keypoint-score must lie in 0..1, got {arguments.keypoint_score}")
    with PoseEstimator(
        arguments.artifact,
        backend=arguments.backend,
        device=arguments.device,
        score_threshold=arguments.score,
        iou_threshold=arguments.iou,
        threads=arguments.threads,
        imgsz=_frame(arguments.imgsz),
    ) as estimate:
        if folder is not None:
            output_folder(folder)
        images, failed = [], []
        for path in console.progress(paths, len(paths), "images"):
            try:
                images.append(_image_entry(estimate, path, folder, arguments.keypoint_score))
            except SourceError as error:
                reason = readable(str(error))
                console.say(f"{PROG}: {reason}")
                failed.append({"file": readable(path.name), "error": reason})
        document = {
            "artifact": readable(Path(arguments.artifact).name),
            "backend": {"name": estimate.backend.name, "version": estimate.backend.version},
            "device": estimate.backend.device,
            "shape_hw": list(estimate.shape_hw),
            "score_threshold": estimate.score_threshold,
            "iou_threshold": estimate.iou_threshold,
            "skeleton": estimate.skeleton.to_dict(),
            "images": images,
            "failed": failed,
        }
    if folder is not None:
        atomic_write(folder / "people.json", json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    console.result(document, _summary(document, folder))
    return EXIT_FAILED if failed else EXIT_DONE


def _image_entry(estimate: Any, path: Path, folder: Path | None, keypoint_threshold: float) -> dict[str, Any]:
    """People of one image file, drawn into `folder`. Raises SourceError, OutputError, BackendError."""
    from .images import read_image, readable

    image = read_image(path)
    start = time.perf_counter()
    people: PoseResult = estimate(image)
    latency_ms = (time.perf_counter() - start) * 1e3
    if folder is not None:
        _write_picture(_target(folder, path), image, people, estimate, keypoint_threshold)
    return {
        "file": readable(path.name),
        "height": image.shape[0],
        "width": image.shape[1],
        "latency_ms": round(latency_ms, 3),
        **people.to_dict(),
        "notes": flag_names(people.flags),
    }


def _target(folder: Path, path: Path) -> Path:
    """Where the annotated picture of `path` goes."""
    from .images import IMAGE_SUFFIXES

    return folder / (path.name if path.suffix.lower() in IMAGE_SUFFIXES else path.name + ".jpg")


def _write_picture(target: Path, image: Any, people: PoseResult, estimate: Any, keypoint_threshold: float) -> None:
    from .draw import draw_people
    from .images import cv2

    drawn = draw_people(image, people, estimate.skeleton, keypoint_threshold)
    try:
        encoded = cv2.imencode(target.suffix, drawn)[1].tobytes()
    except cv2.error as error:
        raise OutputError(f"cannot encode {target} of {drawn.shape[1]}x{drawn.shape[0]} pixels: {error}") from error
    atomic_write(target, encoded)


def _source_paths(source: str) -> list[Path]:
    """The image files of --source. Raises ValueError for what arrives later, SourceError for what cannot be read."""
    if not source:
        raise ValueError("--source is empty; give an image or a folder of images")
    from .images import list_images

    path = Path(source)
    if path.is_dir():
        return list_images(path)
    there = path.exists()  # a picture may be called 2024
    if path.suffix.lower() in _VIDEO_SUFFIXES or (not there and (source.isdigit() or "://" in source)):
        raise ValueError(
            f"--source {source}: video files, cameras and network streams arrive with a later release; "
            "give an image or a folder of images"
        )
    if not there:
        raise SourceError(f"--source {source}: no such file or folder")
    return [path]


def _checked_output(output: str | None, source: str, paths: list[Path]) -> Path | None:
    """The folder of --output. Raises ValueError when a file written there could be a picture of the source.

    Links are followed: a folder may hold links to pictures elsewhere, and may itself be reached through one.
    """
    if output is None:
        return None
    folder = Path(output)
    inputs = {os.path.realpath(path) for path in paths}
    folders = {
        os.path.realpath(source),
        *map(os.path.dirname, inputs),
        *(os.path.realpath(path.parent) for path in paths),
    }
    targets = {os.path.realpath(_target(folder, path)) for path in paths}
    if os.path.realpath(folder) in folders or targets & inputs:
        raise ValueError(
            f"--output {output} is a folder of the source, whose pictures would be overwritten; give another"
        )
    return folder


def _frame(sizes: list[int] | None) -> int | tuple[int, int] | None:
    if sizes is None:
        return None
    if len(sizes) > 2:
        raise ValueError(f"--imgsz takes one number or height and width, got {sizes}")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _summary(document: dict[str, Any], folder: Path | None) -> str:
    images, failed = document["images"], document["failed"]
    people = sum(len(image["people"]) for image in images)
    latencies = sorted(image["latency_ms"] for image in images)
    middle = f", median {latencies[len(latencies) // 2]:.1f} ms an image" if latencies else ""
    engine = f"{document['backend']['name']} {document['backend']['version']} on {document['device']}"
    lines = [f"{people} people in {len(images)} images{middle} ({engine})"]
    for note in sorted({note for image in images for note in image["notes"]}):
        count = sum(note in image["notes"] for image in images)
        lines.append(f"{note} in {count} images")
    if failed:
        lines.append(f"{len(failed)} images could not be read: {', '.join(entry['file'] for entry in failed)}")
    if folder is not None:
        lines.append(f"pictures and people.json are in {folder}")
    return "\n".join(lines)
