"""Frames one after the other, with the preparation of the next overlapping the inference of this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .letterbox import Placement
from .result import PoseResult

if TYPE_CHECKING:
    from .estimator import PoseEstimator

Prepared = tuple[npt.NDArray[np.uint8], list[Placement]]


def overlapped(estimate: PoseEstimator, frames: Iterable[npt.NDArray[Any]], color: str) -> Iterator[PoseResult]:
    """People of each frame, in order. Frames are read in a thread of their own, at most one ahead.

    An error while reading or preparing a frame is raised in its turn, after the people of the frames before it.
    """
    source = iter(frames)
    with ExitStack() as stack:
        # one buffer is inferred while the other one is filled
        free = [stack.enter_context(estimate.buffer(1)) for _ in range(2)]

        def prepare() -> Prepared | None:
            for frame in source:
                return estimate.preprocess([frame], color, out=free.pop())
            return None

        # last on the stack, so that the worker has stopped before the buffers go back
        worker = stack.enter_context(ThreadPoolExecutor(max_workers=1, thread_name_prefix="yolopose-stream"))
        ahead = worker.submit(prepare)
        while (prepared := ahead.result()) is not None:
            ahead = worker.submit(prepare)
            batch, placements = prepared
            (people,) = estimate.postprocess(estimate.infer(batch), placements)
            free.append(batch)
            yield people
