"""Plays what of pycuda.driver the backend uses. Its stack of contexts is one a thread, as PyCUDA's."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from tests.played_gpu.device import machine

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


def _settle() -> None:
    machine.context = _stack()[-1].handle if _stack() else 0


class Context:
    def __init__(self, handle: int) -> None:
        machine.contexts.add(handle)
        self.handle = handle

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and other.handle == self.handle

    def __hash__(self) -> int:
        return self.handle

    def push(self) -> None:
        if self.handle not in machine.contexts:
            raise LogicError("context is destroyed")
        _stack().append(self)
        _settle()

    @staticmethod
    def pop() -> None:
        _stack().pop()
        _settle()

    @staticmethod
    def get_current() -> Context | None:
        return _stack()[-1] if _stack() else None

    @staticmethod
    def get_device() -> Device:
        return Device(0)

    def detach(self) -> None:
        machine.contexts.discard(self.handle)


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
        return machine.name

    def compute_capability(self) -> tuple[int, int]:
        return machine.capability

    def make_context(self) -> Context:
        made = Context(machine.handle())
        made.push()
        return made

    def retain_primary_context(self) -> Context:
        return Context(1)


def init() -> None:
    if machine.fails.get("init"):
        raise Error("cuInit failed: no CUDA-capable device is detected")


def get_version() -> tuple[int, int, int]:
    return machine.cuda // 1000, machine.cuda % 1000 // 10, 0


class Stream:
    def __init__(self, flags: int = 0) -> None:
        assert flags == 1
        self.handle = machine.handle()
        machine.streams[self.handle] = []

    def synchronize(self) -> None:
        machine.wait(self.handle)

    def __del__(self) -> None:
        machine.streams.pop(self.handle, None)


class DeviceAllocation:
    def __init__(self, address: int) -> None:
        self._address = address

    def __int__(self) -> int:
        return self._address

    def free(self) -> None:
        assert machine.context
        del machine.device[self._address]


class HostAllocation:
    def __init__(self, address: int) -> None:
        self._address = address

    def free(self) -> None:
        del machine.host[self._address]


class _Array(np.ndarray):
    """numpy lets no base be chosen from Python."""

    held: HostAllocation

    @property
    def base(self) -> Any:
        return self.held


def mem_alloc(size: int) -> DeviceAllocation:
    assert machine.context
    address = machine.allocate(machine.device, size)
    if address is None:
        raise MemoryError("cuMemAlloc failed: out of memory")
    return DeviceAllocation(address)


def pagelocked_empty(size: int, dtype: Any) -> np.ndarray:
    address = machine.allocate(machine.host, size)
    assert address is not None
    array = machine.view(machine.host, address, size).view(_Array)
    array.held = HostAllocation(address)
    return array


def memcpy_htod_async(address: int, source: np.ndarray, stream: Stream) -> None:
    onto = machine.view(machine.device, address, source.nbytes)
    from_ = machine.view(machine.host, source.ctypes.data, source.nbytes)
    machine.put(stream.handle, "in", lambda: np.copyto(onto, from_))


def memcpy_dtoh_async(target: np.ndarray, address: int, stream: Stream) -> None:
    onto = machine.view(machine.host, target.ctypes.data, target.nbytes)
    from_ = machine.view(machine.device, address, target.nbytes)
    machine.put(stream.handle, "out", lambda: np.copyto(onto, from_))
