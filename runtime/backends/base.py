"""What the estimator asks of an inference engine, and how one is chosen."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..contract import INPUT_NAMES as INPUT_NAMES
from ..contract import OUTPUT_NAMES as OUTPUT_NAMES
from ..contract import PLAN_SUFFIXES, Contract
from ..errors import EngineMismatch

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


class RawPeople(NamedTuple):
    """OUTPUT_NAMES of an artifact, b images at once, in letterboxed pixels; rows past num_people are zero."""

    num_people: Ints  # (b,)
    boxes: Floats  # (b, M, 4) xyxy
    scores: Floats  # (b, M)
    labels: Ints  # (b, M)
    keypoints: Floats  # (b, M, K, 3) x, y, score
    num_candidates: Ints  # (b,)
    flags: Ints  # (b,)


@runtime_checkable
class Backend(Protocol):
    """One loaded artifact on one device, for one frame size. `infer` may be called from several threads at once."""

    name: str
    device: str
    version: str

    def infer(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        """People of images (b, h, w, 3); thresholds (b, 1). The arrays returned belong to the caller.

        Raises BackendError when the engine fails.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; a second call does nothing."""
        ...


# name -> (module, class or function, options), which takes (path, contract, shape_hw, device, threads) and the options
_ENGINES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "onnxruntime": (".onnxruntime", "open_onnxruntime", {}),
    "onnxruntime:eager": (".onnxruntime", "open_onnxruntime", {"mode": "eager"}),
    "onnxruntime:tensorrt": (".onnxruntime", "open_onnxruntime", {"mode": "tensorrt"}),
    "openvino": (".openvino", "OpenVinoBackend", {}),
    "openvino:bf16": (".openvino", "OpenVinoBackend", {"precision": "bf16"}),
    "tensorrt": (".tensorrt", "TensorRtBackend", {}),
    "tensorrt:eager": (".tensorrt", "TensorRtBackend", {"graphs": False}),
}
BACKENDS = ("auto", *_ENGINES)


def choose_backend(path: str | Path, contract: Contract, backend: str = "auto") -> str:
    """The engine that opens the artifact: `backend`, or for "auto" TensorRT for plans, OpenVINO for .onnx made for it,
    ONNX Runtime for the others.

    Raises ValueError for an unknown name, EngineMismatch where a plan and TensorRT do not come together.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    plan = Path(path).suffix.lower() in PLAN_SUFFIXES
    if backend == "auto":
        if plan:
            return "tensorrt"
        return "openvino" if contract.precision.target == "openvino" else "onnxruntime"
    if plan != backend.startswith("tensorrt"):
        raise EngineMismatch(f"{path} cannot be loaded by {backend}: TensorRT loads .engine and .trt, the others .onnx")
    return backend


def open_backend(
    path: str | Path,
    contract: Contract,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    shape_hw: tuple[int, int] | None = None,
) -> Backend:
    """Load the artifact on the engine called `backend`; choose_backend() says which one "auto" is.

    device: None for the engine's usual one, or e.g. "cpu", "cuda", "cuda:1", "gpu"
    threads: None for the engine's own choice
    shape_hw: frame size, by default the contract's best one
    Raises ValueError, EngineMismatch, BackendUnavailable, ArtifactError.
    """
    backend = choose_backend(path, contract, backend)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be a whole number from 1, or None for the engine's choice, got {threads!r}")
    module, name, options = _ENGINES[backend]
    engine: Callable[..., Any] = getattr(import_module(module, __package__), name)
    opened: Backend = engine(
        path,
        contract,
        shape_hw or (contract.input.height.opt, contract.input.width.opt),
        device=device,
        threads=threads,
        **options,
    )
    return opened
