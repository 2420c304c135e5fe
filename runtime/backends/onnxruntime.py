"""ONNX Runtime on the CPU; ``onnxruntime_gpu.py`` is its other half.

ONNX Runtime on NVIDIA GPUs: its CUDA provider with buffers on the device and a CUDA graph, or its TensorRT provider.

docs/tensorrt.md says which versions of CUDA, cuDNN and TensorRT a version of ONNX Runtime wants.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, get_ident
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..contract import Contract
from ..errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch
from .base import INPUT_NAMES, OUTPUT_NAMES, Backend, Floats, RawPeople, check_inputs, check_outputs, check_target

_ERRORS_ONLY = 3  # ONNX Runtime's log severity


def open_onnxruntime(
    path: str | Path,
    contract: Contract,
    shape_hw: tuple[int, int],
    device: str | None = None,
    threads: int | None = None,
    mode: str = "",
) -> Backend:
    """On the device that is asked for: the CPU, or a GPU in one of the modes of OnnxRuntimeGpuBackend."""
    kind, index = _parse_device(device or ("cuda" if mode else "cpu"))
    if kind == "cuda":
        return OnnxRuntimeGpuBackend(path, contract, shape_hw, index, threads, mode or "graph")
    if mode:
        raise ValueError(f"onnxruntime:{mode} runs on cuda, not on {device}")
    return OnnxRuntimeBackend(path, contract, shape_hw, threads)


class OnnxRuntimeBackend:
    """One session with height and width pinned, so that ONNX Runtime plans its memory for one shape. Thread-safe."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(
        self, path: str | Path, contract: Contract, shape_hw: tuple[int, int], threads: int | None = None
    ) -> None:
        check_target(path, contract, "ONNX Runtime", "cpu")
        runtime = import_onnxruntime()
        self.version: str = runtime.__version__
        options = session_options(runtime, shape_hw, threads)
        self.session: Any = open_session(runtime, Path(path), contract, options, [("CPUExecutionProvider", {})], "cpu")

    def infer(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        session = self.session
        if session is None:
            raise ValueError("the ONNX Runtime session is closed; open the artifact again")
        feed = dict(zip(INPUT_NAMES, (images, score_threshold, iou_threshold), strict=True))
        try:
            return RawPeople(*session.run(OUTPUT_NAMES, feed))  # fresh arrays at every run
        except Exception as error:  # its exceptions have no base of their own
            raise BackendError(f"ONNX Runtime failed on images of {images.shape} {images.dtype}: {error}") from error

    def close(self) -> None:
        self.session = None


def import_onnxruntime() -> ModuleType:
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


def _parse_device(device: str) -> tuple[str, int]:
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise ValueError(f"device must be cpu, cuda or cuda:N for ONNX Runtime, got {device!r}")
    return device.split(":")[0], int(match[1] or 0)


def session_options(runtime: ModuleType, shape_hw: tuple[int, int], threads: int | None) -> Any:
    options = runtime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_free_dimension_override_by_name("height", shape_hw[0])
    options.add_free_dimension_override_by_name("width", shape_hw[1])
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    runtime: ModuleType,
    path: Path,
    contract: Contract,
    options: Any,
    providers: Sequence[tuple[str, dict[str, str]]],
    device: str,
) -> Any:
    """A session whose first provider is active, of a file that keeps its contract.

    Raises BackendUnavailable, ArtifactError.
    """
    wanted = providers[0][0]
    available = runtime.get_available_providers()
    if wanted not in available:
        raise BackendUnavailable(
            f"device {device} ({wanted}) was asked for, but ONNX Runtime {runtime.__version__} here has only "
            f"{', '.join(available)}. Either there is no NVIDIA GPU: use device cpu; or there is one and the build for "
            'CPUs is installed: pip uninstall onnxruntime, then pip install "yolopose[gpu]"'
        )
    if device != "cpu" and hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # finds CUDA and cuDNN that pip installed
    try:
        # Without its own fallback, which prints to stdout that it takes the CPU.
        session = runtime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # its exceptions have no base of their own
        if device != "cpu" and "graph capture" in str(error).lower():  # it names the provider as well
            raise BackendError(f"{error}; onnxruntime:eager runs without CUDA graphs") from error
        if device != "cpu" and any(name in str(error) for name, _ in providers):
            raise BackendUnavailable(f"{wanted} did not start on {device}: {error}") from error
        raise ArtifactError(f"ONNX Runtime {runtime.__version__} cannot load {path}: {error}") from error
    active = session.get_providers()
    if wanted not in active:  # ONNX Runtime falls back to the CPU without an error
        raise BackendUnavailable(
            f"device {device} ({wanted}) was asked for, but {', '.join(active)} is active. Either "
            "there is no NVIDIA GPU with a working driver (nvidia-smi lists it): use device cpu; or the CUDA, cuDNN or "
            f"TensorRT that ONNX Runtime {runtime.__version__} needs are not installed: install them"
        )
    check_inputs(path, {node.name: dtype_of(node) for node in session.get_inputs()})
    check_outputs(path, contract, {node.name: (node.shape[1:], dtype_of(node)) for node in session.get_outputs()})
    return session


def dtype_of(node: Any) -> str:
    """numpy's name of the type, which ONNX Runtime writes as tensor(float)."""
    inner: str = node.type[len("tensor(") : -1]
    return {"float": "float32"}.get(inner, inner)


CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
NO_TF32 = "NVIDIA_TF32_OVERRIDE"  # environment variable of CUDA's libraries: 0 computes float32 as float32


