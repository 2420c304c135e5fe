"""The TensorRT backend: runs plans on NVIDIA GPUs. It never builds them; export/tensorrt.py does.

plan       a TensorRT file, loaded once per backend (`LoadedPlan`)
profile    range of shapes that a plan accepts and is tuned for (`PlanProfile`)
slot       what one call at a time uses: a stream, its buffers, and for each batch size an execution context with its
           CUDA graph (`ExecutionSlot`); the pool hands slots to threads (`SlotPool`)
pending    a batch that is submitted and not collected yet; it occupies a slot (`PendingResult`)
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from ..contract import INPUT_NAMES, Contract, Range, Section
from ..errors import ArtifactError, BackendError
from .base import Floats, Images, RawPeople, check_inputs, check_outputs, check_target
from .cuda import Bytes, Cuda, Release, open_cuda
from .tensorrt_plan import check_gpu, create, import_runtime, make_logger, plan_section, read_plan

_ALIGNMENT = 256  # bytes, of every address that TensorRT receives
_NUMPY = {"UINT8": "uint8", "FLOAT": "float32", "INT32": "int32"}  # name of a TensorRT type -> numpy dtype

Array = npt.NDArray[Any]
T = TypeVar("T")


class PlanProfile(NamedTuple):
    """An optimization profile of the plan that accepts the image size of this backend."""

    number: int
    batch: Range  # min, opt (what it is tuned for) and max


class TensorSpec(NamedTuple):
    """An input or output of the plan."""

    shape: tuple[int, ...]  # without the batch
    dtype: np.dtype[Any]

    def nbytes(self, batch: int) -> int:
        return batch * prod(self.shape) * self.dtype.itemsize


class LoadedPlan(NamedTuple):
    """A plan in device memory, which all slots share."""

    trt: Any
    runtime: Any  # must outlive the engine
    engine: Any  # TensorRT's ICudaEngine
    profiles: Sequence[PlanProfile]
    tensors: Mapping[str, TensorSpec]  # INPUT_NAMES, then the outputs in the order of RawPeople
    messages: Callable[[], str]  # TensorRT's last errors

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self.tensors)[len(INPUT_NAMES) :]

    @property
    def max_batch(self) -> int:
        return max(profile.batch.max for profile in self.profiles)

    def profile_for(self, batch: int) -> int:
        """Number of the profile tuned for the nearest batch size. At least one must accept the batch."""
        fitting = [profile for profile in self.profiles if batch in profile.batch]
        return min(fitting, key=lambda profile: abs(profile.batch.opt - batch)).number

    def offsets(self, names: Sequence[str], batch: int) -> tuple[dict[str, int], int]:
        """Where each tensor of a batch starts in its buffer, and where the last one ends."""
        starts, end = {}, 0
        for name in names:
            starts[name] = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = starts[name] + self.tensors[name].nbytes(batch)
        return starts, end

    def views(self, buffer: Bytes, starts: Mapping[str, int], batch: int) -> list[Array]:
        """The tensors of a batch in a buffer on the host."""
        views = []
        for name, start in starts.items():
            shape, dtype = self.tensors[name]
            content = buffer[start : start + self.tensors[name].nbytes(batch)]
            views.append(content.view(dtype).reshape(batch, *shape))
        return views


def load_plan(
    path: Path, plan: bytes, contract: Contract, shape_hw: tuple[int, int], trt: Any, built: Section
) -> LoadedPlan:
    """Deserialize a plan that read_plan() accepted; the context of the GPU must be current.

    Raises ArtifactError (cannot be loaded, or does not match its contract), BackendError, ValueError (shape_hw).
    """
    log = make_logger(trt)
    # engine_host_code_allowed stays off: a plan must not bring code that runs here.
    runtime = create(trt.Runtime, log, log)
    if (core := built.optional("dla", built.integer)) is not None:
        runtime.DLA_core = core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(f"TensorRT {trt.__version__} cannot load {path}: {log.messages()}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: _dtype(engine.get_tensor_dtype(name)) for name in names}
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    check_inputs(path, {name: dtypes[name] for name in inputs})
    shapes = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
    check_outputs(path, contract, {name: (shapes[name], dtypes[name]) for name in names if name not in inputs})
    shapes |= {INPUT_NAMES[0]: (*shape_hw, 3), INPUT_NAMES[1]: (1,), INPUT_NAMES[2]: (1,)}
    order = (*INPUT_NAMES, *contract.pose.outputs)
    tensors = {name: TensorSpec(shapes[name], np.dtype(dtypes[name])) for name in order}
    return LoadedPlan(trt, runtime, engine, _fitting_profiles(path, engine, shape_hw), tensors, log.messages)


def _dtype(dtype: Any) -> str:
    name: str = dtype.name
    return _NUMPY.get(name, name)


def _fitting_profiles(path: Path, engine: Any, shape_hw: tuple[int, int]) -> list[PlanProfile]:
    """The profiles that accept this image size. Raises ValueError if there is none."""
    sizes, fitting = [], []
    for index in range(engine.num_optimization_profiles):
        low, opt, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(INPUT_NAMES[0], index))
        sizes.append(f"{low[1]}x{low[2]} to {high[1]}x{high[2]}")
        if all(least <= size <= most for least, size, most in zip(low[1:3], shape_hw, high[1:3], strict=True)):
            fitting.append(PlanProfile(index, Range(low[0], opt[0], high[0])))
    if not fitting:
        raise ValueError(
            f"imgsz: no profile of {path} takes {shape_hw[0]}x{shape_hw[1]}; they take {', '.join(sizes)} "
            "(height x width); build it again with --profile"
        )
    return fitting


def _batch_range(path: Path, profiles: Sequence[PlanProfile]) -> Range:
    """All batch sizes from the smallest to the largest. Raises ValueError if the profiles leave out one of them."""
    ordered = sorted((profile.batch for profile in profiles), key=lambda batch: batch.min)
    end = ordered[0].max
    for batch in ordered:
        if batch.min > end + 1:
            raise ValueError(
                f"the profiles of {path} take no batch of {end + 1} at this size; build it again with --profile"
            )
        end = max(end, batch.max)
    return Range(ordered[0].min, ordered[0].min, end)


@dataclass
class BatchState:
    """What a slot keeps for one batch size."""

    context: Any  # TensorRT's IExecutionContext
    inputs: list[Array]  # views of the pinned buffers
    outputs: list[Array]
    input_bytes: int
    output_bytes: int
    graph: Any = None  # the CUDA graph, from the second run on


class ExecutionSlot:
    """A stream with its buffers and contexts, used by one call at a time.

    All memory is allocated at the beginning; only contexts and graphs are added for each new batch size. A graph holds
    the addresses of its context, so each batch size has its own context, as TensorRT requires. The contexts share the
    scratch memory, because they run one after the other on the same stream.
    """

    def __init__(self, plan: LoadedPlan, cuda: Cuda, graphs: bool) -> None:
        self._plan: LoadedPlan | None = plan
        self._cuda = cuda
        self._graphs = graphs and cuda.has_graphs
        self._states: dict[int, BatchState] = {}
        self._resources = ExitStack()
        inputs, outputs = (plan.offsets(names, plan.max_batch)[1] for names in (INPUT_NAMES, plan.output_names))
        try:
            with cuda.current():
                self._stream = self._own(cuda.stream())
                self._device_in, self._device_out = self._own(cuda.allocate(inputs)), self._own(cuda.allocate(outputs))
                self._host_in, self._host_out = self._own(cuda.pinned(inputs)), self._own(cuda.pinned(outputs))
                self._scratch_size = int(plan.engine.device_memory_size_v2)
                self._scratch = self._own(cuda.allocate(max(self._scratch_size, 1)))
        except BaseException:
            self._resources.close()
            raise

    def submit(self, inputs: Sequence[Array]) -> BatchState:
        """Copy the inputs and put all work on the stream. Raises BackendError."""
        with self._cuda.current():
            batch = len(inputs[0])
            state = self._states.get(batch)
            if state is None:
                state = self._states[batch] = self._new_state(batch)
            for target, source in zip(state.inputs, inputs, strict=True):
                np.copyto(target, source, casting="no")
            self._start(state)
            return state

    def collect(self, state: BatchState) -> RawPeople:
        """Wait for the results and copy them. After the first run of a batch size, capture its graph. BackendError."""
        with self._cuda.current():
            self._cuda.wait(self._stream)
            found = RawPeople(*(array.copy() for array in state.outputs))
            if self._graphs and state.graph is None:
                # Only now: TensorRT must have run once before it is captured.
                state.graph = self._capture(state)
            return found

    def repeat(self, state: BatchState) -> None:
        """For measurements: run the last submitted batch again, from pinned memory to pinned memory."""
        with self._cuda.current():
            self._start(state)
            self._cuda.wait(self._stream)

    def close(self) -> None:
        """Wait for running work, then release everything, newest first."""
        with suppress(BackendError), self._cuda.current():
            with suppress(BackendError):  # after a failed kernel there is nothing to wait for
                self._cuda.wait(self._stream)
            self._states.clear()  # contexts must go before the engine, and before the memory whose addresses they hold
            self._plan = None
        self._resources.close()

    def _own(self, resource: tuple[T, Release]) -> T:
        """The resource, which close() releases."""
        self._resources.callback(resource[1])
        return resource[0]

    def _new_state(self, batch: int) -> BatchState:
        plan = self._plan
        assert plan is not None
        context = plan.engine.create_execution_context(plan.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError(f"TensorRT created no execution context, perhaps for lack of memory: {plan.messages()}")
        context.set_device_memory(self._scratch, self._scratch_size)
        accepted = context.set_optimization_profile_async(plan.profile_for(batch), self._stream)
        starts, input_bytes = plan.offsets(INPUT_NAMES, batch)
        for name, start in starts.items():
            accepted = accepted and context.set_input_shape(name, (batch, *plan.tensors[name].shape))
            accepted = accepted and context.set_tensor_address(name, self._device_in + start)
        inputs = plan.views(self._host_in, starts, batch)
        starts, output_bytes = plan.offsets(plan.output_names, batch)
        for name, start in starts.items():
            accepted = accepted and context.set_tensor_address(name, self._device_out + start)
            accepted = accepted and tuple(context.get_tensor_shape(name)) == (batch, *plan.tensors[name].shape)
        if not accepted:
            raise BackendError(f"TensorRT does not accept a batch of {batch}: {plan.messages()}")
        outputs = plan.views(self._host_out, starts, batch)
        return BatchState(context, inputs, outputs, input_bytes, output_bytes)

    def _start(self, state: BatchState) -> None:
        if state.graph is not None:
            self._cuda.launch(state.graph, self._stream)
        else:
            self._enqueue(state)

    def _enqueue(self, state: BatchState) -> None:
        cuda, stream = self._cuda, self._stream
        cuda.copy_to_device(self._device_in, self._host_in[: state.input_bytes], stream)
        if not state.context.execute_async_v3(stream):
            assert self._plan is not None
            raise BackendError(f"TensorRT could not run the plan: {self._plan.messages()}")
        cuda.copy_to_host(self._host_out[: state.output_bytes], self._device_out, stream)

    def _capture(self, state: BatchState) -> Any:
        try:
            return self._own(self._cuda.capture(self._stream, lambda: self._enqueue(state)))
        except BackendError as error:
            raise BackendError(f"{error}: no CUDA graph; the backend tensorrt:eager runs without") from error


class SlotPool:
    """At most `limit` slots, created when they are needed, and which thread holds which."""

    def __init__(self, plan: LoadedPlan, cuda: Cuda, limit: int, graphs: bool) -> None:
        self._plan: LoadedPlan | None = plan
        self._cuda, self._limit, self._graphs = cuda, limit, graphs
        # Reentrant: a PendingResult may be garbage-collected, which calls discard(), inside one of these methods.
        self._changed = threading.Condition(threading.RLock())
        self._holders: dict[ExecutionSlot, int] = {}  # slot -> thread
        self._waiting: set[int] = set()  # threads
        self._free = [ExecutionSlot(plan, cuda, graphs)]  # so that lack of memory for a single one is an error now

    def acquire(self) -> ExecutionSlot:
        """A free slot; waits for one. Raises BackendError; ValueError if no thread is left to release one."""
        me = threading.get_ident()
        with self._changed:
            while True:
                slot = self._find()
                if slot is not None:
                    self._holders[slot] = me
                    return slot
                if set(self._holders.values()) <= self._waiting | {me}:
                    raise ValueError(
                        f"all {len(self._holders)} slots hold results that are not collected: call collect() first"
                    )
                self._waiting.add(me)
                try:
                    self._changed.wait()
                finally:
                    self._waiting.discard(me)

    def _find(self) -> ExecutionSlot | None:
        if self._plan is None:
            raise ValueError("the TensorRT plan is closed; open the artifact again")
        if self._free:
            return self._free.pop()
        if len(self._holders) >= self._limit:
            return None
        try:
            return ExecutionSlot(self._plan, self._cuda, self._graphs)
        except BackendError:
            self._changed.notify_all()  # waiting threads must notice it as well
            others = set(self._holders.values()) - {threading.get_ident()}
            if not others:
                raise
            self._limit = len(self._holders)  # no memory for another slot: go on with the existing ones
            return None

    def hold(self, slot: ExecutionSlot) -> None:
        """From now on this thread holds the slot; another one may have acquired it."""
        with self._changed:
            self._holders[slot] = threading.get_ident()

    def release(self, slot: ExecutionSlot) -> None:
        """Make the slot available again; after close() it is closed instead."""
        with self._changed:
            del self._holders[slot]
            if self._plan is None:
                slot.close()
            else:
                self._free.append(slot)
            self._changed.notify_all()

    def discard(self, slot: ExecutionSlot) -> None:
        """Close a slot and never use it again: after an error the state of its stream and contexts is undefined."""
        with self._changed:
            self._holders.pop(slot, None)
            self._changed.notify_all()
        slot.close()

    @contextmanager
    def discard_on_error(self, slot: ExecutionSlot) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.discard(slot)
            raise

    def close(self) -> None:
        """Close the free slots. A slot that is in use is closed when its result is collected."""
        with self._changed:
            while self._free:
                self._free.pop().close()
            with suppress(BackendError), self._cuda.current():  # the engine releases its device memory
                self._plan = None
            self._changed.notify_all()


class PendingResult:
    """A submitted batch. Collect it once; if it is dropped instead, its slot is discarded."""

    def __init__(self, slot: ExecutionSlot, state: BatchState, dropped: Callable[[ExecutionSlot], None]) -> None:
        self.slot, self.state = slot, state
        self._finalizer = weakref.finalize(self, dropped, slot)

    def take(self) -> tuple[ExecutionSlot, BatchState]:
        """Raises ValueError when called again."""
        if self._finalizer.detach() is None:
            raise ValueError("this result was already collected")
        taken = self.slot, self.state
        del self.slot, self.state  # so that a result that is kept holds no GPU resources
        return taken


class TensorRtBackend:
    """One plan on one GPU. Thread-safe: as many calls run at once as there are slots, other calls wait.

    device: "cuda" or "cuda:N"
    cuda: "cuda-python" or "pycuda", by default as the environment variable YOLOPOSE_CUDA says
    slots: calls that may run at once; each has its own stream and buffers
    graphs: from the second run of a batch size on, launch it as one CUDA graph (not with PyCUDA)

    ``batch``: batch sizes that the plan accepts at this image size

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
            raise ValueError(f"threads is for CPUs: leave it out for TensorRT, got {threads}")
        if slots < 1:
            raise ValueError(f"slots must be 1 or more, got {slots}")
        check_target(path, contract, "TensorRT", "tensorrt")
        built = plan_section(path, contract)
        content = read_plan(path, built)
        trt = import_runtime(path, built)
        self._cuda = open_cuda(index, cuda)
        check_gpu(path, built, self._cuda.gpu)
        self.version: str = trt.__version__
        self.device = f"cuda:{index}"
        with self._cuda.current():
            plan = load_plan(path, content, contract, shape_hw, trt, built)
        self._frame = (*shape_hw, 3)
        self.batch = _batch_range(path, plan.profiles)
        self._slots = SlotPool(plan, self._cuda, slots, graphs)
        self._finalizer = weakref.finalize(self, self._slots.close)  # for applications that forget to close it

    def infer(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        return self.collect(self.submit(images, score_threshold, iou_threshold))

    def submit(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> PendingResult:
        """Start a batch and return at once. The arrays may then be changed; the result must be collected once.

        Waits for a free slot. Raises BackendError; ValueError if no slot can become free, because each is held by
        this thread or by another one that waits as well.
        """
        if images.shape[1:] != self._frame or images.dtype != np.uint8 or len(images) not in self.batch:
            raise BackendError(
                f"TensorRT failed on images of {images.shape} {images.dtype}: "
                f"the plan was opened for {self.batch} of {self._frame} uint8"
            )
        slot = self._slots.acquire()
        with self._slots.discard_on_error(slot):
            return PendingResult(slot, slot.submit((images, score_threshold, iou_threshold)), self._slots.discard)

    def collect(self, pending: PendingResult) -> RawPeople:
        """Wait for a submitted batch, from any thread. Raises BackendError; ValueError if it was already collected."""
        slot, state = pending.take()
        self._slots.hold(slot)
        with self._slots.discard_on_error(slot):
            people = slot.collect(state)
        self._slots.release(slot)
        return people

    def bare(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> Callable[[], None]:
        """For measurements while no other thread works: repeats the run of the plan, including the copies to and from
        the GPU, without the copies on the host."""
        pending = self.submit(images, score_threshold, iou_threshold)
        slot, state = pending.slot, pending.state
        self.collect(pending)
        return partial(slot.repeat, state)

    def close(self) -> None:
        """Finish what is pending when it is collected, and release everything else."""
        self._slots.close()


def _parse_device(device: str) -> int:
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise ValueError(f"device must be cuda or cuda:N for TensorRT, got {device!r}")
    return int(match[1] or 0)
