"""The protocol of inference backends, the table of those that exist, and the checks that all of them share.

A backend runs an artifact. To add one, write a class with the methods of `Backend` and a line in `_TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..contract import INPUT_NAMES, KEYPOINT_SPREAD, PLAN_SUFFIXES, POSE_SCORES, Contract
from ..errors import ArtifactError, EngineMismatch

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

# name -> (module, class or function, options); it is called with (path, contract, shape_hw, device, threads, **options)
_TABLE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "onnxruntime": (".onnxruntime", "open_onnxruntime", {}),
    "onnxruntime:eager": (".onnxruntime", "open_onnxruntime", {"mode": "eager"}),
    "onnxruntime:tensorrt": (".onnxruntime", "open_onnxruntime", {"mode": "tensorrt"}),
    "openvino": (".openvino", "OpenVinoBackend", {}),
    "openvino:bf16": (".openvino", "OpenVinoBackend", {"precision": "bf16"}),
    "tensorrt": (".tensorrt", "TensorRtBackend", {}),
    "tensorrt:eager": (".tensorrt", "TensorRtBackend", {"graphs": False}),
}
BACKENDS = ("auto", *_TABLE)
_INPUT_DTYPES = dict(zip(INPUT_NAMES, ("uint8", "float32", "float32"), strict=True))
_INT_OUTPUTS = ("num_people", "labels", "num_candidates", "flags")


class RawPeople(NamedTuple):
    """The outputs of an artifact for b images, in pixels of the letterboxed image. Rows past num_people are zero."""

    num_people: Ints  # (b,)
    boxes: Floats  # (b, M, 4) xyxy
    scores: Floats  # (b, M)
    labels: Ints  # (b, M)
    keypoints: Floats  # (b, M, K, 3) x, y, score
    num_candidates: Ints  # (b,)
    flags: Ints  # (b,)
    pose_scores: Floats | None = None  # (b, M); None if keypoints are those of the best candidate
    keypoint_spread: Floats | None = None  # (b, M, K); None unless the artifact has it


@runtime_checkable
class Backend(Protocol):
    """One loaded artifact on one device, for one image size. `infer` may be called from several threads at once.

    A backend may also have
    `batch`: Range, the batch sizes that it takes, where they differ from those of the contract;
    `bare(images, score_threshold, iou_threshold)`, which returns a function that repeats this run without the work on
    the host, for measurements.
    """

    name: str
    device: str
    version: str

    def infer(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        """People in images (b, h, w, 3); thresholds (b, 1). The caller owns the arrays returned.

        Raises BackendError when inference fails, ValueError after close().
        """
        ...

    def close(self) -> None:
        """Release everything that the backend holds. A second call does nothing."""
        ...


def choose_backend(path: str | Path, contract: Contract, backend: str = "auto") -> str:
    """Name of the backend that opens the artifact.

    "auto" is TensorRT for plans, OpenVINO for .onnx files made for it, and ONNX Runtime for other .onnx files.
    Raises ValueError for an unknown name, EngineMismatch for a plan without TensorRT or TensorRT without a plan.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    is_plan = Path(path).suffix.lower() in PLAN_SUFFIXES
    if backend == "auto":
        if is_plan:
            return "tensorrt"
        return "openvino" if contract.precision.target == "openvino" else "onnxruntime"
    if is_plan != backend.startswith("tensorrt"):
        raise EngineMismatch(
            f"{path} cannot be loaded by {backend}: TensorRT loads .engine and .trt, the other backends load .onnx"
        )
    return backend


def open_backend(
    path: str | Path,
    contract: Contract,
    backend: str = "auto",
    device: str | None = None,
    threads: int | None = None,
    shape_hw: tuple[int, int] | None = None,
) -> Backend:
    """Load the artifact; choose_backend() says which backend "auto" is.

    device: None for the default of the backend, or e.g. "cpu", "cuda", "cuda:1", "gpu"
    threads: None for the default of the backend
    shape_hw: size of the letterboxed images, by default the optimal one of the contract
    Raises ValueError, EngineMismatch, BackendUnavailable, ArtifactError.
    """
    backend = choose_backend(path, contract, backend)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ValueError(f"threads must be a whole number from 1, or None for the backend's default, got {threads!r}")
    module, name, options = _TABLE[backend]
    make: Callable[..., Backend] = getattr(import_module(module, __package__), name)
    shape_hw = shape_hw or (contract.input.height.opt, contract.input.width.opt)
    return make(path, contract, shape_hw, device=device, threads=threads, **options)


def check_target(path: str | Path, contract: Contract, backend: str, target: str) -> None:
    """`backend` runs files for "any" target and for its own `target`. Raises EngineMismatch for others."""
    made_for = contract.precision.target
    if made_for not in ("any", target):
        raise EngineMismatch(
            f"{path} was quantized for {made_for} and {backend} would run it slowly or with wrong results; "
            f"export it again with --target {target}"
        )


def check_inputs(path: str | Path, found: Mapping[str, str]) -> None:
    """`found` (name -> numpy dtype) are the inputs of contract version 1. Raises ArtifactError if not."""
    if found != _INPUT_DTYPES:
        raise ArtifactError(f"{path} does not match its contract: its inputs are {dict(found)}; export it again")


def check_outputs(path: str | Path, contract: Contract, found: Mapping[str, tuple[Sequence[int | str], str]]) -> None:
    """`found` (name -> shape without the batch, numpy dtype) are the outputs, with M and K of this contract.

    Raises ArtifactError if not.
    """
    people, keypoints = contract.nms.max_people, contract.skeleton.num_keypoints
    shapes = {"boxes": [people, 4], "scores": [people], "labels": [people], "keypoints": [people, keypoints, 3]}
    shapes |= {POSE_SCORES: [people], KEYPOINT_SPREAD: [people, keypoints]}
    for name in contract.pose.outputs:
        shape, dtype = shapes.get(name, []), "int32" if name in _INT_OUTPUTS else "float32"
        if name not in found or (list(found[name][0]), found[name][1]) != (shape, dtype):
            raise ArtifactError(
                f"{path} does not match its contract: output {name} should be (batch, *{shape}) {dtype}, "
                f"is {found.get(name, 'absent')}; export it again"
            )
