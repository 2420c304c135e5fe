"""TensorRT plans on NVIDIA GPUs: loads, never builds."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract import Contract
from ..errors import ArtifactError, BackendError
from .base import INPUT_NAMES, OUTPUT_NAMES, Floats, RawPeople
from .checks import check_inputs, check_outputs, check_target
from .cuda import Cuda, open_cuda
from .tensorrt_lane import Lane, Loaded, Shape
from .tensorrt_plan import check_gpu, engine_section, import_runtime, make_logger, read_plan

_NUMPY = {"UINT8": "uint8", "FLOAT": "float32", "INT32": "int32"}


@dataclass
class Ticket:
    """A batch that was submitted; to be collected once."""

    lane: Lane
    shape: Shape
    waiting: bool = True


class TensorRtBackend:
    """One plan on one GPU. Thread-safe: as many calls run at once as there are slots, others wait.

    device: "cuda" or "cuda:N"
    cuda: "cuda-python" or "pycuda", by default as the environment variable YOLOPOSE_CUDA says
    slots: calls that may be under way at once; each has a stream and buffers of its own
    graphs: repeat each batch size as one CUDA graph after its first run (PyCUDA cannot)

    Raises ValueError, ArtifactError (EngineMismatch, ContractInvalid), BackendError (BackendUnavailable).
    """

    name = "tensorrt"

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
            loaded = _load(path, plan, contract, shape_hw, trt)
        self._frame, self._max_batch = (*shape_hw, 3), loaded.max_batch
        self._slots = _Slots(loaded, self._cuda, slots, graphs)
        self._finalizer = weakref.finalize(self, self._slots.close)  # for applications that forget to close it

    def infer(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        return self.collect(self.submit(images, score_threshold, iou_threshold))

    def submit(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> Ticket:
        """Begin a batch and return at once; the arrays may be changed again. Each ticket must be collected, once.

        Waits for a free slot. Raises ValueError where this thread holds all of them itself, BackendError.
        """
        most = self._max_batch
        if images.shape[1:] != self._frame or images.dtype != np.uint8 or not 1 <= len(images) <= most:
            raise BackendError(
                f"TensorRT failed on images of {images.shape} {images.dtype}: "
                f"the plan was opened for 1 to {most} of {self._frame} uint8"
            )
        lane = self._slots.take()
        with self._slots.given_back_on_error(lane):
            return Ticket(lane, lane.submit((images, score_threshold, iou_threshold)))

    def collect(self, ticket: Ticket) -> RawPeople:
        """Wait for a submitted batch. Raises BackendError, ValueError for a ticket that was collected already."""
        if not ticket.waiting:
            raise ValueError("this ticket was collected already")
        ticket.waiting = False
        with self._slots.given_back_on_error(ticket.lane):
            people = ticket.lane.collect(ticket.shape)
        self._slots.give_back(ticket.lane)
        return people

    def bare(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> Callable[[], None]:
        """For measurements, while no other thread works: what the plan alone costs, copies to and from the GPU included
        and ours on the host left out."""
        ticket = self.submit(images, score_threshold, iou_threshold)
        self.collect(ticket)
        return partial(ticket.lane.repeat, ticket.shape)

    def close(self) -> None:
        self._slots.close()


class _Slots:
    """Lanes, made when they are needed, at most so many."""

    def __init__(self, loaded: Loaded, cuda: Cuda, most: int, graphs: bool) -> None:
        self._loaded: Loaded | None = loaded
        self._cuda, self._most, self._graphs = cuda, most, graphs
        self._changed = threading.Condition()
        self._free: list[Lane] = []
        self._holders: dict[Lane, int] = {}  # which thread has it
        self._free.append(Lane(loaded, cuda, graphs))  # the memory of one is there, or it is said now

    def take(self) -> Lane:
        me = threading.get_ident()
        with self._changed:
            while True:
                if self._loaded is None:
                    raise ValueError("the TensorRT plan is closed; open the artifact again")
                if self._free:
                    lane = self._free.pop()
                elif len(self._holders) < self._most:
                    lane = Lane(self._loaded, self._cuda, self._graphs)
                elif all(holder == me for holder in self._holders.values()):
                    raise ValueError(f"all {self._most} slots wait to be collected by this thread: collect() first")
                else:
                    self._changed.wait()
                    continue
                self._holders[lane] = me
                return lane

    def give_back(self, lane: Lane) -> None:
        with self._changed:
            del self._holders[lane]
            closed = self._loaded is None
            if not closed:
                self._free.append(lane)
            self._changed.notify()
        if closed:
            lane.close()

    @contextmanager
    def given_back_on_error(self, lane: Lane) -> Iterator[None]:
        """A lane on which something failed is not used again: what its stream and context are in, nobody knows."""
        try:
            yield
        except BaseException:
            with self._changed:
                del self._holders[lane]
                self._changed.notify()
            lane.close()
            raise

    def close(self) -> None:
        """What is under way is finished and given back by those who collect it."""
        with self._changed:
            lanes, self._free = self._free, []
            for lane in lanes:
                lane.close()
            with suppress(BackendError), self._cuda.current():  # the engine gives its memory back
                self._loaded = None
            self._changed.notify_all()


def _load(path: Path, plan: bytes, contract: Contract, shape_hw: tuple[int, int], trt: Any) -> Loaded:
    log = make_logger(trt)
    runtime = trt.Runtime(log)  # engine_host_code_allowed stays off: a plan must not bring code that runs here
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ArtifactError(f"TensorRT {trt.__version__} cannot load {path}: {log.told()}")
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    dtypes = {name: _dtype(engine.get_tensor_dtype(name)) for name in names}
    given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    check_inputs(path, {name: dtypes[name] for name in INPUT_NAMES if name in given} | _others(given, dtypes))
    shapes = {name: tuple(engine.get_tensor_shape(name))[1:] for name in names}
    check_outputs(path, contract, {name: (shapes[name], dtypes[name]) for name in names if name not in given})
    profile, max_batch = _profile(path, engine, shape_hw)
    shapes |= {INPUT_NAMES[0]: (*shape_hw, 3), INPUT_NAMES[1]: (1,), INPUT_NAMES[2]: (1,)}
    rows = {name: (shapes[name], np.dtype(dtypes[name])) for name in (*INPUT_NAMES, *OUTPUT_NAMES)}
    return Loaded(trt, runtime, engine, profile, rows, max_batch, log.told)


def _others(given: list[str], dtypes: dict[str, str]) -> dict[str, str]:
    return {name: dtypes[name] for name in given if name not in INPUT_NAMES}


def _profile(path: Path, engine: Any, shape_hw: tuple[int, int]) -> tuple[int, int]:
    """Which of the plan's profiles takes that size with the largest batch, and that batch."""
    told, best = [], (-1, 0)
    for index in range(engine.num_optimization_profiles):
        least, _, most = (tuple(shape) for shape in engine.get_tensor_profile_shape(INPUT_NAMES[0], index))
        told.append(f"{least[1]}x{least[2]} to {most[1]}x{most[2]}")
        fits = all(low <= size <= high for low, size, high in zip(least[1:3], shape_hw, most[1:3], strict=True))
        if fits and most[0] > best[1]:
            best = (index, most[0])
    if best[0] < 0:
        raise ValueError(
            f"imgsz: no profile of {path} takes {shape_hw[0]}x{shape_hw[1]}; they take {', '.join(told)} "
            "(height x width); build it again with --profile"
        )
    return best


def _dtype(dtype: Any) -> str:
    return _NUMPY.get(dtype.name, dtype.name)


def _parse_device(device: str) -> int:
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise ValueError(f"device must be cuda or cuda:N for TensorRT, got {device!r}")
    return int(match[1] or 0)
