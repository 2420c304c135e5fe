"""Which TensorRT builds plans that can be trusted.

An ONNX artifact -> a TensorRT plan with the contract beside it. One path for TensorRT 10.3 and later, and 11.

Precision is in the graph and the network strongly typed, so no builder flag changes what is computed; TF32 is switched
off, which would round what the graph calls float32. The plan is pure: trtexec and Triton read it as well.

Weights into a plan that was built without them (``--strip``), or other weights of the same network into it.
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
from typing import Any, NamedTuple

from yolopose.runtime.backends.cuda import Cuda, Gpu
from yolopose.runtime.backends.tensorrt_plan import (
    check_gpu,
    create,
    engine_section,
    make_logger,
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

from .tensorrt_options import EngineConfig, check_profile, fingerprint, narrowed

OLDEST = (10, 3)  # JetPack 6


class Known(NamedTuple):
    """Trouble with the TensorRT of ``first`` to before ``good``, in files of ``precision`` (None: all)."""

    first: tuple[int, int]
    good: tuple[int, int]
    precision: str | None
    reason: str
    refused: bool  # it builds wrong plans; False: it fails aloud, and the message then gives the reason

    def applies(self, version: tuple[int, int], precision: str) -> bool:
        return self.first <= version < self.good and self.precision in (None, precision)

    def told(self) -> str:
        other = ", or --fp16" if self.precision == "int8" else ""
        return f"{self.reason}; use {self.good[0]}.{self.good[1]} or later{other}"


# The one place for them; each with where it was reported.
KNOWN_BAD: tuple[Known, ...] = (
    Known(
        (10, 3), (10, 4), "int8", "int8 graphs with TopK end in 'checkLinks' on JetPack 6 (ultralytics#23841)", False
    ),
)


def check_version(text: str, precision: str = "") -> None:
    """Raises BackendUnavailable for a TensorRT that is too old, or builds wrong plans of files of that precision."""
    version = _version_of(text)
    if version < OLDEST:
        raise BackendUnavailable(f"TensorRT {text} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed")
    for known in KNOWN_BAD:
        if known.refused and known.applies(version, precision):
            raise BackendUnavailable(f"TensorRT {text} builds wrong plans: {known.told()}")


def explained(text: str, precision: str) -> str:
    """What is known of failures of that TensorRT, as the end of a message; mostly empty."""
    version = _version_of(text)
    return "".join(f"; {known.told()}" for known in KNOWN_BAD if known.applies(version, precision))


def _version_of(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


INSTALL = (
    'pip install "yolopose[tensorrt]"; on a Jetson it comes with JetPack (apt install tensorrt python3-libnvinfer)'
)
Say = Callable[[str], None]
Judge = Callable[[Path], ParityInfo]
UNVERIFIED = ParityInfo(verdict="unverified", images=0)


def build_engine(
    artifact: Path, plan: Path, config: EngineConfig, trt: Any, gpu: Gpu, say: Say, judge: Judge | None = None
) -> bool:
    """Write ``plan``, ``<plan>.json`` (contract and fingerprint) and ``<plan>.log``; False where they were up to date.

    trt: the module, see ``import_tensorrt``
    judge: runs the plan, under a name of its own, before it gets its name; what it refuses is kept as ``.rejected``.
    Without one the plan is ``unverified``; one that is up to date, but unverified, is judged all the same.
    Raises GateRefused, EngineMismatch (an artifact made for another engine), ValueError (profiles or flags that cannot
    be), BackendError (TensorRT refuses; its own words are in the message), OutputError.
    """
    contract = read_contract(artifact)
    if contract.precision.target not in ("any", "tensorrt"):
        raise EngineMismatch(
            f"{artifact} was quantized for {contract.precision.target}: make one with --int8 --target tensorrt"
        )
    for profile in config.profiles:
        check_profile(profile, contract.input)
    precision = contract.precision.weights
    check_version(trt.__version__, precision)
    content = read_artifact(artifact)
    wanted = fingerprint(trt.__version__, gpu.to_dict(), content, config)
    serialized, known = _up_to_date(plan, wanted)
    there = serialized is not None
    if serialized is not None:
        say(f"{plan} is up to date: the same ONNX, TensorRT {trt.__version__}, GPU and options")
        if judge is None or known != UNVERIFIED:
            return False
    else:
        serialized = _logged_build(content, config, trt, precision, plan.with_name(plan.name + ".log"), say)
    contract = replace(contract, input=narrowed(contract.input, config.profiles), parity=UNVERIFIED)
    if contract.precision.placement is not None:  # of Q/DQ: this TensorRT has built it
        contract = replace(contract, precision=replace(contract.precision, placement="verified"))
    if judge is not None:
        try:
            contract = replace(contract, parity=_judged(plan, serialized, contract, wanted, judge))
        except GateRefused:
            if there:  # an older good plan stays, this one does not
                for old in (plan, sidecar_of(plan)):
                    old.unlink(missing_ok=True)
            raise
    write_plan(plan, serialized, contract, wanted)
    return True


def _judged(plan: Path, content: bytes, contract: Contract, built: dict[str, Any], judge: Judge) -> ParityInfo:
    draft = plan.with_name(f".{plan.stem[:200]}.{secrets.token_hex(4)}.draft.engine")
    try:
        write_plan(draft, content, contract, built)
        return judge(draft)
    except GateRefused as error:
        rejected = plan.with_name(plan.name + ".rejected")
        write_plan(rejected, content, replace(contract, parity=ParityInfo(verdict="failed", images=0)), built)
        raise GateRefused(f"{error}; the plan is kept as {rejected}") from error
    finally:
        draft.unlink(missing_ok=True)
        sidecar_of(draft).unlink(missing_ok=True)


def write_plan(plan: Path, content: bytes, contract: Contract, built: dict[str, Any]) -> None:
    """The plan, and beside it its contract with ``built``, which says what it depends on. Raises OutputError."""
    engine = built | {"plan_bytes": len(content), "plan_sha256": hashlib.sha256(content).hexdigest()}
    # The contract goes first: a plan that is not the one it names is refused, never run.
    atomic_write(sidecar_of(plan), replace(contract, engine=engine).to_json(indent=1) + "\n")
    atomic_write(plan, content)


def import_tensorrt() -> Any:
    """The module. Raises BackendUnavailable: not installed, too old, or known to build wrong plans."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: a library of it cannot be loaded
        raise BackendUnavailable(f"building a plan needs TensorRT ({error}): {INSTALL}") from error
    check_version(tensorrt.__version__)
    return tensorrt


