"""``yolopose-bench``: time, memory and accuracy of artifacts and checkpoints, side by side."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from yolopose.runtime import console
from yolopose.runtime.backends.base import BACKENDS
from yolopose.runtime.errors import OutputError
from yolopose.runtime.output import atomic_write, output_folder

from . import tables
from .report import BenchReport, to_json_values
from .run import run_benchmark
from .settings import CONVENTIONS, BenchSettings

_DEFAULTS = {field.name: field.default for field in fields(BenchSettings)}


def build_parser() -> console.ArgumentParser:
    parser = console.parser(
        "yolopose-bench", "Measure time, memory and accuracy of artifacts and checkpoints, side by side."
    )
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="exported file, checkpoint (.pt, .pth) or demo; FILE@BACKEND runs an exported file on that engine; "
        "speed is relative to the first artifact, or checkpoint",
    )
    add(
        "--reference",
        type=Path,
        metavar="WEIGHTS",
        help="what the artifacts are compared with: adds parity, bare network",
    )
    add(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of photographs; without it and --data synthetic scenes are drawn",
    )
    add("--data", metavar="LABELS", help="COCO keypoint JSON, or YAML of a YOLO-pose folder: adds AP")
    add("--split", default=_DEFAULTS["split"], help="of such a YAML: train, val or test")
    add(
        "--evaluation-images",
        choices=CONVENTIONS,
        default=_DEFAULTS["evaluation_images"],
        help="AP over all images (mmpose's convention), or those with people alone (yolov5-pose, yolov7, ultralytics)",
    )
    add(
        "--backend",
        default=_DEFAULTS["backend"],
        help=f"engine that runs the artifacts: {', '.join(BACKENDS)}; checkpoints run in PyTorch",
    )
    add("--device", help="device of the engine (as the engine decides)")
    add("--threads", type=int, metavar="N", help="threads of the engine (as the engine decides)")
    add(
        "--imgsz",
        type=int,
        nargs="+",
        metavar="PX",
        help="input size: one number, or height width (as the contract; of a checkpoint its own)",
    )
    add("--score", type=float, help="score threshold for time and parity (as the contract; of a checkpoint 0.25)")
    add("--iou", type=float, help="IoU threshold of NMS (as the contract; of a checkpoint 0.65)")
    _add_sampling(parser)
    add("--output", type=Path, metavar="DIR", help="folder for benchmark.json and benchmark.md")
    return parser


def _add_sampling(parser: console.ArgumentParser) -> None:
    def add(flag: str, help_text: str, kind: type = int) -> None:
        default = _DEFAULTS[flag.replace("-", "_")]
        parser.add_argument(f"--{flag}", type=kind, default=default, metavar="N", help=help_text)

    add("evaluation-score", "score threshold for AP", float)
    add("batch", "throughput is measured at batch 1 and N")
    add("limit", "at most N images, evenly spread (all; 32 synthetic scenes)")
    add("iterations", "timed images of each file, all rounds together")
    add("warmup", "images before the measurement of each round, not counted")
    add("rounds", "fresh processes of each file; files take turns")


def settings_from(arguments: argparse.Namespace) -> BenchSettings:
    values = {name: getattr(arguments, name) for name in _DEFAULTS}
    values["files"] = tuple(arguments.files)
    if arguments.imgsz is not None:
        if len(arguments.imgsz) > 2:
            raise ValueError(f"--imgsz takes one number, or height and width; got {arguments.imgsz}")
        values["imgsz"] = (arguments.imgsz[0], arguments.imgsz[-1])
    return BenchSettings(**values)


def _write(report: BenchReport, folder: Path) -> None:
    document = json.dumps(to_json_values(report), ensure_ascii=False, allow_nan=False, indent=1)
    atomic_write(folder / "benchmark.json", document + "\n")
    atomic_write(folder / "benchmark.md", tables.markdown(report))


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)

    def command(arguments: argparse.Namespace, terminal: console.Console) -> None:
        settings = settings_from(arguments)
        folder = None if settings.output is None else output_folder(settings.output)
        if folder is not None:
            # An unwritable folder is found out now, not after minutes of measuring.
            atomic_write(folder / ".yolopose-bench", "").unlink()
        report = run_benchmark(settings, terminal, shlex.join(["yolopose-bench", *words]))
        if folder is not None:
            try:
                _write(report, folder)
            except OutputError:
                terminal.say(tables.text(report))  # what took minutes to measure is not lost with the disk
                raise
            terminal.say(f"written: {folder / 'benchmark.json'}, {folder / 'benchmark.md'}")
        terminal.result(to_json_values(report), tables.text(report))

    return console.run(command, build_parser(), words)


if __name__ == "__main__":
    sys.exit(main())
