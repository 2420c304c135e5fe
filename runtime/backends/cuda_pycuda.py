"""CUDA through PyCUDA, for an application that has a context of its own: what ``cuda.py`` asks, but without graphs.

PyCUDA cannot capture a stream (2026.1), so each kernel of the plan is launched anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np

from ..errors import BackendError, BackendUnavailable
from .cuda import CHOICE, Bytes, Gpu

_NON_BLOCKING = 1  # flag of a stream: it does not wait for the default stream


class PyCuda:
    """The context that is current in the thread that opens it, or where there is none the device's primary one."""

    has_graphs = False

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise BackendUnavailable(
                f'{CHOICE}=pycuda, but PyCUDA cannot be imported ({error}): pip install "yolopose[pycuda]"'
            ) from error
        self._driver = driver
        try:
            driver.init()
            count = driver.Device.count()
            if not 0 <= index < count:
                raise BackendUnavailable(f"there is no GPU {index}: CUDA sees {count}")
            device = driver.Device(index)
            self._context = driver.Context.get_current()
            if self._context is None:
                self._context = device.retain_primary_context()
            elif driver.Context.get_device() != device:
                raise BackendUnavailable(f"the application's context is on another GPU than the one asked for, {index}")
        except driver.Error as error:
            raise BackendUnavailable(f"PyCUDA: {error}; is there an NVIDIA GPU with a driver?") from error
        major, minor = device.compute_capability()
        version = driver.get_version()
        self.gpu = Gpu(device.name(), f"{major}.{minor}", f"{version[0]}.{version[1]}")
        self._streams: dict[int, Any] = {}  # PyCUDA's own objects, which live as long as they are held

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._driver.Context.get_current() == self._context:
            yield
            return
        with self._told("making its context current, which the application may have destroyed"):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def stream(self) -> tuple[int, Callable[[], None]]:
        with self._told("a stream"):
            made = self._driver.Stream(_NON_BLOCKING)
        handle: int = made.handle
        self._streams[handle] = made  # the only reference: it is destroyed when this one goes
        return handle, lambda: self._release(lambda: self._streams.pop(handle))

    def allocate(self, size: int) -> tuple[int, Callable[[], None]]:
        with self._told(f"{size / 2**20:.1f} MiB on {self.gpu.name}"):
            made = self._driver.mem_alloc(size)
        return int(made), lambda: self._release(made.free)

    def pinned(self, size: int) -> tuple[Bytes, Callable[[], None]]:
        with self._told(f"{size / 2**20:.1f} MiB of host memory"):
            array: Bytes = self._driver.pagelocked_empty(size, np.uint8)
        allocation: Any = array.base
        return array, lambda: self._release(allocation.free)

    def copy_to_device(self, address: int, source: Bytes, stream: int) -> None:
        with self._told("a copy to the device"):
            self._driver.memcpy_htod_async(address, source, self._streams[stream])

    def copy_to_host(self, target: Bytes, address: int, stream: int) -> None:
        with self._told("a copy to the host"):
            self._driver.memcpy_dtoh_async(target, address, self._streams[stream])

    def capture(self, stream: int, enqueue: Callable[[], None]) -> NoReturn:
        raise BackendError("PyCUDA has no CUDA graphs")

    def launch(self, graph: Any, stream: int) -> NoReturn:
        raise BackendError("PyCUDA has no CUDA graphs")

    def wait(self, stream: int) -> None:
        with self._told("waiting for the GPU"):
            self._streams[stream].synchronize()

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._driver.MemoryError as error:
            raise BackendError(
                f"out of memory: {what} ({error}); use a smaller batch or size, or fewer estimators"
            ) from error
        except self._driver.Error as error:
            raise BackendError(f"PyCUDA failed at {what}: {error}") from error

    def _release(self, free: Callable[[], Any]) -> None:
        """Errors are let go: after a failed kernel each call reports it again, and everything must be given back."""
        with suppress(self._driver.Error, BackendError), self.current():
            free()
