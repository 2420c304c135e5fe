"""One lane of the TensorRT backend: a stream, its buffers, and for each batch size a context with its CUDA graph.

Which call has which lane of the TensorRT backend.

TensorRT plans on NVIDIA GPUs: loads, never builds.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..contract import Contract, Range, Section
from ..errors import ArtifactError, BackendError
from .base import INPUT_NAMES, OUTPUT_NAMES, Floats, RawPeople, check_inputs, check_outputs, check_target
from .cuda import Bytes, Cuda, open_cuda
from .tensorrt_plan import check_gpu, create, engine_section, import_runtime, make_logger, read_plan

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


_NUMPY = {"UINT8": "uint8", "FLOAT": "float32", "INT32": "int32"}


class Ticket:
    """A batch that was submitted, to be collected once. One that is dropped gives its slot back."""

    def __init__(self, lane: Lane, shape: Shape, dropped: Callable[[Lane], None]) -> None:
        self.lane, self.shape = lane, shape
        self._finalizer = weakref.finalize(self, dropped, lane)

    def take(self) -> tuple[Lane, Shape]:
        """Raises ValueError at the second time."""
        if self._finalizer.detach() is None:
            raise ValueError("this ticket was collected already")
        found = self.lane, self.shape
        del self.lane, self.shape  # so that a ticket that is kept holds nothing of the GPU
        return found


class TensorRtBackend:
    """One plan on one GPU. Thread-safe: as many calls run at once as there are slots, others wait.

    device: "cuda" or "cuda:N"
    cuda: "cuda-python" or "pycuda", by default as the environment variable YOLOPOSE_CUDA says
    slots: calls that may be under way at once; each has a stream and buffers of its own
    graphs: repeat each batch size as one CUDA graph after its first run (PyCUDA cannot)

    ``batch``: how many images it takes at once at this size.

    Raises ValueError, ArtifactError (EngineMismatch, ContractInvalid), BackendError (BackendUnavailable).
    """

    def __init__(
        self,
        path: str | Path,
        contract: Contract,
        shape_hw: tuple[int, int],
        device: str | None = None,
        threads: int | None = None,
        cuda: str | None = None,
        slots: int = 2,
        graphs: bool = True,
    ) -> None:
        path = Path(path)
        self.name = "tensorrt" if graphs else "tensorrt:eager"
        index = _parse_device(device or "cuda")
        if threads is not None:
            raise ValueError(f"threads are for CPUs: leave them out for TensorRT, got {threads}")
        if slots < 1:
            raise ValueError(f"slots must be 1 or more, got {slots}")
        check_target(path, contract, "TensorRT", "tensorrt")
        built = engine_section(path, contract)
        plan = read_plan(path, built)
        trt = import_runtime(path, built)
        self._cuda = open_cuda(index, cuda)
        check_gpu(path, built, self._cuda.gpu)
        self.version: str = trt.__version__
        self.device = f"cuda:{index}"
        with self._cuda.current():
            loaded = _load(path, plan, contract, shape_hw, trt, built)
        self._frame = (*shape_hw, 3)
        self.batch = _batches(path, loaded.profiles)
        self._slots = Slots(loaded, self._cuda, slots, graphs)
        self._finalizer = weakref.finalize(self, self._slots.close)  # for applications that forget to close it

    def infer(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        return self.collect(self.submit(images, score_threshold, iou_threshold))

    def submit(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> Ticket:
        """Begin a batch and return at once; the arrays may be changed again. Each ticket is to be collected, once.

        Waits for a free slot. Raises BackendError; ValueError where nobody is about to free one: each is held by this
        thread, or by one that waits as well.
        """
        if images.shape[1:] != self._frame or images.dtype != np.uint8 or len(images) not in self.batch:
            raise BackendError(
                f"TensorRT failed on images of {images.shape} {images.dtype}: "
                f"the plan was opened for {self.batch} of {self._frame} uint8"
            )
        lane = self._slots.take()
        with self._slots.given_back_on_error(lane):
            return Ticket(lane, lane.submit((images, score_threshold, iou_threshold)), self._slots.give_up)

    def collect(self, ticket: Ticket) -> RawPeople:
        """Wait for a submitted batch. Raises BackendError, ValueError for a ticket that was collected already."""
        lane, shape = ticket.take()
        self._slots.hold(lane)
        with self._slots.given_back_on_error(lane):
            people = lane.collect(shape)
        self._slots.give_back(lane)
        return people

    def bare(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> Callable[[], None]:
        """For measurements, while no other thread works: what the plan alone costs, copies to and from the GPU included
        and ours on the host left out."""
        ticket = self.submit(images, score_threshold, iou_threshold)
        lane, shape = ticket.lane, ticket.shape
        self.collect(ticket)
        return partial(lane.repeat, shape)

    def close(self) -> None:
        self._slots.close()


def _load(path: Path, plan: bytes, contract: Contract, shape_hw: tuple[int, int], trt: Any, built: Section) -> Loaded:
    log = make_logger(trt)
    # engine_host_code_allowed stays off: a plan must not bring code that runs here.
    runtime = create(trt.Runtime, log, log)
    if (core := built.optional("dla", built.integer)) is not None:
        runtime.DLA_core = core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(f"TensorRT {trt.__version__} cannot load {path}: {log.told()}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: _dtype(engine.get_tensor_dtype(name)) for name in names}
    given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    check_inputs(path, {name: dtypes[name] for name in given})
    shapes = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
    check_outputs(path, contract, {name: (shapes[name], dtypes[name]) for name in names if name not in given})
    shapes |= {INPUT_NAMES[0]: (*shape_hw, 3), INPUT_NAMES[1]: (1,), INPUT_NAMES[2]: (1,)}
    rows = {name: (shapes[name], np.dtype(dtypes[name])) for name in (*INPUT_NAMES, *OUTPUT_NAMES)}
    return Loaded(trt, runtime, engine, _profiles(path, engine, shape_hw), rows, log.told)


def _profiles(path: Path, engine: Any, shape_hw: tuple[int, int]) -> list[Profile]:
    """Those of the plan's profiles that take this size."""
    told, found = [], []
    for index in range(engine.num_optimization_profiles):
        least, best, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(INPUT_NAMES[0], index))
        told.append(f"{least[1]}x{least[2]} to {most[1]}x{most[2]}")
        if all(low <= size <= high for low, size, high in zip(least[1:3], shape_hw, most[1:3], strict=True)):
            found.append(Profile(index, least[0], best[0], most[0]))
    if not found:
        raise ValueError(
            f"imgsz: no profile of {path} takes {shape_hw[0]}x{shape_hw[1]}; they take {', '.join(told)} "
            "(height x width); build it again with --profile"
        )
    return found


def _batches(path: Path, profiles: Sequence[Profile]) -> Range:
    """All batches from the least to the largest: those of several profiles must leave none out."""
    ordered = sorted(profiles, key=lambda profile: profile.least)
    end = ordered[0].most
    for profile in ordered:
        if profile.least > end + 1:
            raise ValueError(
                f"the profiles of {path} take no batch of {end + 1} at this size; build it again with --profile"
            )
        end = max(end, profile.most)
    return Range(ordered[0].least, ordered[0].least, end)


def _dtype(dtype: Any) -> str:
    return _NUMPY.get(dtype.name, dtype.name)


def _parse_device(device: str) -> int:
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise ValueError(f"device must be cuda or cuda:N for TensorRT, got {device!r}")
    return int(match[1] or 0)
