"""``python -m yolopose.data.synthetic``: write synthetic scenes as a folder in COCO format."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from yolopose.runtime.console import Console, parser, run, usage_errors
from yolopose.runtime.skeleton import SKELETONS

from . import SyntheticScenes


def _parser() -> argparse.ArgumentParser:
    options = parser("python -m yolopose.data.synthetic", "Draw synthetic scenes with exact keypoints.")
    options.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for images/ and person_keypoints.json"
    )
    options.add_argument("--count", type=int, default=100, help="number of scenes")
    options.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"), help="size in pixels")
    options.add_argument("--seed", type=int, default=0, help="seed of the random generator")
    options.add_argument("--skeleton", choices=sorted(SKELETONS), default="coco-17", help="keypoints of the labels")
    return options


def _main(arguments: argparse.Namespace, console: Console) -> None:
    width, height = arguments.size
    with usage_errors():
        scenes = SyntheticScenes(
            arguments.count, size_wh=(width, height), seed=arguments.seed, skeleton=SKELETONS[arguments.skeleton]
        )
    labels = scenes.save_coco(arguments.output)
    console.result({"labels": str(labels), "images": len(scenes)}, f"{len(scenes)} scenes, labels in {labels}")


if __name__ == "__main__":
    sys.exit(run(_main, _parser()))
