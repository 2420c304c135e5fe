"""Plays what of cuda.bindings.runtime the backend uses: each answer is a tuple that begins with an error code."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from tests.played_gpu.device import machine

cudaStreamNonBlocking = 1


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


def _answer(name: str, *values: Any) -> tuple[Any, ...]:
    error = cudaError_t(machine.fails.get(name, 0))
    return (error, *((None,) * len(values) if error else values))


def cudaGetErrorString(error: cudaError_t) -> tuple[Any, ...]:
    return cudaError_t(0), f"played: {error.name}".encode()


def cudaGetDeviceCount() -> tuple[Any, ...]:
    return _answer("cudaGetDeviceCount", 1)


def cudaGetDeviceProperties(index: int) -> tuple[Any, ...]:
    major, minor = machine.capability
    found = SimpleNamespace(name=machine.name.encode(), major=major, minor=minor)
    return _answer("cudaGetDeviceProperties", found)


def cudaRuntimeGetVersion() -> tuple[Any, ...]:
    return _answer("cudaRuntimeGetVersion", machine.cuda)


def cudaSetDevice(index: int) -> tuple[Any, ...]:
    machine.context = 1
    return _answer("cudaSetDevice")


def _allocated(name: str, where: dict[int, Any], size: int) -> tuple[Any, ...]:
    answer = _answer(name, None)
    if answer[0]:
        return answer
    assert machine.context
    address = machine.allocate(where, size)
    return (cudaError_t(2), None) if address is None else (cudaError_t(0), address)


def cudaMalloc(size: int) -> tuple[Any, ...]:
    return _allocated("cudaMalloc", machine.device, size)


def cudaMallocHost(size: int) -> tuple[Any, ...]:
    return _allocated("cudaMallocHost", machine.host, size)


def cudaFree(address: int) -> tuple[Any, ...]:
    if address:
        assert machine.context
        del machine.device[address]
    return _answer("cudaFree")


def cudaFreeHost(address: int) -> tuple[Any, ...]:
    del machine.host[address]
    return _answer("cudaFreeHost")


def cudaMemcpyAsync(target: int, source: int, size: int, kind: cudaMemcpyKind, stream: int) -> tuple[Any, ...]:
    if machine.fails.get("cudaMemcpyAsync"):
        return _answer("cudaMemcpyAsync")
    to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
    places = (machine.device, machine.host) if to_device else (machine.host, machine.device)
    onto, from_ = machine.view(places[0], target, size), machine.view(places[1], source, size)

    def work() -> None:
        onto[:] = from_

    machine.put(stream, "in" if to_device else "out", work)
    return _answer("cudaMemcpyAsync")


def cudaStreamCreateWithFlags(flags: int) -> tuple[Any, ...]:
    assert flags == cudaStreamNonBlocking
    if machine.fails.get("cudaStreamCreateWithFlags"):
        return _answer("cudaStreamCreateWithFlags", None)
    handle = machine.handle()
    machine.streams[handle] = []
    return _answer("cudaStreamCreateWithFlags", handle)


def cudaStreamSynchronize(stream: int) -> tuple[Any, ...]:
    machine.wait(stream)
    return _answer("cudaStreamSynchronize")


def cudaStreamDestroy(stream: int) -> tuple[Any, ...]:
    del machine.streams[stream]
    return _answer("cudaStreamDestroy")


def cudaStreamBeginCapture(stream: int, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
    assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert not machine.streams[stream], "captured with work that waits"
    machine.calls.append("begin capture")
    machine.capturing[stream] = []
    return _answer("cudaStreamBeginCapture")


def cudaStreamEndCapture(stream: int) -> tuple[Any, ...]:
    machine.calls.append("end capture")
    work = machine.capturing.pop(stream)
    if machine.fails.get("cudaStreamEndCapture"):
        return _answer("cudaStreamEndCapture", None)
    handle = machine.handle()
    machine.graphs[handle] = work
    return _answer("cudaStreamEndCapture", handle)


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[Any, ...]:
    handle = machine.handle()
    if not machine.fails.get("cudaGraphInstantiate"):
        machine.graphs[handle] = machine.graphs[graph]
    return _answer("cudaGraphInstantiate", handle)


def cudaGraphLaunch(graph: int, stream: int) -> tuple[Any, ...]:
    repeated = machine.graphs[graph]

    def work() -> None:
        for each in repeated:
            each()

    machine.put(stream, "launch", work)
    return _answer("cudaGraphLaunch")


def cudaGraphDestroy(graph: int) -> tuple[Any, ...]:
    del machine.graphs[graph]
    return _answer("cudaGraphDestroy")


def cudaGraphExecDestroy(graph: int) -> tuple[Any, ...]:
    del machine.graphs[graph]
    return _answer("cudaGraphExecDestroy")