def sidecar_of(plan: Path) -> Path:
    return plan.with_name(plan.name + ".json")


def read_artifact(artifact: Path) -> bytes:
    try:
        return artifact.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the artifact {artifact}: {error.strerror or error}") from error


def _up_to_date(plan: Path, wanted: dict[str, Any]) -> tuple[bytes | None, ParityInfo | None]:
    """The plan and what is known of it, where it is whole and what ``wanted`` would give; else nothing."""
    try:
        contract = read_contract(plan)
        engine = engine_section(plan, contract)
        content = read_plan(plan, engine, with_weights=False)
        gpu = engine.section("gpu").values
    except (ArtifactError, ValueError):  # none, or not whole: the plan is built anew
        return None, None
    # The version of CUDA that is told is that of cuda-python, which may change without the plan.
    new = json.loads(json.dumps(wanted | {"gpu": wanted["gpu"] | {"cuda": gpu.get("cuda")}}))
    same = {name: engine.values.get(name) for name in new} == new
    return (content, contract.parity) if same else (None, None)


def _logged_build(content: bytes, config: EngineConfig, trt: Any, precision: str, path: Path, say: Say) -> bytes:
    """Every line of the builder goes into the log as it comes, so that it is there whatever happens."""
    try:
        with path.open("w", encoding="utf-8", buffering=1) as lines:
            log = make_logger(trt, lines.write)
            return _build(content, config, trt, log, say)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    except BackendError as error:
        raise type(error)(f"{error}{explained(trt.__version__, precision)}") from error


def _build(content: bytes, config: EngineConfig, trt: Any, log: Any, say: Say) -> bytes:
    builder = create(trt.Builder, log, log)
    # A no-op since 11.0, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        raise BackendError("TensorRT cannot read this graph:\n" + "\n".join(parser_errors(parser)))
    settings = builder.create_builder_config()
    _set_flags(settings, config, trt)
    for profile in config.profiles:
        settings.add_optimization_profile(_profile(builder.create_optimization_profile(), profile))
    cache = None if config.timing_cache is None else _timing_cache(settings, config.timing_cache, say)
    with _interruptible() as stopped:
        settings.progress_monitor = _monitor(trt, say, stopped)
        serialized = builder.build_serialized_network(network, settings)
    if stopped.is_set():
        raise KeyboardInterrupt
    if serialized is None:
        raise BackendError("TensorRT built no plan: " + log.told())
    if config.timing_cache is not None and cache is not None:
        try:
            atomic_write(config.timing_cache, bytes(cache.serialize()))
        except OutputError as error:
            say(f"the timing cache is lost, the plan is not: {error}")
    return bytes(serialized)


