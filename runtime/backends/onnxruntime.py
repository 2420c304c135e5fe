"""ONNX Runtime: the only place that opens its sessions, its CPU backend, and its backend for NVIDIA GPUs.

docs/tensorrt.md says which versions of CUDA, cuDNN and TensorRT a version of ONNX Runtime needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, get_ident
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..contract import INPUT_NAMES, Contract
from ..errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch
from .base import Backend, Floats, Images, RawPeople, check_inputs, check_outputs, check_target

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, RunOptions, SessionIOBinding, SessionOptions

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
NO_TF32 = "NVIDIA_TF32_OVERRIDE"  # environment variable of CUDA's libraries: 0 computes float32 as float32
ERRORS_ONLY = 3  # log severity: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal
_EAGER_GRAPH = "-1"  # gpu_graph_id of a run without a CUDA graph

Provider = tuple[str, dict[str, str]]  # name and options


def import_onnxruntime() -> ModuleType:
    """The module. Raises BackendUnavailable if it is missing or its installation is broken."""
    try:
        import onnxruntime
    except ImportError as error:
        reason = str(error) or "it was built for another numpy"
        raise BackendUnavailable(
            f'ONNX Runtime cannot be imported ({reason}): pip install "yolopose[cpu]", or "yolopose[gpu]" for CUDA'
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # what is left after one of two overlapping wheels is removed
        raise BackendUnavailable(
            "the installation of ONNX Runtime is broken: uninstall onnxruntime and onnxruntime-gpu, "
            'then pip install "yolopose[cpu]" or "yolopose[gpu]"'
        )
    module: ModuleType = onnxruntime
    return module


def session_options(
    shape_hw: tuple[int, int] | None = None, threads: int | None = None, log_severity: int = ERRORS_ONLY
) -> SessionOptions:
    """Options for open_session().

    shape_hw: fixes the free dimensions "height" and "width", so that memory is planned for one shape
    threads: for one operator; None for ONNX Runtime's default
    """
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = log_severity
    if shape_hw is not None:
        options.add_free_dimension_override_by_name("height", shape_hw[0])
        options.add_free_dimension_override_by_name("width", shape_hw[1])
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    model: str | Path | bytes,
    options: SessionOptions | None = None,
    providers: Sequence[Provider] = ((CPU, {}),),
) -> InferenceSession:
    """A session of ONNX Runtime, by default on the CPU.

    model: path of an .onnx file, or its content
    options: by default session_options()
    Raises what ONNX Runtime raises; its exceptions have no base class. A provider that does not start is no error.
    """
    runtime = import_onnxruntime()
    if providers[0][0] != CPU and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # finds CUDA and cuDNN that pip installed
    # Without ONNX Runtime's own fallback, which prints to stdout that it uses the CPU.
    return runtime.InferenceSession(
        model if isinstance(model, bytes) else str(model),
        session_options() if options is None else options,
        providers=list(providers),
        enable_fallback=0,
    )


def open_artifact(
    path: Path, contract: Contract, options: SessionOptions, providers: Sequence[Provider], device: str
) -> InferenceSession:
    """A session whose first provider is active, of a file that matches its contract.

    Raises BackendUnavailable (the provider is missing or did not start), BackendError (no CUDA graph),
    ArtifactError (the file cannot be loaded, or does not match).
    """
    wanted = providers[0][0]
    runtime = import_onnxruntime()
    available = runtime.get_available_providers()
    if wanted not in available:
        raise BackendUnavailable(
            f"device {device} ({wanted}) was requested, but ONNX Runtime {runtime.__version__} here has only "
            f"{', '.join(available)}. If there is no NVIDIA GPU, use device cpu. If there is one, the build for CPUs "
            'is installed: pip uninstall onnxruntime, then pip install "yolopose[gpu]"'
        )
    try:
        session = open_session(path, options, providers)
    except Exception as error:  # its exceptions have no base class
        if wanted != CPU and "graph capture" in str(error).lower():  # the message names the provider as well
            raise BackendError(f"{error}; onnxruntime:eager runs without CUDA graphs") from error
        if wanted != CPU and any(name in str(error) for name, _ in providers):
            raise BackendUnavailable(f"{wanted} did not start on {device}: {error}") from error
        raise ArtifactError(f"ONNX Runtime {runtime.__version__} cannot load {path}: {error}") from error
    active = session.get_providers()
    if wanted not in active:  # ONNX Runtime falls back to the CPU without an error
        raise BackendUnavailable(
            f"device {device} ({wanted}) was requested, but {', '.join(active)} is active. If there is no NVIDIA GPU "
            "with a working driver (nvidia-smi lists it), use device cpu. If there is one, install the CUDA, cuDNN or "
            f"TensorRT that ONNX Runtime {runtime.__version__} needs"
        )
    check_inputs(path, {node.name: _dtype(node) for node in session.get_inputs()})
    check_outputs(path, contract, {node.name: (node.shape[1:], _dtype(node)) for node in session.get_outputs()})
    return session


def _dtype(node: Any) -> str:
    """Numpy's name of the type, which ONNX Runtime writes as tensor(float)."""
    inner: str = node.type[len("tensor(") : -1]
    return {"float": "float32"}.get(inner, inner)


