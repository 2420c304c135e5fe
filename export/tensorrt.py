"""Builds TensorRT plans: an ONNX artifact in, a plan with its contract and the builder's log out.

One code path for TensorRT 10.3 and later, and 11. The precision is in the graph and the network is strongly typed, so
no builder flag changes what is computed; TF32, which would round what the graph calls float32, is switched off. The
plan has no metadata inside: trtexec and Triton read it as well.

In order: TensorRT versions, reading the artifact, building, verification, writing, and refitting a plan that was
built without weights.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from yolopose.runtime.backends.cuda import Cuda, Gpu
from yolopose.runtime.backends.tensorrt_plan import (
    check_gpu,
    create,
    make_logger,
    plan_section,
    read_plan,
    same_release,
)
from yolopose.runtime.contract import INPUT_NAMES, Contract, ParityInfo, read_contract
from yolopose.runtime.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailable,
    EngineMismatch,
    GateRefused,
    OutputError,
)
from yolopose.runtime.output import atomic_write

from .tensorrt_options import EngineConfig, ShapeProfile, check_profile, fingerprint, narrowed_input

OLDEST = (10, 3)  # of JetPack 6
INSTALL = (
    'pip install "yolopose[tensorrt]"; on a Jetson it comes with JetPack (apt install tensorrt python3-libnvinfer)'
)
UNVERIFIED = ParityInfo(verdict="unverified", images=0)

Say = Callable[[str], None]
Verify = Callable[[Path], ParityInfo]  # runs a plan on the verification images; raises GateRefused


class KnownBug(NamedTuple):
    """A bug of TensorRT from version `first` to before version `fixed`, for files of `precision` (None: all)."""

    first: tuple[int, int]
    fixed: tuple[int, int]
    precision: str | None
    reason: str  # with the place where it was reported
    wrong_results: bool  # True: such plans are refused. False: the build fails, and the message explains why

    def applies(self, version: tuple[int, int], precision: str) -> bool:
        return self.first <= version < self.fixed and self.precision in (None, precision)

    def description(self) -> str:
        other = ", or --fp16" if self.precision == "int8" else ""
        return f"{self.reason}; use {self.fixed[0]}.{self.fixed[1]} or later{other}"


KNOWN_BUGS: tuple[KnownBug, ...] = (
    KnownBug(
        (10, 3), (10, 4), "int8", "int8 graphs with TopK fail in 'checkLinks' on JetPack 6 (ultralytics#23841)", False
    ),
)


def check_version(version: str, precision: str = "") -> None:
    """Raises BackendUnavailable for a TensorRT that is too old, or builds wrong plans of files of that precision."""
    number = _major_minor(version)
    if number < OLDEST:
        raise BackendUnavailable(f"TensorRT {version} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed")
    for bug in KNOWN_BUGS:
        if bug.wrong_results and bug.applies(number, precision):
            raise BackendUnavailable(f"TensorRT {version} builds wrong plans: {bug.description()}")


def explanation(version: str, precision: str) -> str:
    """The known bugs of that TensorRT, to append to the message of a failed build; usually empty."""
    number = _major_minor(version)
    return "".join(f"; {bug.description()}" for bug in KNOWN_BUGS if bug.applies(number, precision))


def _major_minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def import_tensorrt() -> Any:
    """The module. Raises BackendUnavailable: not installed, too old, or known to build wrong plans."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: one of its libraries cannot be loaded
        raise BackendUnavailable(f"building a plan needs TensorRT ({error}): {INSTALL}") from error
    check_version(tensorrt.__version__)
    return tensorrt


def read_artifact(artifact: Path) -> bytes:
    """Content of the .onnx. Raises ArtifactError."""
    try:
        return artifact.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the artifact {artifact}: {error.strerror or error}") from error


