"""Frames one after the other, with the preparation of the next overlapping the inference of this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .letterbox import Placement
from .result import PoseResult

if TYPE_CHECKING:
    from .estimator import PoseEstimator

Batch = npt.NDArray[np.uint8]
Prepared = tuple[Batch, list[Placement]]
_PATIENCE_S = 1.0  # a camera gives its next frame within this; a source that does not is left behind
_END: Any = object()


def overlapped(estimate: PoseEstimator, frames: Iterable[npt.NDArray[Any]], color: str) -> Iterator[PoseResult]:
    """People of each frame, in order. Frames are read in a thread of their own, at most one ahead.

    An error while reading or preparing a frame is raised in its turn, after the people of the frames before it.
    Left early, it waits up to a second for the frame that is being read; a source that blocks for longer keeps its
    (daemon) thread, and what it gives afterwards is dropped.
    """
    source = iter(frames)
    free: SimpleQueue[Batch | None] = SimpleQueue()
    ready: SimpleQueue[Prepared | BaseException | None] = SimpleQueue()
    writing, left = Lock(), Event()

    def read_ahead() -> None:
        try:
            while (batch := free.get()) is not None and not left.is_set():
                if (frame := next(source, _END)) is _END:
                    return ready.put(None)
                with writing:  # a late frame must not touch a buffer that was given back
                    if not left.is_set():
                        ready.put(estimate.preprocess([frame], color, out=batch))
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            ready.put(error)

    worker = Thread(target=read_ahead, name="yolopose-stream", daemon=True)
    # one buffer is inferred while the other one is filled
    with estimate.buffer(1) as first, estimate.buffer(1) as second:
        for batch in (first, second):
            free.put(batch)
        worker.start()
        try:
            while (prepared := ready.get()) is not None:
                if isinstance(prepared, BaseException):
                    raise prepared
                batch, placements = prepared
                (people,) = estimate.postprocess(estimate.infer(batch), placements)
                yield people
                free.put(batch)
        finally:
            with writing:
                left.set()
            free.put(None)
            worker.join(_PATIENCE_S)
