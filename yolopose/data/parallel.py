"""Apply a function to many items in threads or processes. Results keep their order; Ctrl-C drops the rest."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

from yolopose.runtime.images import cv2
from yolopose.runtime.machine import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[..., Result], *items: Sequence[Any], threads: int | None = None) -> Iterator[Result]:
    """``map(function, *items)`` in threads, for work that waits for files or runs inside OpenCV (without the GIL).

    threads: None for one per processor, which suits reading files.
    """
    return _results(ThreadPoolExecutor(threads or os.cpu_count()), function, items, 1)


def in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], processes: int | None = None
) -> Iterator[Result]:
    """``map(function, items)`` in new processes, for work in Python.

    The function, items and results are pickled; each process imports the caller's main module again.
    processes: None for one per usable core, shared with the other training processes on this machine.
    """
    # Not forked: a process that has threads (OpenCV's, torch's) does not fork safely.
    context = multiprocessing.get_context("spawn")
    processes = processes or max(1, int(usable_cores() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    return _results(ProcessPoolExecutor(processes, context, _start_process), function, (items,), chunk=8)


def _results(
    pool: Executor, function: Callable[..., Result], items: Sequence[Sequence[Any]], chunk: int
) -> Iterator[Result]:
    try:
        yield from pool.map(function, *items, chunksize=chunk)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends it
    cv2.setNumThreads(1)
