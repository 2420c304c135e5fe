"""One lane of the TensorRT backend: a stream, its buffers, and for each batch size a context with its CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import BackendError
from .base import INPUT_NAMES, OUTPUT_NAMES, RawPeople
from .cuda import Bytes, Cuda

_ALIGNMENT = 256  # bytes, of every address that TensorRT is given

Array = npt.NDArray[Any]
Row = tuple[tuple[int, ...], np.dtype[Any]]  # shape behind the batch, and type


class Profile(NamedTuple):
    """One of the plan's, for the size that it was opened with."""

    number: int
    least: int  # images
    best: int
    most: int


class Loaded(NamedTuple):
    """A plan in the memory of the device, with what its lanes have in common."""

    trt: Any
    runtime: Any  # must outlive the engine
    engine: Any
    profiles: Sequence[Profile]
    rows: Mapping[str, Row]  # of INPUT_NAMES and OUTPUT_NAMES
    errors: Callable[[], str]  # what TensorRT said last

    @property
    def most(self) -> int:
        return max(profile.most for profile in self.profiles)

    def profile(self, rows: int) -> int:
        """The profile that was tuned for a batch nearest to this one. It must be in one of them."""
        fitting = [profile for profile in self.profiles if profile.least <= rows <= profile.most]
        return min(fitting, key=lambda profile: abs(profile.best - rows)).number


class Shape(NamedTuple):
    """All that one batch size needs: its context, views of the staging buffers, and the graph once there is one."""

    context: Any
    inputs: list[Array]
    outputs: list[Array]
    input_bytes: int
    output_bytes: int
    graph: list[Any]  # empty, or the graph


class Lane:
    """Used by one call at a time. All of its memory is there from the beginning; a context more for each new batch.

    A graph holds the addresses of its context, so that each batch size has one to itself, as TensorRT asks; they share
    the scratch memory, because they follow each other on one stream.
    """

    def __init__(self, loaded: Loaded, cuda: Cuda, with_graphs: bool) -> None:
        self._loaded: Loaded | None = loaded
        self._cuda = cuda
        self._with_graphs = with_graphs and cuda.has_graphs
        self._shapes: dict[int, Shape] = {}
        self._resources = ExitStack()
        given, found = (_offsets(loaded, names, loaded.most)[1] for names in (INPUT_NAMES, OUTPUT_NAMES))
        try:
            with cuda.current():
                self._stream = self._own(cuda.stream())
                self._device_in, self._device_out = self._own(cuda.allocate(given)), self._own(cuda.allocate(found))
                self._host_in, self._host_out = self._own(cuda.pinned(given)), self._own(cuda.pinned(found))
                self._scratch_size = int(loaded.engine.device_memory_size_v2)
                self._scratch = self._own(cuda.allocate(max(self._scratch_size, 1)))
        except BaseException:
            self._resources.close()
            raise

    def submit(self, inputs: Sequence[Array]) -> Shape:
        """Copies the inputs and puts all work on the stream. Raises BackendError."""
        with self._cuda.current():
            rows = len(inputs[0])
            shape = self._shapes.get(rows)
            if shape is None:
                shape = self._shapes[rows] = self._new_shape(rows)
            for target, source in zip(shape.inputs, inputs, strict=True):
                np.copyto(target, source, casting="no")
            self._start(shape)
            return shape

    def collect(self, shape: Shape) -> RawPeople:
        """Waits; the arrays are the caller's own. The first time of a batch size, its graph is made. BackendError."""
        with self._cuda.current():
            self._cuda.wait(self._stream)
            found = RawPeople(*(array.copy() for array in shape.outputs))
            if self._with_graphs and not shape.graph:
                # Only now: TensorRT wants to have run once before it is captured.
                shape.graph.append(self._captured(shape))
            return found

    def repeat(self, shape: Shape) -> None:
        """For measurements: what was submitted last once more, from pinned memory to pinned memory."""
        with self._cuda.current():
            self._start(shape)
            self._cuda.wait(self._stream)

    def close(self) -> None:
        """Waits for what still runs, and gives everything back, newest first."""
        with suppress(BackendError), self._cuda.current():
            with suppress(BackendError):  # after a failed kernel there is nothing to wait for
                self._cuda.wait(self._stream)
            self._shapes.clear()  # contexts go before the engine, and before the memory that they hold addresses of
            self._loaded = None
        self._resources.close()

    def _captured(self, shape: Shape) -> Any:
        try:
            return self._own(self._cuda.capture(self._stream, lambda: self._enqueue(shape)))
        except BackendError as error:
            raise BackendError(f"{error}: no CUDA graph; the backend tensorrt:eager runs without") from error

    def _own(self, made: tuple[Any, Callable[[], None]]) -> Any:
        self._resources.callback(made[1])
        return made[0]

    def _start(self, shape: Shape) -> None:
        if shape.graph:
            self._cuda.launch(shape.graph[0], self._stream)
        else:
            self._enqueue(shape)

    def _enqueue(self, shape: Shape) -> None:
        cuda, stream = self._cuda, self._stream
        cuda.copy_to_device(self._device_in, self._host_in[: shape.input_bytes], stream)
        if not shape.context.execute_async_v3(stream):
            assert self._loaded is not None
            raise BackendError(f"TensorRT could not run the plan: {self._loaded.errors()}")
        cuda.copy_to_host(self._host_out[: shape.output_bytes], self._device_out, stream)

    def _new_shape(self, rows: int) -> Shape:
        loaded = self._loaded
        assert loaded is not None
        context = loaded.engine.create_execution_context(loaded.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(f"TensorRT made no context, for want of memory perhaps: {loaded.errors()}")
        context.set_device_memory(self._scratch, self._scratch_size)
        accepted = context.set_optimization_profile_async(loaded.profile(rows), self._stream)
        starts, input_bytes = _offsets(loaded, INPUT_NAMES, rows)
        for name, start in starts.items():
            accepted = accepted and context.set_input_shape(name, (rows, *loaded.rows[name][0]))
            accepted = accepted and context.set_tensor_address(name, self._device_in + start)
        inputs = _views(loaded, self._host_in, starts, rows)
        starts, output_bytes = _offsets(loaded, OUTPUT_NAMES, rows)
        for name, start in starts.items():
            accepted = accepted and context.set_tensor_address(name, self._device_out + start)
            accepted = accepted and tuple(context.get_tensor_shape(name)) == (rows, *loaded.rows[name][0])
        if not accepted:
            raise BackendError(f"TensorRT does not take a batch of {rows}: {loaded.errors()}")
        outputs = _views(loaded, self._host_out, starts, rows)
        return Shape(context, inputs, outputs, input_bytes, output_bytes, [])


def _offsets(loaded: Loaded, names: Sequence[str], rows: int) -> tuple[dict[str, int], int]:
    """Where each tensor of a batch begins in its buffer, and where the last one ends."""
    starts, end = {}, 0
    for name in names:
        shape, dtype = loaded.rows[name]
        starts[name] = -(-end // _ALIGNMENT) * _ALIGNMENT
        end = starts[name] + rows * prod(shape) * dtype.itemsize
    return starts, end


def _views(loaded: Loaded, buffer: Bytes, starts: Mapping[str, int], rows: int) -> list[Array]:
    views = []
    for name, start in starts.items():
        shape, dtype = loaded.rows[name]
        size = rows * prod(shape) * dtype.itemsize
        views.append(buffer[start : start + size].view(dtype).reshape(rows, *shape))
    return views
