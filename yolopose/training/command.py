"""``yolopose-train``: labels in, a network and a run folder out."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

from yolopose.runtime.console import EXIT_DONE, EXIT_INTERRUPTED, Console, run

from .options import check_resume, train_parser

LONGEST_WAIT_HOURS = 4

T = TypeVar("T")


def _main(words: Sequence[str], arguments: argparse.Namespace, console: Console) -> int:
    import torch.distributed as dist

    from .distributed import rank
    from .session import open_session, show_samples
    from .sitting import train

    check_resume(words)
    if several := int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _join(arguments)
    try:
        if rank():
            console = _Silent()
        session = open_session(arguments, console)
        if arguments.show_samples:
            path = show_samples(session, arguments.show_samples)
            console.result({"samples": str(path)}, f"augmented samples: {path}")
            return EXIT_DONE
        outcome = train(session, arguments, console)
        console.result(outcome, _summary(outcome))
        return EXIT_INTERRUPTED if outcome["stopped_by"] in ("SIGINT", "SIGTERM") else EXIT_DONE
    finally:
        if several:
            dist.destroy_process_group()


def _join(arguments: argparse.Namespace) -> None:
    """Become one of the processes that torchrun started."""
    import torch
    import torch.distributed as dist

    gpu = arguments.device != "cpu" and torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # While the first process validates, the others wait: longer than the usual ten minutes, if need be.
    dist.init_process_group("nccl" if gpu else "gloo", timeout=timedelta(hours=LONGEST_WAIT_HOURS))


class _Silent(Console):
    """Of all processes but the first; errors are told by every one."""

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
        f"go on with yolopose-train --resume {outcome['run']}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    code = run(partial(_main, words), train_parser(), words)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End one of several processes without tearing C++ down: all that Python has to finish is finished before.

    DistributedDataParallel keeps gloo's threads running after destroy_process_group (PyTorch 2.13), and a process that
    ends while they run is aborted now and then ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
