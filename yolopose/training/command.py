"""``yolopose-train``: labels in, a network and a run folder out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from yolopose.runtime.console import EXIT_DONE, EXIT_INTERRUPTED, Console, run

from .options import check_resume, read_session_options, train_parser

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    code = run(partial(_main, words), train_parser(), words)
    if _several_processes():
        from .distributed import exit_process

        exit_process(code)
    return code


def _main(words: Sequence[str], arguments: argparse.Namespace, console: Console) -> int:
    check_resume(words)
    session = read_session_options(arguments)

    import torch.distributed as dist  # after the checks: PyTorch takes seconds to import

    from .distributed import join, rank
    from .run import draw_samples, open_inputs, train

    if _several_processes():
        join(session.device)
    try:
        if rank():
            console = _SilentConsole()
        inputs = open_inputs(arguments, session, console)
        if session.show_samples:
            path = draw_samples(inputs, session.show_samples)
            console.result({"samples": str(path)}, f"augmented samples: {path}")
            return EXIT_DONE
        outcome = train(inputs, session, console)
        console.result(outcome, _summary(outcome))
        return EXIT_INTERRUPTED if outcome["stopped_by"] in ("SIGINT", "SIGTERM") else EXIT_DONE
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _several_processes() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1  # set by torchrun


class _SilentConsole(Console):
    """Console of all processes but the first. Errors are printed by every process."""

    def say(self, text: str) -> None:
        pass

    def result(self, document: dict[str, Any], text: str) -> None:
        pass

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        return iter(items)


def _summary(outcome: dict[str, Any]) -> str:
    best = "" if outcome["best_ap"] is None else f", best AP {outcome['best_ap']:.4f} at epoch {outcome['best_epoch']}"
    if outcome["finished"]:
        return f"{outcome['run']}: {outcome['epochs']} epochs, {outcome['minutes']:.1f} min of training{best}"
    return (
        f"{outcome['run']}: stopped by {outcome['stopped_by']} in epoch {outcome['epochs'] + 1}{best}; "
        f"continue with yolopose-train --resume {outcome['run']}"
    )
