"""``python -m yolopose.checkpoints``: write a network alone in our format, whatever format it comes in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from yolopose.runtime.console import Console, parser, run


def _parser() -> argparse.ArgumentParser:
    made = parser("python -m yolopose.checkpoints", "Write the network of a checkpoint alone, without training state.")
    made.add_argument("weights", metavar="FILE", help="any checkpoint that yolopose reads")
    made.add_argument("--output", type=Path, required=True, metavar="FILE", help="the .pt to write")
    made.add_argument("--half", action="store_true", help="float16 weights: half the size")
    made.add_argument(
        "--widen", type=int, metavar="N", help="N times the channels, same outputs: to train on from there"
    )
    made.add_argument("--licence", metavar="TEXT", help="terms of the weights, stored inside; default: as they were")
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    from ..model.sizes import widened
    from . import load, save

    net = load(arguments.weights)
    if arguments.widen is not None:
        net = widened(net, arguments.widen)
    net.weights_licence = arguments.licence or net.weights_licence
    save(net, arguments.output, half=arguments.half)
    size = arguments.output.stat().st_size
    console.result({"weights": str(arguments.output), "bytes": size}, f"{arguments.output}: {size / 1e6:.2f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
