"""The part of cuda.bindings.runtime that the backend uses: each answer is a tuple that starts with an error code."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from tests.simulated_gpu.device import PRIMARY_CONTEXT, gpu

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
    error = cudaError_t(gpu.fails.get(name, 0))
    return (error, *((None,) * len(values) if error else values))


def cudaGetErrorString(error: cudaError_t) -> tuple[Any, ...]:
    return cudaError_t(0), f"simulated: {error.name}".encode()


def cudaGetDeviceCount() -> tuple[Any, ...]:
    return _answer("cudaGetDeviceCount", 1)


def cudaGetDeviceProperties(index: int) -> tuple[Any, ...]:
    major, minor = gpu.capability
    found = SimpleNamespace(name=gpu.name.encode(), major=major, minor=minor)
    return _answer("cudaGetDeviceProperties", found)


def cudaRuntimeGetVersion() -> tuple[Any, ...]:
    return _answer("cudaRuntimeGetVersion", gpu.cuda)


def cudaSetDevice(index: int) -> tuple[Any, ...]:
    gpu.context = PRIMARY_CONTEXT
    return _answer("cudaSetDevice")


def _allocated(name: str, where: dict[int, Any], size: int) -> tuple[Any, ...]:
    answer = _answer(name, None)
    if answer[0]:
        return answer
    assert gpu.context
    address = gpu.allocate(where, size)
    return (cudaError_t(2), None) if address is None else (cudaError_t(0), address)


def cudaMalloc(size: int) -> tuple[Any, ...]:
    return _allocated("cudaMalloc", gpu.device, size)


def cudaMallocHost(size: int) -> tuple[Any, ...]:
    return _allocated("cudaMallocHost", gpu.host, size)


def cudaFree(address: int) -> tuple[Any, ...]:
    if address:
        assert gpu.context
        del gpu.device[address]
    return _answer("cudaFree")


def cudaFreeHost(address: int) -> tuple[Any, ...]:
    del gpu.host[address]
    return _answer("cudaFreeHost")


def cudaMemcpyAsync(target: int, source: int, size: int, kind: cudaMemcpyKind, stream: int) -> tuple[Any, ...]:
    if gpu.fails.get("cudaMemcpyAsync"):
        return _answer("cudaMemcpyAsync")
    to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
    places = (gpu.device, gpu.host) if to_device else (gpu.host, gpu.device)
    onto, from_ = gpu.view(places[0], target, size), gpu.view(places[1], source, size)

    def work() -> None:
        onto[:] = from_

    gpu.put(stream, "in" if to_device else "out", work)
    return _answer("cudaMemcpyAsync")


def cudaStreamCreateWithFlags(flags: int) -> tuple[Any, ...]:
    assert flags == cudaStreamNonBlocking
    if gpu.fails.get("cudaStreamCreateWithFlags"):
        return _answer("cudaStreamCreateWithFlags", None)
    handle = gpu.handle()
    gpu.streams[handle] = []
    return _answer("cudaStreamCreateWithFlags", handle)


def cudaStreamSynchronize(stream: int) -> tuple[Any, ...]:
    gpu.wait(stream)
    return _answer("cudaStreamSynchronize")


def cudaStreamDestroy(stream: int) -> tuple[Any, ...]:
    del gpu.streams[stream]
    return _answer("cudaStreamDestroy")


def cudaStreamBeginCapture(stream: int, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
    assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert not gpu.streams[stream], "capture of a stream with pending work"
    gpu.calls.append("begin capture")
    gpu.capturing[stream] = []
    return _answer("cudaStreamBeginCapture")


def cudaStreamEndCapture(stream: int) -> tuple[Any, ...]:
    gpu.calls.append("end capture")
    work = gpu.capturing.pop(stream)
    if gpu.fails.get("cudaStreamEndCapture"):
        return _answer("cudaStreamEndCapture", None)
    handle = gpu.handle()
    gpu.graphs[handle] = work
    return _answer("cudaStreamEndCapture", handle)


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[Any, ...]:
    handle = gpu.handle()
    if not gpu.fails.get("cudaGraphInstantiate"):
        gpu.graphs[handle] = gpu.graphs[graph]
    return _answer("cudaGraphInstantiate", handle)


def cudaGraphLaunch(graph: int, stream: int) -> tuple[Any, ...]:
    repeated = gpu.graphs[graph]

    def work() -> None:
        for each in repeated:
            each()

    gpu.put(stream, "launch", work)
    return _answer("cudaGraphLaunch")


def cudaGraphDestroy(graph: int) -> tuple[Any, ...]:
    del gpu.graphs[graph]
    return _answer("cudaGraphDestroy")


def cudaGraphExecDestroy(graph: int) -> tuple[Any, ...]:
    del gpu.graphs[graph]
    return _answer("cudaGraphExecDestroy")
