"""Device memory, streams and CUDA graphs for the TensorRT backend, through cuda-python or PyCUDA.

cuda-python is the default. PyCUDA is for an application that has a PyCUDA context of its own. Each is imported when it
is used.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, BackendUnavailable, UsageError

CUDA_VARIABLE = "YOLOPOSE_CUDA"  # environment variable: cuda-python (default) or pycuda
LIBRARIES = ("cuda-python", "pycuda")
_NON_BLOCKING = 1  # flag of a PyCUDA stream: it does not wait for the default stream
_TOO_LARGE = "use a smaller batch or size, or fewer estimators"

Bytes = npt.NDArray[np.uint8]
Release = Callable[[], None]  # gives a resource back


@dataclass(frozen=True)
class Gpu:
    """What decides whether a plan runs on a device."""

    name: str
    compute_capability: str  # "8.7"; a plan runs on GPUs of the compute capability that it was built on
    cuda: str  # version of the CUDA runtime, "13.0"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class Cuda(Protocol):
    """One context of one GPU. All methods but `current` are called while it is current. Sizes are in bytes.

    Copies and graphs run in the order of their stream, after the call has returned. Failures raise BackendError.
    """

    gpu: Gpu
    has_graphs: bool

    def current(self) -> AbstractContextManager[None]:
        """Make the context current in this thread, and restore the previous one at the end."""
        ...

    def stream(self) -> tuple[int, Release]:
        """A stream that does not wait for other streams."""
        ...

    def allocate(self, size: int) -> tuple[int, Release]:
        """Address of device memory."""
        ...

    def pinned(self, size: int) -> tuple[Bytes, Release]:
        """Page-locked host memory, which the device reads and writes by itself."""
        ...

    def copy_to_device(self, address: int, source: Bytes, stream: int) -> None: ...

    def copy_to_host(self, target: Bytes, address: int, stream: int) -> None: ...

    def capture(self, stream: int, enqueue: Callable[[], None]) -> tuple[Any, Release]:
        """What `enqueue` puts on the stream, as a graph that launch() repeats."""
        ...

    def launch(self, graph: Any, stream: int) -> None: ...

    def wait(self, stream: int) -> None:
        """Until everything on the stream is done. Other threads run meanwhile."""
        ...


def open_cuda(index: int = 0, library: str | None = None) -> Cuda:
    """The context of a device.

    library: "cuda-python" or "pycuda", by default as the environment variable YOLOPOSE_CUDA says
    Raises ValueError (UsageError for the variable), BackendUnavailable: not installed, no driver, no such device.
    """
    chosen = library or os.environ.get(CUDA_VARIABLE) or LIBRARIES[0]
    if chosen not in LIBRARIES:
        if library is None:
            raise UsageError(f"{CUDA_VARIABLE} must be {' or '.join(LIBRARIES)}, got {chosen!r}")
        raise ValueError(f"cuda must be {' or '.join(LIBRARIES)}, got {chosen!r}")
    return PyCuda(index) if chosen == "pycuda" else CudaPython(index)


def find_gpu(index: int = 0) -> Gpu:
    """The device of that number. Raises BackendUnavailable: no cuda-python, no driver, no such device."""
    runtime, _ = _import_cuda_python()
    count = _available(runtime, "cudaGetDeviceCount", runtime.cudaGetDeviceCount())
    if not 0 <= index < count:
        raise BackendUnavailable(f"there is no GPU {index}: CUDA finds {count}")
    properties = _available(runtime, "cudaGetDeviceProperties", runtime.cudaGetDeviceProperties(index))
    version = int(_available(runtime, "cudaRuntimeGetVersion", runtime.cudaRuntimeGetVersion()))
    name = properties.name
    return Gpu(
        name.decode() if isinstance(name, bytes) else str(name),
        f"{properties.major}.{properties.minor}",
        f"{version // 1000}.{version % 1000 // 10}",
    )


class CudaPython:
    """The primary context of the device, which the CUDA runtime shares with PyTorch, ONNX Runtime and CuPy."""

    has_graphs = True

    def __init__(self, index: int = 0) -> None:
        self.gpu = find_gpu(index)
        self._runtime, self._driver = _import_cuda_python()
        before = self._get_context()
        _available(self._runtime, "cudaSetDevice", self._runtime.cudaSetDevice(index))
        _available(self._runtime, "cudaFree", self._runtime.cudaFree(0))  # creates the context, in CUDA 11 too
        self._context = self._get_context()
        self._set_context(before)  # none, or that of the application, or of another device

    @contextmanager
    def current(self) -> Iterator[None]:
        before = self._get_context()
        if int(before) == int(self._context):
            yield
            return
        self._set_context(self._context)
        try:
            yield
        finally:
            self._set_context(before)

    def stream(self) -> tuple[int, Release]:
        stream = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return int(stream), lambda: self._release("cudaStreamDestroy", stream)

    def allocate(self, size: int) -> tuple[int, Release]:
        address = self._call("cudaMalloc", size, what=f"of {size / 2**20:.1f} MiB on {self.gpu.name}")
        return int(address), lambda: self._release("cudaFree", address)

    def pinned(self, size: int) -> tuple[Bytes, Release]:
        address = int(self._call("cudaMallocHost", size, what=f"of {size / 2**20:.1f} MiB of host memory"))
        array = np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
        return array, lambda: self._release("cudaFreeHost", address)

    def copy_to_device(self, address: int, source: Bytes, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def copy_to_host(self, target: Bytes, address: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> tuple[Any, Release]:
        # Of this thread only: calls of other threads, such as allocations, neither enter nor break the capture.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            _, graph = self._runtime.cudaStreamEndCapture(stream)  # the capture must end in any case
            if graph is not None and int(graph):
                self._release("cudaGraphDestroy", graph)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._release("cudaGraphDestroy", graph)
        return executable, lambda: self._release("cudaGraphExecDestroy", executable)

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Any, what: str = "") -> Any:
        """The result of a function of the CUDA runtime, None if it has none. Raises BackendError."""
        error, *values = getattr(self._runtime, name)(*arguments)
        if not int(error):
            return values[0] if values else None
        if error.name == "cudaErrorMemoryAllocation":
            raise BackendError(f"out of memory: {name} {what}; {_TOO_LARGE}")
        raise BackendError(f"{name} failed{' ' + what if what else ''}: {_error_string(self._runtime, error)}")

    def _release(self, name: str, handle: Any) -> None:
        """Ignores errors: after a failed kernel every call reports it again, and everything must be released."""
        with suppress(BackendError), self.current():
            getattr(self._runtime, name)(handle)

    def _get_context(self) -> Any:
        error, context = self._driver.cuCtxGetCurrent()
        if int(error):
            raise BackendUnavailable(f"cuCtxGetCurrent failed ({error}); is there an NVIDIA driver?")
        return context

    def _set_context(self, context: Any) -> None:
        (error,) = self._driver.cuCtxSetCurrent(context)
        if int(error):
            raise BackendError(f"cuCtxSetCurrent failed ({error}); has the application destroyed its own context?")


def _import_cuda_python() -> tuple[Any, Any]:
    """Its modules (runtime, driver). Raises BackendUnavailable."""
    try:
        from cuda.bindings import driver, runtime
    except ImportError as error:
        raise BackendUnavailable(
            f'cuda-python cannot be imported ({error}): pip install "yolopose[cuda]" (cuda-python)'
        ) from error
    return runtime, driver


def _available(runtime: Any, name: str, answer: tuple[Any, ...]) -> Any:
    """The value after the error code in `answer`. Raises BackendUnavailable."""
    error, *values = answer
    if int(error):
        hint = ""
        if error.name == "cudaErrorInsufficientDriver":
            hint = "; if its driver is older than cuda-python, install one that fits: 'cuda-python<13' for CUDA 12"
        raise BackendUnavailable(
            f"{name}: {_error_string(runtime, error)}; is there an NVIDIA GPU with a driver?{hint}"
        )
    return values[0] if values else None


def _error_string(runtime: Any, error: Any) -> str:
    _, text = runtime.cudaGetErrorString(error)
    return f"{text.decode() if isinstance(text, bytes) else text} ({error.name})"


class PyCuda:
    """The context that is current in the thread that opens it, or the primary one of the device where there is none.

    PyCUDA cannot capture a stream (2026.1), so there are no CUDA graphs: each kernel is launched separately.
    """

    has_graphs = False

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda.driver as driver
        except ImportError as error:
            raise BackendUnavailable(
                f'{CUDA_VARIABLE}=pycuda, but PyCUDA cannot be imported ({error}): pip install "yolopose[pycuda]"'
            ) from error
        self._driver = driver
        try:
            driver.init()
            count = driver.Device.count()
            if not 0 <= index < count:
                raise BackendUnavailable(f"there is no GPU {index}: CUDA finds {count}")
            device = driver.Device(index)
            self._context = driver.Context.get_current()
            if self._context is None:
                self._context = device.retain_primary_context()
            elif driver.Context.get_device() != device:
                raise BackendUnavailable(f"GPU {index} was requested, but the application's context is on another GPU")
        except driver.Error as error:
            raise BackendUnavailable(f"PyCUDA: {error}; is there an NVIDIA GPU with a driver?") from error
        major, minor = device.compute_capability()
        version = driver.get_version()
        self.gpu = Gpu(device.name(), f"{major}.{minor}", f"{version[0]}.{version[1]}")
        self._streams: dict[int, Any] = {}  # handle -> PyCUDA's object, which owns the stream

    @contextmanager
    def current(self) -> Iterator[None]:
        if self._driver.Context.get_current() == self._context:
            yield
            return
        with self._errors("making its context current (did the application destroy it?)"):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def stream(self) -> tuple[int, Release]:
        with self._errors("a stream"):
            stream = self._driver.Stream(_NON_BLOCKING)
        handle: int = stream.handle
        self._streams[handle] = stream  # the only reference: the stream is destroyed when it is dropped
        return handle, lambda: self._release(lambda: self._streams.pop(handle))

    def allocate(self, size: int) -> tuple[int, Release]:
        with self._errors(f"{size / 2**20:.1f} MiB on {self.gpu.name}"):
            allocation = self._driver.mem_alloc(size)
        return int(allocation), lambda: self._release(allocation.free)

    def pinned(self, size: int) -> tuple[Bytes, Release]:
        with self._errors(f"{size / 2**20:.1f} MiB of host memory"):
            array: Bytes = self._driver.pagelocked_empty(size, np.uint8)
        allocation: Any = array.base
        return array, lambda: self._release(allocation.free)

    def copy_to_device(self, address: int, source: Bytes, stream: int) -> None:
        with self._errors("a copy to the device"):
            self._driver.memcpy_htod_async(address, source, self._streams[stream])

    def copy_to_host(self, target: Bytes, address: int, stream: int) -> None:
        with self._errors("a copy to the host"):
            self._driver.memcpy_dtoh_async(target, address, self._streams[stream])

    def capture(self, stream: int, enqueue: Callable[[], None]) -> NoReturn:
        raise BackendError("PyCUDA has no CUDA graphs")

    def launch(self, graph: Any, stream: int) -> NoReturn:
        raise BackendError("PyCUDA has no CUDA graphs")

    def wait(self, stream: int) -> None:
        with self._errors("waiting for the GPU"):
            self._streams[stream].synchronize()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """Raise PyCUDA's errors as BackendError."""
        try:
            yield
        except self._driver.MemoryError as error:
            raise BackendError(f"out of memory: {what} ({error}); {_TOO_LARGE}") from error
        except self._driver.Error as error:
            raise BackendError(f"PyCUDA failed at {what}: {error}") from error

    def _release(self, free: Callable[[], Any]) -> None:
        """Ignores errors: after a failed kernel every call reports it again, and everything must be released."""
        with suppress(self._driver.Error, BackendError), self.current():
            free()
