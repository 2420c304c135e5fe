"""A GPU simulated in host memory: work waits on streams and is done when somebody waits for the stream.

It is stricter than CUDA: copies must use pinned memory, addresses must be known, a context must be current, and a
context from which a graph was captured must not change.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Work = Callable[[], None]
ALIGNMENT = 256
PRIMARY_CONTEXT = 1


@dataclass
class SimulatedGpu:
    """State of the device, and the calls that it received.

    limit: bytes of device memory
    fails: name of a function -> error code that it then returns every time
    """

    name: str = "Simulated Orin"
    capability: tuple[int, int] = (8, 7)
    cuda: int = 12060
    limit: int = 1 << 30
    fails: dict[str, int] = field(default_factory=dict)
    device: dict[int, Any] = field(default_factory=dict)  # address -> buffer
    host: dict[int, Any] = field(default_factory=dict)  # pinned memory: address -> buffer
    streams: dict[int, list[Work]] = field(default_factory=dict)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    capturing: dict[int, list[Work]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    contexts: set[int] = field(default_factory=lambda: {PRIMARY_CONTEXT})
    lock: threading.RLock = field(default_factory=threading.RLock)
    _next: int = 100
    _thread: threading.local = field(default_factory=threading.local)

    def handle(self) -> int:
        with self.lock:
            self._next += 1
            return self._next

    @property
    def context(self) -> int:
        """The context that is current in this thread; 0: none."""
        return getattr(self._thread, "context", 0)

    @context.setter
    def context(self, handle: int) -> None:
        assert handle == 0 or handle in self.contexts, f"context {handle} was destroyed"
        self._thread.context = handle

    def used(self) -> dict[str, int]:
        """Number of resources of each kind; empty once all are released."""
        found = {
            "device": len(self.device), "host": len(self.host), "streams": len(self.streams), "graphs": len(self.graphs)
        }  # fmt: skip
        return {name: count for name, count in found.items() if count}

    def allocate(self, where: dict[int, Any], size: int) -> int | None:
        """Address of new memory in `where`, filled with garbage; None where the device has no more."""
        with self.lock:
            taken = sum(len(buffer) for buffer in self.device.values())
            if where is self.device and taken + size > self.limit:
                return None
            buffer = (ctypes.c_uint8 * (size + ALIGNMENT))()
            address = -(-ctypes.addressof(buffer) // ALIGNMENT) * ALIGNMENT
            where[address] = buffer
            ctypes.memset(address, 0xA5, size)
            return address

    def view(self, where: dict[int, Any], address: int, size: int) -> np.ndarray:
        """Memory that must lie in one allocation."""
        with self.lock:
            for start, buffer in where.items():
                end = ctypes.addressof(buffer) + len(buffer)
                if start <= address and address + size <= end:
                    return np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
        raise AssertionError(
            f"{address} + {size} lies in no allocation of {'device' if where is self.device else 'host'}"
        )

    def put(self, stream: int, name: str, work: Work) -> None:
        """On the stream, or into the graph that is being captured from it."""
        with self.lock:
            assert self.context, f"{name}: no context is current in this thread"
            self.calls.append(name)
            self.capturing.get(stream, self.streams[stream]).append(work)

    def wait(self, stream: int) -> None:
        with self.lock:
            assert stream not in self.capturing, "a stream that is captured cannot be waited for"
            self.calls.append("wait")
            waiting, self.streams[stream][:] = list(self.streams[stream]), []
            for work in waiting:
                work()


gpu = SimulatedGpu()


def reset(**settings: Any) -> SimulatedGpu:
    """Give `gpu` a new state. It stays the same object, because the simulated modules refer to it."""
    gpu.__dict__.update(SimulatedGpu(**settings).__dict__)
    return gpu