class Bound(NamedTuple):
    """Buffers of one batch size on the device, and how they are bound to the session."""

    inputs: list[Any]
    outputs: list[Any]
    binding: Any
    options: Any
    eager: Any  # options of a run without a graph


class OnnxRuntimeGpuBackend:
    """One session with height and width pinned. Thread-safe: one call runs at a time, as its CUDA graphs demand.

    mode: "graph" (CUDA, each batch size repeated as one graph, in the thread of the first call; others run eager),
    "eager" (CUDA, kernel by kernel) or "tensorrt" (engines that ONNX Runtime builds by itself, minutes at first, kept
    in ``<artifact>.trt-cache``)

    float32 is computed as such: TF32, ONNX Runtime's default on GPUs since Ampere, moves keypoints.
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
        # int8 made for the CPU runs here too, only slower: its accuracy can be judged on a GPU.
        check_target(path, contract, "ONNX Runtime", "tensorrt" if mode == "tensorrt" else "cpu")
        cuda = (CUDA, {"device_id": str(index), "use_tf32": "0", "enable_cuda_graph": str(int(mode == "graph"))})
        providers = [cuda] if mode != "tensorrt" else [(TENSORRT, _tensorrt_options(path, contract, index)), cuda]
        runtime = import_onnxruntime()
        self.version: str = runtime.__version__
        options = session_options(runtime, shape_hw, threads)
        self.session: Any = open_session(runtime, path, contract, options, providers, self.device)
        self._runtime, self._graphs = runtime, mode == "graph"
        inputs = zip(INPUT_NAMES, (((*shape_hw, 3), "uint8"), ((1,), "float32"), ((1,), "float32")), strict=True)
        outputs = {node.name: (tuple(node.shape[1:]), dtype_of(node)) for node in self.session.get_outputs()}
        self._rows: dict[str, tuple[tuple[int, ...], str]] = dict(inputs) | outputs  # shape behind the batch, and type
        self._bound: dict[int, Bound] = {}
        self._thread: int | None = None  # whose calls are graphs: the first that came
        self._lock = Lock()

    def infer(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        if self.session is None:
            raise ValueError("the ONNX Runtime session is closed; open the artifact again")
        if images.shape[1:] != self._rows[INPUT_NAMES[0]][0] or images.dtype != np.uint8:
            raise BackendError(
                f"ONNX Runtime failed on images of {images.shape} {images.dtype}: "
                f"it was opened for {self._rows[INPUT_NAMES[0]][0]} uint8"
            )
        with self._lock, _told(f"on images of {images.shape}"):
            bound = self._bound.get(len(images))
            if bound is None:
                bound = self._bound[len(images)] = self._bind(len(images))
            for value, array in zip(bound.inputs, (images, score_threshold, iou_threshold), strict=True):
                value.update_inplace(array)
            # ONNX Runtime keeps a graph for the thread that captured it: further threads run without.
            self._thread = self._thread or get_ident()
            options = bound.options if self._thread == get_ident() else bound.eager
            self.session.run_with_iobinding(bound.binding, options)
            return RawPeople(*(value.numpy() for value in bound.outputs))  # copies on the host

    def bare(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> Callable[[], None]:
        """For measurements, while no other thread works: the run with its copies to and from the GPU."""
        self.infer(images, score_threshold, iou_threshold)
        bound, session = self._bound[len(images)], self.session

        def run() -> None:
            for value, array in zip(bound.inputs, (images, score_threshold, iou_threshold), strict=True):
                value.update_inplace(array)
            session.run_with_iobinding(bound.binding, bound.options)
            for value in bound.outputs:
                value.numpy()

        return run

    def close(self) -> None:
        with self._lock:
            self._bound.clear()
            self.session = None

    def _bind(self, rows: int) -> Bound:
        device, _, index = self.device.partition(":")

        def buffers(names: tuple[str, ...]) -> list[Any]:
            make = self._runtime.OrtValue.ortvalue_from_shape_and_type
            return [
                make([rows, *shape], np.dtype(dtype).type, device, int(index))
                for shape, dtype in (self._rows[name] for name in names)
            ]

        inputs, outputs = buffers(INPUT_NAMES), buffers(OUTPUT_NAMES)
        binding = self.session.io_binding()
        for name, value in zip(INPUT_NAMES, inputs, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(OUTPUT_NAMES, outputs, strict=True):
            binding.bind_ortvalue_output(name, value)
        options, eager = self._runtime.RunOptions(), self._runtime.RunOptions()
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(rows))  # a graph for each batch size
            eager.add_run_config_entry("gpu_graph_id", "-1")
        return Bound(inputs, outputs, binding, options, eager)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # its exceptions have no base of their own
        graph = "; onnxruntime:eager runs without CUDA graphs" if "graph" in str(error).lower() else ""
        memory = "; out of GPU memory: use a smaller batch or size" if "alloc" in str(error).lower() else ""
        raise BackendError(f"ONNX Runtime failed {what}: {error}{graph}{memory}") from error


def _tensorrt_options(path: Path, contract: Contract, index: int) -> dict[str, str]:
    """Raises EngineMismatch, BackendUnavailable where this provider would compute less exactly than the file says."""
    precision = contract.precision
    if "float16" in (precision.weights, precision.activations):
        raise EngineMismatch(
            f"{path} is float16, and ONNX Runtime's TensorRT provider would compute its coordinates in float16 too: "
            "build a plan (yolopose-export --format engine), or run it by onnxruntime"
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