def build_engine(
    artifact: Path, plan: Path, config: EngineConfig, trt: Any, gpu: Gpu, say: Say, verify: Verify | None = None
) -> bool:
    """Write `plan`, `<plan>.json` (contract and fingerprint) and `<plan>.log`; False if they were up to date.

    trt: the module, see import_tensorrt()
    verify: runs the plan under a temporary name before it gets its own; a plan that it refuses is kept as
        `.rejected`. Without it the plan is `unverified`. A plan that is up to date but unverified is verified.
    Raises GateRefused, EngineMismatch (an artifact made for another backend), ValueError (profiles that the artifact
    does not accept), BackendUnavailable (an option that this TensorRT does not have), BackendError (TensorRT fails;
    the message has its own words), OutputError.
    """
    contract = read_contract(artifact)
    if contract.precision.target not in ("any", "tensorrt"):
        raise EngineMismatch(
            f"{artifact} was quantized for {contract.precision.target}: export one with --int8 --target tensorrt"
        )
    for profile in config.profiles:
        check_profile(profile, contract.input)
    precision = contract.precision.weights
    check_version(trt.__version__, precision)
    onnx = read_artifact(artifact)
    wanted = fingerprint(trt.__version__, gpu.to_dict(), onnx, config)
    content, parity = _up_to_date(plan, wanted)
    existed = content is not None
    if content is not None:
        say(f"{plan} is up to date: the same ONNX, TensorRT {trt.__version__}, GPU and options")
        if verify is None or parity != UNVERIFIED:
            return False
    else:
        content = _logged_build(onnx, config, trt, precision, plan.with_name(plan.name + ".log"), say)
    contract = replace(contract, input=narrowed_input(contract.input, config.profiles), parity=UNVERIFIED)
    if contract.precision.placement is not None:  # of Q/DQ: this TensorRT has built it
        contract = replace(contract, precision=replace(contract.precision, placement="verified"))
    if verify is not None:
        try:
            contract = replace(contract, parity=_verified(plan, content, contract, wanted, verify))
        except GateRefused:
            if existed:  # this very plan is refused; an older one with another fingerprint would stay
                for path in (plan, sidecar_of(plan)):
                    path.unlink(missing_ok=True)
            raise
    write_plan(plan, content, contract, wanted)
    return True


def _up_to_date(plan: Path, wanted: dict[str, Any]) -> tuple[bytes | None, ParityInfo | None]:
    """The existing plan and its parity, if it is complete and was built from `wanted`; else (None, None)."""
    try:
        contract = read_contract(plan)
        built = plan_section(plan, contract)
        content = read_plan(plan, built, with_weights=False)
        gpu = built.section("gpu").values
    except (ArtifactError, ValueError):  # missing or incomplete: it is built again
        return None, None
    # The CUDA version is that of cuda-python, which may change without the plan.
    new = json.loads(json.dumps(wanted | {"gpu": wanted["gpu"] | {"cuda": gpu.get("cuda")}}))
    same = {name: built.values.get(name) for name in new} == new
    return (content, contract.parity) if same else (None, None)


def _logged_build(onnx: bytes, config: EngineConfig, trt: Any, precision: str, log_path: Path, say: Say) -> bytes:
    """The plan. Every line of the builder is written to the log at once, so that it survives any failure."""
    try:
        with log_path.open("w", encoding="utf-8", buffering=1) as lines:
            log = make_logger(trt, lines.write)
            return _build(onnx, config, trt, log, say)
    except OSError as error:
        raise OutputError(f"cannot write {log_path}: {error.strerror or error}") from error
    except BackendError as error:
        raise type(error)(f"{error}{explanation(trt.__version__, precision)}") from error


