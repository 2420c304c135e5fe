"""What the estimator asks of an inference engine, and how one is chosen.

What every engine checks before it takes an artifact: that the file was made for it, and keeps its contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..contract import INPUT_NAMES, OUTPUT_NAMES, PLAN_SUFFIXES, Contract
from ..errors import ArtifactError, EngineMismatch

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


_INTS = ("num_people", "labels", "num_candidates", "flags")


def check_target(path: str | Path, contract: Contract, engine: str, target: str) -> None:
    """`engine` runs files for "any" target and for its own, `target`. Raises EngineMismatch."""
    made_for = contract.precision.target
    if made_for not in ("any", target):
        raise EngineMismatch(
            f"{path} was quantized for {made_for} and {engine} would run it slowly or wrongly; "
            f"export it again with --target {target}"
        )


def check_inputs(path: str | Path, given: Mapping[str, str]) -> None:
    """`given` (name -> numpy dtype) are the inputs of contract version 1. Raises ArtifactError."""
    if given != dict(zip(INPUT_NAMES, ("uint8", "float32", "float32"), strict=True)):
        raise ArtifactError(f"{path} does not keep its contract: its inputs are {dict(given)}; export it again")


def check_outputs(path: str | Path, contract: Contract, found: Mapping[str, tuple[Sequence[int | str], str]]) -> None:
    """`found` (name -> shape without batch, numpy dtype) are the outputs, with this contract's M and K.

    Raises ArtifactError.
    """
    people, keypoints = contract.nms.max_people, contract.skeleton.num_keypoints
    shapes = {"boxes": [people, 4], "scores": [people], "labels": [people], "keypoints": [people, keypoints, 3]}
    for name in OUTPUT_NAMES:
        shape, dtype = shapes.get(name, []), "int32" if name in _INTS else "float32"
        if name not in found or (list(found[name][0]), found[name][1]) != (shape, dtype):
            raise ArtifactError(
                f"{path} does not keep its contract: output {name} should be (batch, *{shape}) {dtype}, "
                f"is {found.get(name, 'absent')}; export it again"
            )
