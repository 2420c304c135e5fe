"""TensorRT plans on NVIDIA GPUs: loads, never builds."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract import Contract, Range
from ..document import Section
from ..errors import ArtifactError, BackendError
from .base import INPUT_NAMES, OUTPUT_NAMES, Floats, RawPeople
from .checks import check_inputs, check_outputs, check_target
from .cuda import open_cuda
from .tensorrt_lane import Lane, Loaded, Profile, Shape
from .tensorrt_plan import check_gpu, create, engine_section, import_runtime, make_logger, read_plan
from .tensorrt_slots import Slots

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
