"""The part of pycuda.driver that the backend uses. Each thread has its own stack of contexts, as in PyCUDA."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tests.simulated_gpu.device import PRIMARY_CONTEXT, gpu

_local = threading.local()


class Error(Exception):
    pass


class MemoryError(Error):
    pass


class LogicError(Error):
    pass


def _stack() -> list[Context]:
    if not hasattr(_local, "stack"):
        _local.stack = []
    return _local.stack


def _update_current() -> None:
    gpu.context = _stack()[-1].handle if _stack() else 0


class Context:
    def __init__(self, handle: int) -> None:
        gpu.contexts.add(handle)
        self.handle = handle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and other.handle == self.handle

    def __hash__(self) -> int:
        return self.handle

    def push(self) -> None:
        if self.handle not in gpu.contexts:
            raise LogicError("context is destroyed")
        _stack().append(self)
        _update_current()

    @staticmethod
    def pop() -> None:
        _stack().pop()
        _update_current()

    @staticmethod
    def get_current() -> Context | None:
        return _stack()[-1] if _stack() else None

    @staticmethod
    def get_device() -> Device:
        return Device(0)

    def detach(self) -> None:
        gpu.contexts.discard(self.handle)


class Device:
    def __init__(self, index: int) -> None:
        self.index = index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.index == self.index

    def __hash__(self) -> int:
        return self.index

    @staticmethod
    def count() -> int:
        return 2

    def name(self) -> str:
        return gpu.name

    def compute_capability(self) -> tuple[int, int]:
        return gpu.capability

    def make_context(self) -> Context:
        made = Context(gpu.handle())
        made.push()
        return made

    def retain_primary_context(self) -> Context:
        return Context(PRIMARY_CONTEXT)


def init() -> None:
    if gpu.fails.get("init"):
        raise Error("cuInit failed: no CUDA-capable device is detected")


def get_version() -> tuple[int, int, int]:
    return gpu.cuda // 1000, gpu.cuda % 1000 // 10, 0


class Stream:
    def __init__(self, flags: int = 0) -> None:
        assert flags == 1
        self.handle = gpu.handle()
        gpu.streams[self.handle] = []

    def synchronize(self) -> None:
        gpu.wait(self.handle)

    def __del__(self) -> None:
        gpu.streams.pop(self.handle, None)


class DeviceAllocation:
    def __init__(self, address: int) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        assert gpu.context
        del gpu.device[self._address]


class HostAllocation:
    def __init__(self, address: int) -> None:
        self._address = address

    def free(self) -> None:
        del gpu.host[self._address]


class _Array(np.ndarray):
    """An array whose base can be set; numpy itself does not allow that from Python."""

    held: HostAllocation

    @property
    def base(self) -> Any:
        return self.held


def mem_alloc(size: int) -> DeviceAllocation:
    assert gpu.context
    address = gpu.allocate(gpu.device, size)
    if address is None:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(address)


def pagelocked_empty(size: int, dtype: Any) -> np.ndarray:
    address = gpu.allocate(gpu.host, size)
    assert address is not None
    array = gpu.view(gpu.host, address, size).view(_Array)
    array.held = HostAllocation(address)
    return array


def memcpy_htod_async(address: int, source: np.ndarray, stream: Stream) -> None:
    onto = gpu.view(gpu.device, address, source.nbytes)
    from_ = gpu.view(gpu.host, source.ctypes.data, source.nbytes)
    gpu.put(stream.handle, "in", lambda: np.copyto(onto, from_))


def memcpy_dtoh_async(target: np.ndarray, address: int, stream: Stream) -> None:
    onto = gpu.view(gpu.host, target.ctypes.data, target.nbytes)
    from_ = gpu.view(gpu.device, address, target.nbytes)
    gpu.put(stream.handle, "out", lambda: np.copyto(onto, from_))
