"""Before a plan is loaded: is it whole, is it ours, and do TensorRT and GPU here fit the ones that built it?

TensorRT itself says "magicTag does not match" to all of these.
"""

from __future__ import annotations

import hashlib
import platform
from collections import deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from ..artifact_file import plan_metadata
from ..contract import Contract, Section
from ..errors import ArtifactError, BackendError, BackendUnavailable, ContractInvalid, EngineMismatch
from .cuda import Gpu

REBUILD = "build it here from its .onnx: yolopose-export --weights FILE.onnx --format engine"
_AMPERE = (8, 0)  # from here on plans built with --hardware-compatible run
_LAST_LINES = 3  # of TensorRT, that a message of ours repeats


def engine_section(path: Path, contract: Contract) -> Section:
    """What built the plan. Raises ContractInvalid where the contract beside it is not a plan's."""
    if contract.engine is None:
        raise ContractInvalid(
            f"{path}.json does not say what built the plan (it has no section engine), as the contract of an .onnx; "
            f"{REBUILD}"
        )
    return Section(contract.engine, "engine")


def read_plan(path: Path, engine: Section, with_weights: bool = True) -> bytes:
    """The plan, whole and the one that its contract is about. Raises ArtifactError, EngineMismatch, ContractInvalid.

    with_weights: one that was built without is refused
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the plan {path}: {error.strerror or error}") from error
    if (problem := plan_metadata(content)) is not None:
        raise EngineMismatch(f"{path} {problem}")
    size, sha256 = engine.integer("plan_bytes"), engine.digest("plan_sha256")
    if len(content) < size:
        raise ArtifactError(f"{path} is truncated: {len(content)} of {size} bytes; copy it again")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtifactError(
            f"{path}.json is the contract of another plan: sha256 {sha256[:12]}..., this one's is {found[:12]}...; "
            "copy the two files that were built together"
        )
    if with_weights and engine.boolean("strip"):
        raise EngineMismatch(f"{path} was built without weights (--strip): fill it with --refit; see docs/tensorrt.md")
    return content


def import_runtime(path: Path, engine: Section) -> Any:
    """The module that runs the plan: tensorrt, or for one built with --version-compatible tensorrt_lean.

    Raises BackendUnavailable (none installed), EngineMismatch (none of the version that built the plan).
    """
    built = engine.text("tensorrt")
    compatible = engine.boolean("version_compatible")
    here: list[str] = []
    reasons: list[str] = []
    for name in ("tensorrt_lean", "tensorrt") if compatible else ("tensorrt",):
        try:
            module = import_module(name)
        except (ImportError, OSError) as error:  # OSError: a library of it cannot be loaded
            reasons.append(str(error))
            continue
        if same_release(module.__version__, built):
            return module
        here.append(f"{name} {module.__version__}")
    lean = f'pip install "tensorrt_lean=={built}", which runs it beside any other TensorRT; or ' if compatible else ""
    if here:
        raise EngineMismatch(f"{path} was built by TensorRT {built}, here is {' and '.join(here)}: {lean}{REBUILD}")
    raise BackendUnavailable(
        f'running {path} needs TensorRT {built} ({"; ".join(reasons)}): {lean}pip install "tensorrt=={built}"; '
        "on a Jetson it comes with JetPack (apt install python3-libnvinfer)"
    )


def check_gpu(path: Path, engine: Section, gpu: Gpu) -> None:
    """Raises EngineMismatch where the plan was built on a GPU of another compute capability, or beside another CPU."""
    built = engine.section("gpu")
    if engine.text("machine") != platform.machine():
        raise EngineMismatch(f"{path} was built on {engine.text('machine')}, this is {platform.machine()}: {REBUILD}")
    name, capability = built.text("name"), built.text("compute_capability")
    if capability == gpu.compute_capability:
        return
    ampere = all(_numbers(each) >= _AMPERE for each in (capability, gpu.compute_capability))
    if engine.boolean("hardware_compatible") and ampere:
        return
    raise EngineMismatch(
        f"{path} was built on {name} (compute capability {capability}), here is {gpu.name} ({gpu.compute_capability}): "
        f"{REBUILD}; on servers one built with --hardware-compatible serves all GPUs from Ampere (8.0) on"
    )


def create(kind: Callable[..., Any], log: Any, *arguments: Any) -> Any:
    """``kind(*arguments)`` of TensorRT. Raises BackendError where it makes none: the bindings then say 'nullptr'."""
    try:
        return kind(*arguments)
    except TypeError as error:
        raise BackendError(
            f"TensorRT made no {kind.__name__} ({error}): {log.told()}; is the driver new enough for this TensorRT?"
        ) from error


def make_logger(trt: Any, write: Callable[[str], object] | None = None) -> Any:
    """TensorRT's logger, which keeps the last errors; write: what takes every line but the chatter."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # by name: the bindings' classes want exactly this call
            self.errors: deque[str] = deque(maxlen=_LAST_LINES)

        def log(self, severity: Any, message: str) -> None:
            if write is not None and severity != trt.ILogger.Severity.VERBOSE:
                write(f"{severity}: {message}\n")
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def told(self) -> str:
            return "; ".join(self.errors) or "TensorRT does not say why"

    return Logger()


def same_release(one: str, other: str) -> bool:
    """Plans belong to major.minor.patch; the number of the build behind it does not matter."""
    return one.split(".")[:3] == other.split(".")[:3]


def _numbers(capability: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in capability.split("."))
    except ValueError as error:
        raise ContractInvalid(f"engine.gpu.compute_capability: must be as 8.7, got {capability[:20]!r}") from error