def open_onnxruntime(
    path: str | Path,
    contract: Contract,
    shape_hw: tuple[int, int],
    device: str | None = None,
    threads: int | None = None,
    mode: str = "",
) -> Backend:
    """The backend for the device: the CPU, or a GPU.

    mode: "" for the default of the device, or a mode of OnnxRuntimeGpuBackend
    Raises ValueError for a device or mode that does not exist, and what the backends raise.
    """
    kind, index = _parse_device(device or ("cuda" if mode else "cpu"))
    if kind == "cuda":
        return OnnxRuntimeGpuBackend(path, contract, shape_hw, index, threads, mode or "graph")
    if mode:
        raise ValueError(f"onnxruntime:{mode} runs on cuda, not on {device}")
    return OnnxRuntimeBackend(path, contract, shape_hw, threads)


def _parse_device(device: str) -> tuple[str, int]:
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise ValueError(f"device must be cpu, cuda or cuda:N for ONNX Runtime, got {device!r}")
    return device.split(":")[0], int(match[1] or 0)


class OnnxRuntimeBackend:
    """One session on the CPU with height and width fixed, so that memory is planned for one shape. Thread-safe.

    Raises EngineMismatch, BackendUnavailable, ArtifactError.
    """

    name = "onnxruntime"
    device = "cpu"

    def __init__(
        self, path: str | Path, contract: Contract, shape_hw: tuple[int, int], threads: int | None = None
    ) -> None:
        check_target(path, contract, "ONNX Runtime", "cpu")
        self._outputs = contract.pose.outputs
        self.version: str = import_onnxruntime().__version__
        options = session_options(shape_hw, threads)
        self.session: InferenceSession | None = open_artifact(Path(path), contract, options, [(CPU, {})], "cpu")

    def infer(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        session = self.session
        if session is None:
            raise ValueError("the ONNX Runtime session is closed; open the artifact again")
        feed = dict(zip(INPUT_NAMES, (images, score_threshold, iou_threshold), strict=True))
        try:
            return RawPeople(*session.run(self._outputs, feed))  # new arrays in every run
        except Exception as error:  # its exceptions have no base class
            raise BackendError(f"ONNX Runtime failed on images of {images.shape} {images.dtype}: {error}") from error

    def close(self) -> None:
        self.session = None


class DeviceBatch(NamedTuple):
    """Device buffers of one batch size, and how they are bound to the session."""

    inputs: list[OrtValue]
    outputs: list[OrtValue]
    binding: SessionIOBinding
    options: RunOptions  # with the CUDA graph of this batch size
    eager: RunOptions  # without a CUDA graph


class OnnxRuntimeGpuBackend:
    """One session on a GPU with height and width fixed. Thread-safe: one call runs at a time, as CUDA graphs require.

    mode: "graph" (CUDA provider; each batch size is repeated as one CUDA graph in the thread of the first call, other
    threads run without graphs), "eager" (CUDA provider, kernel by kernel) or "tensorrt" (TensorRT provider, which
    builds its plans in the first run (minutes) and caches them in ``<artifact>.trt-cache``)

    float32 is computed as float32: TF32, ONNX Runtime's default on GPUs since Ampere, moves keypoints.
    Raises EngineMismatch, BackendUnavailable, BackendError, ArtifactError.
    """

    def __init__(
        self,
        path: str | Path,
        contract: Contract,
        shape_hw: tuple[int, int],
        index: int = 0,
        threads: int | None = None,
        mode: str = "graph",
    ) -> None:
        path = Path(path)
        self.name = "onnxruntime" if mode == "graph" else f"onnxruntime:{mode}"
        self.device = f"cuda:{index}"
        # int8 made for the CPU runs here too, only slower: its accuracy can be measured on a GPU.
        check_target(path, contract, "ONNX Runtime", "tensorrt" if mode == "tensorrt" else "cpu")
        self._outputs = contract.pose.outputs
        cuda = (CUDA, {"device_id": str(index), "use_tf32": "0", "enable_cuda_graph": str(int(mode == "graph"))})
        providers = [cuda] if mode != "tensorrt" else [(TENSORRT, _tensorrt_options(path, contract, index)), cuda]
        self._runtime = import_onnxruntime()
        self.version: str = self._runtime.__version__
        options = session_options(shape_hw, threads)
        self.session: InferenceSession | None = open_artifact(path, contract, options, providers, self.device)
        self._graphs = mode == "graph"
        inputs = zip(INPUT_NAMES, (((*shape_hw, 3), "uint8"), ((1,), "float32"), ((1,), "float32")), strict=True)
        outputs = {node.name: (tuple(node.shape[1:]), _dtype(node)) for node in self.session.get_outputs()}
        self._tensors: dict[str, tuple[tuple[int, ...], str]] = dict(inputs) | outputs  # shape without batch, dtype
        self._batches: dict[int, DeviceBatch] = {}
        self._graph_thread: int | None = None  # the thread whose calls use graphs: that of the first call
        self._lock = Lock()

    def infer(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        session = self.session
        if session is None:
            raise ValueError("the ONNX Runtime session is closed; open the artifact again")
        frame = self._tensors[INPUT_NAMES[0]][0]
        if images.shape[1:] != frame or images.dtype != np.uint8:
            raise BackendError(
                f"ONNX Runtime failed on images of {images.shape} {images.dtype}: it was opened for {frame} uint8"
            )
        with self._lock, _backend_errors(f"on images of {images.shape}"):
            batch = self._batches.get(len(images))
            if batch is None:
                batch = self._batches[len(images)] = self._new_batch(session, len(images))
            for value, array in zip(batch.inputs, (images, score_threshold, iou_threshold), strict=True):
                value.update_inplace(array)
            # ONNX Runtime keeps a graph for the thread that captured it.
            self._graph_thread = self._graph_thread or get_ident()
            options = batch.options if self._graph_thread == get_ident() else batch.eager
            session.run_with_iobinding(batch.binding, options)
            return RawPeople(*(value.numpy() for value in batch.outputs))  # copies on the host

    def bare(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> Callable[[], None]:
        """For measurements while no other thread works: repeats the run with its copies to and from the GPU."""
        self.infer(images, score_threshold, iou_threshold)
        batch, session = self._batches[len(images)], self.session
        assert session is not None

        def run() -> None:
            for value, array in zip(batch.inputs, (images, score_threshold, iou_threshold), strict=True):
                value.update_inplace(array)
            session.run_with_iobinding(batch.binding, batch.options)
            for value in batch.outputs:
                value.numpy()

        return run

    def close(self) -> None:
        with self._lock:
            self._batches.clear()
            self.session = None

    def _new_batch(self, session: InferenceSession, rows: int) -> DeviceBatch:
        device, _, index = self.device.partition(":")

        def buffers(names: Sequence[str]) -> list[OrtValue]:
            make = self._runtime.OrtValue.ortvalue_from_shape_and_type
            return [
                make([rows, *shape], np.dtype(dtype).type, device, int(index))
                for shape, dtype in (self._tensors[name] for name in names)
            ]

        inputs, outputs = buffers(INPUT_NAMES), buffers(self._outputs)
        binding = session.io_binding()
        for name, value in zip(INPUT_NAMES, inputs, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(self._outputs, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        options, eager = self._runtime.RunOptions(), self._runtime.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(rows))  # one graph for each batch size
            eager.add_run_config_entry("gpu_graph_id", _EAGER_GRAPH)
        return DeviceBatch(inputs, outputs, binding, options, eager)


@contextmanager
def _backend_errors(what: str) -> Iterator[None]:
    """Raise whatever ONNX Runtime raises as BackendError, with a hint where the cause is known."""
    try:
        yield
    except Exception as error:  # its exceptions have no base class
        graph = "; onnxruntime:eager runs without CUDA graphs" if "graph" in str(error).lower() else ""
        memory = "; out of GPU memory: use a smaller batch or size" if "alloc" in str(error).lower() else ""
        raise BackendError(f"ONNX Runtime failed {what}: {error}{graph}{memory}") from error


def _tensorrt_options(path: Path, contract: Contract, index: int) -> dict[str, str]:
    """Options of the TensorRT provider.

    Raises EngineMismatch or BackendUnavailable where it would compute with less precision than the file declares.
    """
    precision = contract.precision
    if "float16" in (precision.weights, precision.activations):
        raise EngineMismatch(
            f"{path} is float16, and ONNX Runtime's TensorRT provider would compute its coordinates in float16 too: "
            "build a plan (yolopose-export --format engine), or run it with the backend onnxruntime"
        )
    if os.environ.get(NO_TF32) != "0":
        raise BackendUnavailable(
            f"ONNX Runtime's TensorRT provider computes float32 as TF32, which moves keypoints: set {NO_TF32}=0 in the "
            "environment before the program starts, or build a plan (yolopose-export --format engine)"
        )
    cache = str(path.with_name(path.name + ".trt-cache"))
    return {
        "device_id": str(index),
        "trt_int8_enable": str(precision.weights == "int8"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": cache,
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": cache,
    }
