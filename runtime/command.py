"""yolopose-run: finds people in images, draws them and writes them as JSON.

The estimator and OpenCV are imported inside functions: --help needs neither, and a missing OpenCV becomes a message.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backends.base import BACKENDS
from .console import EXIT_DONE, EXIT_FAILED, ArgumentParser, Console, UsageError, parser, run, usage_errors
from .errors import OutputError, SourceError
from .output import atomic_write, output_folder
from .result import PoseResult, flag_names

if TYPE_CHECKING:
    from .estimator import PoseEstimator
    from .images import Image

PROG = "yolopose-run"
_VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run(run_command, build_parser(), argv)


def build_parser() -> ArgumentParser:
    made = parser(PROG, "Find people and their keypoints in an image or a folder of images.")
    add = made.add_argument
    add("artifact", help="a file that yolopose-export wrote (.onnx, .engine, .trt), or demo: the one in the package")
    add("--source", required=True, help="an image, or a folder of images")
    add("--output", metavar="DIR", help="folder for annotated images and people.json; without it nothing is written")
    add("--backend", default="auto", choices=BACKENDS, help="runs the artifact; auto: the one it was made for")
    add("--device", help="cpu, cuda, cuda:N (ONNX Runtime), gpu, gpu:N (OpenVINO); default: the backend's")
    add("--score", type=float, metavar="S", help="score threshold in 0..1; default: the artifact's")
    add("--iou", type=float, metavar="T", help="IoU threshold of the suppression in 0..1; default: the artifact's")
    add("--min-pose-score", type=float, default=0.0, metavar="S", help="drop people with a lower pose score (0..1)")
    add("--threads", type=int, metavar="N", help="threads of the backend; default: its own choice")
    add("--imgsz", type=int, nargs="+", metavar="PX", help="frame: one number or height width; default: the artifact's")
    add("--keypoint-score", type=float, default=0.3, metavar="S", help="keypoints below this score are not drawn")
    return made


def run_command(arguments: argparse.Namespace, console: Console) -> int:
    """Run over the source. Exit code 1 when an image could not be read, after all the others are done."""
    from .estimator import PoseEstimator
    from .images import readable

    paths = _source_paths(arguments.source)
    folder = _checked_output(arguments.output, arguments.source, paths)
    if not 0 <= arguments.keypoint_score <= 1:
        raise UsageError(f"--keypoint-score must lie in 0..1, got {arguments.keypoint_score}")
    with usage_errors():
        estimate = PoseEstimator(
            arguments.artifact,
            backend=arguments.backend,
            device=arguments.device,
            score_threshold=arguments.score,
            min_pose_score=arguments.min_pose_score,
            iou_threshold=arguments.iou,
            threads=arguments.threads,
            imgsz=_imgsz(arguments.imgsz),
        )
    with estimate:
        if folder is not None:
            output_folder(folder)
        images, failed = [], []
        for path in console.progress(paths, len(paths), "images") if len(paths) > 1 else paths:
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


def _image_entry(estimate: PoseEstimator, path: Path, folder: Path | None, keypoint_threshold: float) -> dict[str, Any]:
    """The people of one image file, also drawn into `folder`. Raises SourceError, OutputError, BackendError."""
    from .images import read_image, readable

    image = read_image(path)
    start = time.perf_counter()
    people = estimate(image)
    latency_ms = (time.perf_counter() - start) * 1e3
    if folder is not None:
        _write_image(_target(folder, path), image, people, keypoint_threshold)
    entry = {
        "file": readable(path.name),
        "height": image.shape[0],
        "width": image.shape[1],
        "latency_ms": round(latency_ms, 3),
        **people.to_dict(),
        "notes": flag_names(people.flags),
    }
    entry.pop("keypoint_names", None)  # the skeleton of the whole document has them
    return entry


def _target(folder: Path, path: Path) -> Path:
    """File of the annotated image of `path`."""
    from .images import IMAGE_SUFFIXES

    return folder / (path.name if path.suffix.lower() in IMAGE_SUFFIXES else path.name + ".jpg")


def _write_image(target: Path, image: Image, people: PoseResult, keypoint_threshold: float) -> None:
    from .images import cv2

    drawn = people.draw(image, keypoint_threshold)
    try:
        encoded = cv2.imencode(target.suffix, drawn)[1].tobytes()
    except cv2.error as error:
        raise OutputError(f"cannot encode {target} of {drawn.shape[1]}x{drawn.shape[0]} pixels: {error}") from error
    atomic_write(target, encoded)


def _source_paths(source: str) -> list[Path]:
    """The image files of --source. Raises UsageError for videos and cameras, SourceError for what cannot be read."""
    if not source:
        raise UsageError("--source is empty; give an image or a folder of images")
    from .images import list_images

    path = Path(source)
    if path.is_dir():
        return list_images(path)
    exists = path.exists()  # an image may be called 2024
    if path.suffix.lower() in _VIDEO_SUFFIXES or (not exists and (source.isdigit() or "://" in source)):
        raise UsageError(
            f"--source {source}: video files, cameras and network streams are not supported yet; "
            "give an image or a folder of images"
        )
    if not exists:
        raise SourceError(f"--source {source}: no such file or folder")
    return [path]


def _checked_output(output: str | None, source: str, paths: list[Path]) -> Path | None:
    """The folder of --output. Raises UsageError when a file written there could be an image of the source.

    Links are followed: a folder may hold links to images elsewhere, and may itself be reached through a link.
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
        raise UsageError(
            f"--output {output} is a folder of the source, whose images would be overwritten; give another"
        )
    return folder


def _imgsz(sizes: list[int] | None) -> int | tuple[int, int] | None:
    if sizes is None:
        return None
    if len(sizes) > 2:
        raise UsageError(f"--imgsz takes one number, or height and width, got {sizes}")
    return sizes[0] if len(sizes) == 1 else (sizes[0], sizes[1])


def _summary(document: dict[str, Any], folder: Path | None) -> str:
    images, failed = document["images"], document["failed"]
    people = sum(len(image["people"]) for image in images)
    latencies = sorted(image["latency_ms"] for image in images)
    median = f", median {latencies[len(latencies) // 2]:.1f} ms an image" if len(latencies) > 1 else ""
    latency = f", {latencies[0]:.1f} ms" if len(latencies) == 1 else median
    backend = f"{document['backend']['name']} {document['backend']['version']} on {document['device']}"
    found = f"{people} {'person' if people == 1 else 'people'} in {_images(len(images))}"
    lines = [f"{found}{latency} ({backend})"]
    for note in sorted({note for image in images for note in image["notes"]}):
        lines.append(f"{note} in {_images(sum(note in image['notes'] for image in images))}")
    if failed:
        names = ", ".join(entry["file"] for entry in failed)
        lines.append(f"{_images(len(failed))} could not be read: {names}")
    if folder is not None:
        lines.append(f"annotated images and people.json are in {folder}")
    return "\n".join(lines)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
