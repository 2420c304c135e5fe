"""Checks of a TensorRT plan before it is loaded: is the file complete, does it belong to its contract, and do the
TensorRT and the GPU here fit those that built it? TensorRT itself only says "magicTag does not match".

Also TensorRT's logger and constructor calls, which building and running a plan share.
"""

from __future__ import annotations

import hashlib
import platform
from collections import deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ..artifact_file import plan_metadata
from ..contract import Contract, Section
from ..errors import ArtifactError, BackendError, BackendUnavailable, ContractInvalid, EngineMismatch
from .cuda import Gpu

REBUILD = "build it here from its .onnx: yolopose-export --weights FILE.onnx --format engine"
_AMPERE = (8, 0)  # oldest compute capability for plans built with --hardware-compatible
_LAST_LINES = 3  # error lines of TensorRT that our messages repeat


def plan_section(path: Path, contract: Contract) -> Section:
    """The contract's section `engine`, which says what built the plan. Raises ContractInvalid if there is none."""
    if contract.engine is None:
        raise ContractInvalid(
            f"{path}.json has no section engine, so it is the contract of an .onnx and not of a plan; {REBUILD}"
        )
    return Section(contract.engine, "engine")


def read_plan(path: Path, built: Section, with_weights: bool = True) -> bytes:
    """Content of a plan that is complete and belongs to its contract.

    built: see plan_section
    with_weights: refuse a plan that was built without weights
    Raises ArtifactError, EngineMismatch, ContractInvalid.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the plan {path}: {error.strerror or error}") from error
    if (problem := plan_metadata(content)) is not None:
        raise EngineMismatch(f"{path} {problem}")
    size, sha256 = built.integer("plan_bytes"), built.digest("plan_sha256")
    if len(content) < size:
        raise ArtifactError(f"{path} is truncated: {len(content)} of {size} bytes; copy it again")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtifactError(
            f"{path}.json is the contract of another plan: sha256 {sha256[:12]}..., this one's is {found[:12]}...; "
            "copy the two files that were built together"
        )
    if with_weights and built.boolean("strip"):
        raise EngineMismatch(f"{path} was built without weights (--strip): fill it with --refit; see docs/tensorrt.md")
    return content


def import_runtime(path: Path, built: Section) -> ModuleType:
    """The module that runs the plan: tensorrt, or tensorrt_lean for a plan built with --version-compatible.

    Raises BackendUnavailable (none installed), EngineMismatch (none of the version that built the plan).
    """
    version = built.text("tensorrt")
    compatible = built.boolean("version_compatible")
    here: list[str] = []
    reasons: list[str] = []
    for name in ("tensorrt_lean", "tensorrt") if compatible else ("tensorrt",):
        try:
            module = import_module(name)
        except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
            reasons.append(str(error))
            continue
        if same_release(module.__version__, version):
            return module
        here.append(f"{name} {module.__version__}")
    lean = ""
    if compatible:
        lean = f'pip install "tensorrt_lean=={version}", which can be installed next to any other TensorRT; or '
    if here:
        raise EngineMismatch(f"{path} was built by TensorRT {version}, here is {' and '.join(here)}: {lean}{REBUILD}")
    raise BackendUnavailable(
        f'running {path} needs TensorRT {version} ({"; ".join(reasons)}): {lean}pip install "tensorrt=={version}"; '
        "on a Jetson it comes with JetPack (apt install python3-libnvinfer)"
    )


def same_release(one: str, other: str) -> bool:
    """Whether two versions agree in major.minor.patch, to which plans belong; the build number does not matter."""
    return one.split(".")[:3] == other.split(".")[:3]


def check_gpu(path: Path, built: Section, gpu: Gpu) -> None:
    """Raises EngineMismatch for a plan built on another CPU architecture or for another compute capability."""
    device = built.section("gpu")
    if built.text("machine") != platform.machine():
        raise EngineMismatch(f"{path} was built on {built.text('machine')}, this is {platform.machine()}: {REBUILD}")
    name, capability = device.text("name"), device.text("compute_capability")
    if capability == gpu.compute_capability:
        return
    ampere = all(_capability(each) >= _AMPERE for each in (capability, gpu.compute_capability))
    if built.boolean("hardware_compatible") and ampere:
        return
    raise EngineMismatch(
        f"{path} was built on {name} (compute capability {capability}), here is {gpu.name} ({gpu.compute_capability}): "
        f"{REBUILD}; on servers, --hardware-compatible builds one plan for all GPUs from Ampere (8.0) on"
    )


def _capability(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError as error:
        raise ContractInvalid(f"engine.gpu.compute_capability: must be like 8.7, got {text[:20]!r}") from error


def create(kind: Callable[..., Any], log: Any, *arguments: Any) -> Any:
    """An object of a class of TensorRT, ``kind(*arguments)``.

    Raises BackendError where TensorRT returns nothing; its bindings then raise a TypeError that says 'nullptr'.
    """
    try:
        return kind(*arguments)
    except TypeError as error:
        raise BackendError(
            f"TensorRT could not create a {kind.__name__} ({error}): {log.messages()}; "
            "is the driver new enough for this TensorRT?"
        ) from error


def make_logger(trt: Any, write: Callable[[str], object] | None = None) -> Any:
    """TensorRT's logger, which keeps the last errors for messages().

    write: receives every line except verbose ones
    """

    class Logger(trt.ILogger):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # by name: the bindings' classes require exactly this call
            self.errors: deque[str] = deque(maxlen=_LAST_LINES)

        def log(self, severity: Any, message: str) -> None:
            if write is not None and severity != trt.ILogger.Severity.VERBOSE:
                write(f"{severity}: {message}\n")
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def messages(self) -> str:
            return "; ".join(self.errors) or "TensorRT gives no reason"

    return Logger()
