"""Which call has which lane of the TensorRT backend."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..errors import BackendError
from .cuda import Cuda
from .tensorrt_lane import Lane, Loaded


class Slots:
    """Lanes, made when they are needed, at most so many."""

    def __init__(self, loaded: Loaded, cuda: Cuda, most: int, graphs: bool) -> None:
        self._loaded: Loaded | None = loaded
        self._cuda, self._most, self._graphs = cuda, most, graphs
        self._changed = threading.Condition(threading.RLock())  # a ticket may be dropped anywhere, here too
        self._holders: dict[Lane, int] = {}  # which thread has it
        self._waiting: set[int] = set()
        self._free = [Lane(loaded, cuda, graphs)]  # the memory of one is there, or it is said now

    def take(self) -> Lane:
        me = threading.get_ident()
        with self._changed:
            while True:
                lane = self._found()
                if lane is not None:
                    self._holders[lane] = me
                    return lane
                if set(self._holders.values()) <= self._waiting | {me}:
                    raise ValueError(f"all {len(self._holders)} slots wait to be collected: collect() first")
                self._waiting.add(me)
                try:
                    self._changed.wait()
                finally:
                    self._waiting.discard(me)

    def _found(self) -> Lane | None:
        if self._loaded is None:
            raise ValueError("the TensorRT plan is closed; open the artifact again")
        if self._free:
            return self._free.pop()
        if len(self._holders) >= self._most:
            return None
        try:
            return Lane(self._loaded, self._cuda, self._graphs)
        except BackendError:
            self._changed.notify_all()  # who waits must find it out as well
            others = set(self._holders.values()) - {threading.get_ident()}
            if not others:
                raise
            self._most = len(self._holders)  # no memory for one more: the lanes that there are do
            return None

    def hold(self, lane: Lane) -> None:
        """By this thread from now on: it may have been submitted by another."""
        with self._changed:
            self._holders[lane] = threading.get_ident()

    def give_back(self, lane: Lane) -> None:
        with self._changed:
            del self._holders[lane]
            if self._loaded is None:
                lane.close()
            else:
                self._free.append(lane)
            self._changed.notify_all()

    def give_up(self, lane: Lane) -> None:
        """A lane on which something failed is not used again: what its stream and context are in, nobody knows."""
        with self._changed:
            self._holders.pop(lane, None)
            self._changed.notify_all()
        lane.close()

    @contextmanager
    def given_back_on_error(self, lane: Lane) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.give_up(lane)
            raise

    def close(self) -> None:
        """What is under way is finished and given back by those who collect it."""
        with self._changed:
            while self._free:
                self._free.pop().close()
            with suppress(BackendError), self._cuda.current():  # the engine gives its memory back
                self._loaded = None
            self._changed.notify_all()