def _build(onnx: bytes, config: EngineConfig, trt: Any, log: Any, say: Say) -> bytes:
    builder = create(trt.Builder, log, log)
    # The flag does nothing from 11.0 on, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        raise BackendError("TensorRT cannot read this graph:\n" + "\n".join(_parser_errors(parser)))
    settings = builder.create_builder_config()
    _set_flags(settings, config, trt)
    for profile in config.profiles:
        settings.add_optimization_profile(_fill_profile(builder.create_optimization_profile(), profile))
    cache = None if config.timing_cache is None else _timing_cache(settings, config.timing_cache, say)
    with _interruptible() as stopped:
        settings.progress_monitor = _monitor(trt, say, stopped)
        serialized = builder.build_serialized_network(network, settings)
    if stopped.is_set():
        raise KeyboardInterrupt
    if serialized is None:
        raise BackendError("TensorRT built no plan: " + log.messages())
    if config.timing_cache is not None and cache is not None:
        try:
            atomic_write(config.timing_cache, bytes(cache.serialize()))
        except OutputError as error:
            say(f"the plan is built, but the timing cache is lost: {error}")
    return bytes(serialized)


def _parser_errors(parser: Any) -> list[str]:
    """All errors of the ONNX parser, each with its node."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return [f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}" for error in errors]


def _set_flags(settings: Any, config: EngineConfig, trt: Any) -> None:
    settings.clear_flag(trt.BuilderFlag.TF32)
    # The lean runtime is left out of the plan: it is code, and the backend does not allow a plan to bring code.
    # STRIP_PLAN alone accepts only the same weights again; REFIT also accepts those of another training run.
    flags = (
        (config.version_compatible, "VERSION_COMPATIBLE"),
        (config.version_compatible, "EXCLUDE_LEAN_RUNTIME"),
        (config.strip, "STRIP_PLAN"),
        (config.strip, "REFIT"),
    )
    for wanted, name in flags:
        if wanted:
            settings.set_flag(_member(trt, "BuilderFlag", name))
    if config.hardware_compatible:
        settings.hardware_compatibility_level = _member(trt, "HardwareCompatibilityLevel", "AMPERE_PLUS")
    if config.workspace_mib is not None:
        settings.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config.workspace_mib * 2**20)
    if config.level is not None:
        settings.builder_optimization_level = config.level
    if config.tactics is not None:
        if not hasattr(settings, "max_num_tactics"):
            raise BackendUnavailable(f"TensorRT {trt.__version__} cannot limit tactics: leave --tactics out")
        settings.max_num_tactics = config.tactics
    if config.dla is not None:
        settings.default_device_type = trt.DeviceType.DLA
        settings.DLA_core = config.dla
        settings.set_flag(_member(trt, "BuilderFlag", "GPU_FALLBACK"))


def _member(trt: Any, kind: str, name: str) -> Any:
    """A member of an enumeration, found by its presence and not by version. Raises BackendUnavailable."""
    found = getattr(getattr(trt, kind), name, None)
    if found is None:
        raise BackendUnavailable(f"TensorRT {trt.__version__} has no {kind}.{name}, which this option needs")
    return found


def _fill_profile(target: Any, profile: ShapeProfile) -> Any:
    """TensorRT's optimization profile with the shapes of `profile`."""
    images, score, iou = INPUT_NAMES
    target.set_shape(images, *profile.shapes((3,), sizes=True))
    for threshold in (score, iou):
        target.set_shape(threshold, *profile.shapes((1,), sizes=False))
    return target


def _timing_cache(settings: Any, path: Path, say: Say) -> Any:
    """Measurements of earlier builds; empty if the file is damaged, or from another TensorRT or GPU."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        stored = b""
    cache = settings.create_timing_cache(stored)
    if cache is None or not settings.set_timing_cache(cache, False):  # False: not that of another GPU
        say(f"{path} is from another TensorRT or GPU, or damaged: all tactics are timed again")
        cache = settings.create_timing_cache(b"")
        settings.set_timing_cache(cache, False)
    return cache


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets. An exception cannot pass through TensorRT's C++, so its monitor polls the event."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, say: Say, stopped: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, unused-ignore]
        """Reports the phases of the build. TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # by name: the bindings' classes require exactly this call

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                say(f"TensorRT: {phase_name} ({num_steps} steps)")

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not stopped.is_set()

    return Monitor()


