"""Device memory, streams and graphs for the TensorRT backend: CUDA through cuda-python, imported when it is used.

``cuda_pycuda.py`` is the alternative inside an application's own PyCUDA context.

CUDA through PyCUDA, for an application that has a context of its own: what ``cuda.py`` asks, but without graphs.

PyCUDA cannot capture a stream (2026.1), so each kernel of the plan is launched anew.
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

from ..errors import BackendError, BackendUnavailable

INSTALL = 'pip install "yolopose[cuda]" (cuda-python)'
CHOICE = "YOLOPOSE_CUDA"  # environment variable: cuda-python (default) or pycuda
_OUT_OF_MEMORY = "cudaErrorMemoryAllocation"

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Gpu:
    """A device as plans must know it: they run on GPUs of the compute capability that they were built on."""

    name: str
    compute_capability: str  # "8.7"
    cuda: str  # version of the CUDA runtime that was asked, "13.0"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class Cuda(Protocol):
    """One context of one GPU. All but ``current`` is called while it is current; sizes are bytes.

    What fails is a BackendError. Copies and graphs run in the order of their stream, after the call has returned.
    """

    gpu: Gpu
    has_graphs: bool

    def current(self) -> AbstractContextManager[None]:
        """Make the context current in this thread, and leave the thread as it was."""
        ...

    def stream(self) -> tuple[int, Callable[[], None]]:
        """A stream that does not wait for others, and what destroys it."""
        ...

    def allocate(self, size: int) -> tuple[int, Callable[[], None]]:
        """Address on the device, and what frees it."""
        ...

    def pinned(self, size: int) -> tuple[Bytes, Callable[[], None]]:
        """Host memory that the device reads and writes by itself, and what frees it."""
        ...

    def copy_to_device(self, address: int, source: Bytes, stream: int) -> None: ...

    def copy_to_host(self, target: Bytes, address: int, stream: int) -> None: ...

    def capture(self, stream: int, enqueue: Callable[[], None]) -> tuple[Any, Callable[[], None]]:
        """What ``enqueue`` puts on the stream, as a graph that launch() repeats, and what destroys it."""
        ...

    def launch(self, graph: Any, stream: int) -> None: ...

    def wait(self, stream: int) -> None:
        """Until all that was put on the stream is done; other threads run meanwhile."""
        ...


def open_cuda(index: int = 0, through: str | None = None) -> Cuda:
    """The context of that device. through: cuda-python | pycuda, by default as YOLOPOSE_CUDA says.

    Raises ValueError, BackendUnavailable: not installed, no driver, no such device.
    """
    through = through or os.environ.get(CHOICE) or "cuda-python"
    if through == "cuda-python":
        return CudaPython(index)
    if through == "pycuda":
        return PyCuda(index)
    raise ValueError(f"{CHOICE} must be cuda-python or pycuda, got {through!r}")


def find_gpu(index: int = 0) -> Gpu:
    """The device of that number. Raises BackendUnavailable: no cuda-python, no driver, no such device."""
    runtime, _ = _import()
    count = _available(runtime, "cudaGetDeviceCount", runtime.cudaGetDeviceCount())
    if not 0 <= index < count:
        raise BackendUnavailable(f"there is no GPU {index}: CUDA sees {count}")
    properties = _available(runtime, "cudaGetDeviceProperties", runtime.cudaGetDeviceProperties(index))
    version = int(_available(runtime, "cudaRuntimeGetVersion", runtime.cudaRuntimeGetVersion()))
    name = properties.name
    return Gpu(
        name.decode() if isinstance(name, bytes) else str(name),
        f"{properties.major}.{properties.minor}",
        f"{version // 1000}.{version % 1000 // 10}",
    )


class CudaPython:
    """The device's primary context, which all of CUDA's runtime shares: PyTorch, ONNX Runtime, CuPy."""

    has_graphs = True

    def __init__(self, index: int = 0) -> None:
        self.gpu = find_gpu(index)
        self._runtime, self._driver = _import()
        before = self._get()
        _available(self._runtime, "cudaSetDevice", self._runtime.cudaSetDevice(index))
        _available(self._runtime, "cudaFree", self._runtime.cudaFree(0))  # makes the context, in CUDA 11 too
        self._context = self._get()
        self._set(before)  # none, or an application's own context, or another device's

    @contextmanager
    def current(self) -> Iterator[None]:
        before = self._get()
        if int(before) == int(self._context):
            yield
            return
        self._set(self._context)
        try:
            yield
        finally:
            self._set(before)

    def stream(self) -> tuple[int, Callable[[], None]]:
        made = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return int(made), lambda: self._release("cudaStreamDestroy", made)

    def allocate(self, size: int) -> tuple[int, Callable[[], None]]:
        address = self._call("cudaMalloc", size, told=f"of {size / 2**20:.1f} MiB on {self.gpu.name}")
        return int(address), lambda: self._release("cudaFree", address)

    def pinned(self, size: int) -> tuple[Bytes, Callable[[], None]]:
        address = int(self._call("cudaMallocHost", size, told=f"of {size / 2**20:.1f} MiB of host memory"))
        array = np.frombuffer(memoryview((ctypes.c_uint8 * size).from_address(address)), np.uint8)
        return array, lambda: self._release("cudaFreeHost", address)

    def copy_to_device(self, address: int, source: Bytes, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def copy_to_host(self, target: Bytes, address: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> tuple[Any, Callable[[], None]]:
        # Of this thread only: what other threads do meanwhile, such as allocate, neither enters nor breaks it.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            enqueue()
        except BaseException:
            _, graph = self._runtime.cudaStreamEndCapture(stream)  # ends it whatever comes
            if graph is not None and int(graph):
                self._release("cudaGraphDestroy", graph)
            raise
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            made = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._release("cudaGraphDestroy", graph)
        return made, lambda: self._release("cudaGraphExecDestroy", made)

    def launch(self, graph: Any, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def wait(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def _call(self, name: str, *arguments: Any, told: str = "") -> Any:
        error, *values = getattr(self._runtime, name)(*arguments)
        if not int(error):
            return values[0] if values else None
        if error.name == _OUT_OF_MEMORY:
            raise BackendError(f"out of memory: {name} {told}; use a smaller batch or size, or fewer estimators")
        raise BackendError(f"{name} failed{' ' + told if told else ''}: {_text(self._runtime, error)}")

    def _release(self, name: str, handle: Any) -> None:
        """Errors are let go: after a failed kernel each call reports it again, and everything must be given back."""
        with suppress(BackendError), self.current():
            getattr(self._runtime, name)(handle)

    def _get(self) -> Any:
        error, context = self._driver.cuCtxGetCurrent()
        if int(error):
            raise BackendUnavailable(f"cuCtxGetCurrent failed ({error}); is there an NVIDIA driver?")
        return context

    def _set(self, context: Any) -> None:
        (error,) = self._driver.cuCtxSetCurrent(context)
        if int(error):
            raise BackendError(f"cuCtxSetCurrent failed ({error}); is the application's own context still alive?")


def _import() -> tuple[Any, Any]:
    try:
        from cuda.bindings import driver, runtime
    except ImportError as error:
        raise BackendUnavailable(f"the GPU cannot be asked ({error}): {INSTALL}") from error
    return runtime, driver


def _available(runtime: Any, name: str, answer: tuple[Any, ...]) -> Any:
    """What follows the error code in ``answer``. Raises BackendUnavailable."""
    error, *values = answer
    if int(error):
        older = (
            "; or its driver is older than cuda-python, which then must be: pip install 'cuda-python<13' for CUDA 12"
        )
        hint = older if error.name == "cudaErrorInsufficientDriver" else ""
        raise BackendUnavailable(f"{name}: {_text(runtime, error)}; is there an NVIDIA GPU with a driver?{hint}")
    return values[0] if values else None


def _text(runtime: Any, error: Any) -> str:
    _, text = runtime.cudaGetErrorString(error)
    return f"{text.decode() if isinstance(text, bytes) else text} ({error.name})"


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