def parser_errors(parser: Any) -> list[str]:
    """All of them, each with the node that it is about."""
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return [f"{error.node_operator() or 'graph'} {error.node_name()}: {error.desc()}" for error in errors]


def _set_flags(settings: Any, config: EngineConfig, trt: Any) -> None:
    settings.clear_flag(trt.BuilderFlag.TF32)
    # Without the lean runtime inside: it is code, and what runs the plan does not allow a plan to bring code.
    compatible = config.version_compatible
    # A stripped plan alone may take back its own weights only; with REFIT it takes those of another training too.
    flags = (
        (compatible, "VERSION_COMPATIBLE"),
        (compatible, "EXCLUDE_LEAN_RUNTIME"),
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
    """By what is there, not by version numbers. Raises BackendUnavailable."""
    found = getattr(getattr(trt, kind), name, None)
    if found is None:
        raise BackendUnavailable(f"TensorRT {trt.__version__} has no {kind}.{name}, which this option needs")
    return found


def _profile(made: Any, profile: Any) -> Any:
    images, score, iou = INPUT_NAMES
    made.set_shape(images, *profile.shapes((3,), sizes=True))
    for threshold in (score, iou):
        made.set_shape(threshold, *profile.shapes((1,), sizes=False))
    return made


def _timing_cache(settings: Any, path: Path, say: Say) -> Any:
    """What earlier builds measured; a new one where that is damaged, or of another TensorRT or GPU."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        stored = b""
    cache = settings.create_timing_cache(stored)
    if cache is None or not settings.set_timing_cache(cache, False):  # False: not of another GPU
        say(f"{path} is of another TensorRT or GPU, or damaged: all is measured anew")
        cache = settings.create_timing_cache(b"")
        settings.set_timing_cache(cache, False)
    return cache


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set by Ctrl-C: an exception cannot pass through TensorRT's C++, so that its monitor asks for this instead."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stopped.set())
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, say: Say, stopped: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Says which phase the build is in; TensorRT calls it from its own threads."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                say(f"TensorRT: {phase_name} ({num_steps} steps)")

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            return not stopped.is_set()

    return Monitor()


def refit_engine(stripped: Path, artifact: Path, plan: Path, trt: Any, cuda: Cuda) -> None:
    """Write ``plan``: what ``stripped`` computes, with the weights of ``artifact``. Minutes of building are not needed.

    trt: the module of the version that built it. Raises ArtifactError and its kin (not this GPU, not whole),
    BackendError (TensorRT refuses: another network), OutputError.
    """
    source, contract = read_contract(stripped), read_contract(artifact)
    _check_same_network(stripped, source, artifact, contract)
    built = engine_section(stripped, source)
    content = read_plan(stripped, built, with_weights=False)
    check_gpu(stripped, built, cuda.gpu)
    if not same_release(trt.__version__, built.text("tensorrt")):
        raise EngineMismatch(f"{stripped} was built by TensorRT {built.text('tensorrt')}, here is {trt.__version__}")
    weights = read_artifact(artifact)
    with cuda.current():
        serialized = _refitted(stripped, content, artifact, weights, trt)
    fingerprint = {**built.values, "strip": False, "onnx_sha256": hashlib.sha256(weights).hexdigest()}
    write_plan(plan, serialized, replace(contract, input=source.input, parity=UNVERIFIED), fingerprint)


def _check_same_network(stripped: Path, source: Contract, artifact: Path, contract: Contract) -> None:
    """All but the weights must be equal: what a plan computes cannot be changed by filling it."""
    placed = replace(contract.precision, placement=source.precision.placement)
    pairs = {
        "network": (source.model, contract.model),
        "keypoints": (source.skeleton.num_keypoints, contract.skeleton.num_keypoints),
        "suppression": (source.nms, contract.nms),
        "precision": (source.precision, placed),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            raise EngineMismatch(f"{artifact} does not fit {stripped}: its {name} is {new}, the plan's is {old}")


def _refitted(stripped: Path, content: bytes, artifact: Path, weights: bytes, trt: Any) -> bytes:
    log = make_logger(trt)
    runtime = create(trt.Runtime, log, log)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} cannot load {stripped}: {log.told()}")
    refitter = create(trt.Refitter, log, engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_bytes(weights):
        raise BackendError(f"{artifact} does not fit {stripped}:\n" + "\n".join(parser_errors(parser)))
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()) or log.told()
        raise BackendError(f"{artifact} does not fill {stripped}: {missing}")
    options = engine.create_serialization_config()
    options.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    serialized = engine.serialize_with_config(options)
    if serialized is None:
        raise BackendError(f"TensorRT cannot write the plan: {log.told()}")
    return bytes(serialized)