def _verified(plan: Path, content: bytes, contract: Contract, built: dict[str, Any], verify: Verify) -> ParityInfo:
    """What `verify` finds for the plan under a temporary name. Raises GateRefused after writing `.rejected`."""
    draft = plan.with_name(f".{plan.stem[:200]}.{secrets.token_hex(4)}.draft.engine")
    try:
        write_plan(draft, content, contract, built)
        return verify(draft)
    except GateRefused as error:
        rejected = plan.with_name(plan.name + ".rejected")
        write_plan(rejected, content, replace(contract, parity=ParityInfo(verdict="failed", images=0)), built)
        raise GateRefused(f"{error}; the plan is kept as {rejected}") from error
    finally:
        draft.unlink(missing_ok=True)
        sidecar_of(draft).unlink(missing_ok=True)


def write_plan(plan: Path, content: bytes, contract: Contract, built: dict[str, Any]) -> None:
    """Write the plan, and its contract with `built` (see fingerprint) as section `engine`. Raises OutputError."""
    engine = built | {"plan_bytes": len(content), "plan_sha256": hashlib.sha256(content).hexdigest()}
    # The contract goes first: a plan that does not match its contract is refused, never run.
    atomic_write(sidecar_of(plan), replace(contract, engine=engine).to_json(indent=1) + "\n")
    atomic_write(plan, content)


def sidecar_of(plan: Path) -> Path:
    """Path of the plan's contract."""
    return plan.with_name(plan.name + ".json")


def refit_engine(stripped: Path, artifact: Path, plan: Path, trt: Any, cuda: Cuda) -> None:
    """Write `plan`: the stripped plan with the weights of `artifact`. Takes seconds instead of minutes of building.

    trt: the module, of the version that built `stripped`
    Raises ArtifactError (EngineMismatch: another network, TensorRT or GPU), BackendError (TensorRT refuses the
    weights), OutputError.
    """
    source, contract = read_contract(stripped), read_contract(artifact)
    _check_same_network(stripped, source, artifact, contract)
    built = plan_section(stripped, source)
    content = read_plan(stripped, built, with_weights=False)
    check_gpu(stripped, built, cuda.gpu)
    if not same_release(trt.__version__, built.text("tensorrt")):
        raise EngineMismatch(f"{stripped} was built by TensorRT {built.text('tensorrt')}, here is {trt.__version__}")
    onnx = read_artifact(artifact)
    with cuda.current():
        serialized = _refit(stripped, content, artifact, onnx, trt)
    refitted = {**built.values, "strip": False, "onnx_sha256": hashlib.sha256(onnx).hexdigest()}
    write_plan(plan, serialized, replace(contract, input=source.input, parity=UNVERIFIED), refitted)


def _check_same_network(stripped: Path, source: Contract, artifact: Path, contract: Contract) -> None:
    """Everything but the weights must be equal: refitting does not change what a plan computes."""
    precision = replace(contract.precision, placement=source.precision.placement)
    pairs = {
        "network": (source.model, contract.model),
        "number of keypoints": (source.skeleton.num_keypoints, contract.skeleton.num_keypoints),
        "NMS": (source.nms, contract.nms),
        "precision": (source.precision, precision),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            raise EngineMismatch(f"{artifact} does not fit {stripped}: its {name} is {new}, the plan's is {old}")


def _refit(stripped: Path, content: bytes, artifact: Path, onnx: bytes, trt: Any) -> bytes:
    log = make_logger(trt)
    runtime = create(trt.Runtime, log, log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot load {stripped}: {log.messages()}")
    refitter = create(trt.Refitter, log, engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(onnx):
        raise BackendError(f"{artifact} does not fit {stripped}:\n" + "\n".join(_parser_errors(parser)))
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()) or log.messages()
        raise BackendError(f"{artifact} does not fill {stripped}: {missing}")
    options = engine.create_serialization_config()
    options.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    serialized = engine.serialize_with_config(options)
    if serialized is None:
        raise BackendError(f"TensorRT cannot write the plan: {log.messages()}")
    return bytes(serialized)
