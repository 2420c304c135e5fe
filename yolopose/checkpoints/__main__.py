"""``python -m yolopose.checkpoints``: write the network of any checkpoint as a yolopose checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yolopose.runtime.console import Console, parser, run, usage_errors

from ..model.sizes import widened
from . import load, save


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "python -m yolopose.checkpoints", "Write the network of a checkpoint without its training state (.pt)."
    )
    made.add_argument("weights", metavar="FILE", help="any checkpoint that yolopose reads, or demo")
    made.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .pt file to write")
    made.add_argument("--half", action="store_true", help="store convolution weights as float16: half the size")
    made.add_argument(
        "--widen",
        type=int,
        metavar="N",
        help="multiply the channels by N with the same outputs, as a start for training",
    )
    made.add_argument(
        "--license",
        "--license",
        metavar="TEXT",
        help="license of the weights, stored in the file; default: that of the input",
    )
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    net = load(arguments.weights)
    if arguments.widen is not None:
        with usage_errors():
            net = widened(net, arguments.widen)
    net.weights_licence = arguments.license or net.weights_licence
    save(net, arguments.output, half=arguments.half)
    size = arguments.output.stat().st_size
    console.result({"weights": str(arguments.output), "bytes": size}, f"{arguments.output}: {size / 1e6:.2f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
