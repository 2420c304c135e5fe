"""ONNX Runtime on the CPU; ``onnxruntime_gpu.py`` is its other half."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..contract import Contract
from ..errors import ArtifactError, BackendError, BackendUnavailable
from .base import INPUT_NAMES, OUTPUT_NAMES, Backend, Floats, RawPeople
from .checks import check_inputs, check_outputs, check_target

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
        from .onnxruntime_gpu import OnnxRuntimeGpuBackend

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
