"""Building TensorRT plans with a simulated TensorRT, and the real bindings, which must have every member used."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.simulated_gpu import simulate_gpu
from tests.simulated_gpu.tensorrt import MARK, Uses, simulated_tensorrt
from yolopose.export import tensorrt as tensorrt_module
from yolopose.export.graph import embed_contract
from yolopose.export.tensorrt import KnownBug, build_engine, check_version, import_tensorrt, refit_engine
from yolopose.export.tensorrt_options import EngineConfig, ShapeProfile, usual_profile
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.cuda import Gpu, find_gpu, open_cuda
from yolopose.runtime.contract import Contract, ParityInfo, PrecisionInfo, Range, read_contract
from yolopose.runtime.errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch

from . import tensorrt_bindings

ORIN = Gpu("Orin", "8.7", "12.6")
WHOLE: dict[str, Any] = {
    "workspace_mib": 64, "level": 4, "tactics": 9, "hardware_compatible": True, "version_compatible": True,
    "strip": True, "dla": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def artifact(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small artifact of dynamic batch, whose size is 64 x 96."""
    from yolopose.export.command import main

    path = tmp_path_factory.mktemp("artifact") / "tiny.onnx"
    assert main(["--weights", str(tiny_weights), "--output", str(path), "--imgsz", "64", "96", "--limit", "2"]) == 0
    return path


def config(artifact: Path, batch: int = 4, **more: Any) -> EngineConfig:
    return EngineConfig((usual_profile(read_contract(artifact).input, batch),), **more)


def quiet(text: str) -> None:
    pass


def test_writes_plan_contract_and_log(artifact: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    trt, plan = simulated_tensorrt(), tmp_path / "tiny.engine"
    assert build_engine(artifact, plan, config(artifact), trt, ORIN, lines.append)
    assert plan.read_bytes().startswith(MARK)
    assert plan.read_bytes().endswith(artifact.read_bytes())
    contract, source = read_contract(plan), read_contract(artifact)
    narrowed = replace(source.input, batch=Range(1, 1, 4))
    assert contract.parity == ParityInfo(verdict="unverified", images=0)  # without verify
    assert replace(contract, engine=None, parity=source.parity) == replace(source, input=narrowed)
    assert contract.engine is not None
    assert contract.engine["gpu"] == {"name": "Orin", "compute_capability": "8.7", "cuda": "12.6"}
    assert contract.engine["tensorrt"] == "10.16.1.11"
    assert "a warning" in (tmp_path / "tiny.engine.log").read_text(encoding="utf-8")
    assert any("Building (3 steps)" in line for line in lines)
    assert not any("Timing" in line for line in lines)
    assert trt.made["profiles"] == [
        ("images", (1, 64, 96, 3), (1, 64, 96, 3), (4, 64, 96, 3)),
        ("score_threshold", (1, 1), (1, 1), (4, 1)),
        ("iou_threshold", (1, 1), (1, 1), (4, 1)),
    ]
    assert trt.made["network_flags"] == 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.made["cleared"] == {"TF32"}
    assert not trt.made["flags"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.engine", "tiny.engine.json", "tiny.engine.log"]


def test_builds_again_only_when_something_changed(artifact: Path, tmp_path: Path) -> None:
    plan = tmp_path / "tiny.engine"

    def built(version: str = "10.16.1.11", gpu: Gpu = ORIN, **more: Any) -> bool:
        return build_engine(artifact, plan, config(artifact, **more), simulated_tensorrt(version), gpu, quiet)

    assert built()
    assert not built()
    assert not built(timing_cache=tmp_path / "timing")  # does not decide what is built
    assert not built(gpu=replace(ORIN, cuda="13.5"))  # nor does an update of cuda-python
    assert built("11.4.0.106")
    assert built("11.4.0.106", replace(ORIN, compute_capability="8.9"))
    assert built("11.4.0.106", level=3)
    assert built("11.4.0.106", batch=2)
    assert not built("11.4.0.106", batch=2)
    (tmp_path / "tiny.engine.json").write_text("{", encoding="utf-8")
    assert built("11.4.0.106", batch=2)
    sidecar = tmp_path / "tiny.engine.json"
    document = json.loads(sidecar.read_text(encoding="utf-8"))
    document["engine"]["gpu"] = "damaged"
    sidecar.write_text(json.dumps(document), encoding="utf-8")
    assert built("11.4.0.106", batch=2)
    plan.write_bytes(plan.read_bytes()[:-1])
    assert built("11.4.0.106", batch=2)
    plan.unlink()
    assert built("11.4.0.106", batch=2)


def test_options_reach_the_builder(artifact: Path, tmp_path: Path) -> None:
    trt = simulated_tensorrt()
    cache = tmp_path / "timing"
    cache.write_bytes(b"earlier ")
    assert build_engine(
        artifact, tmp_path / "a.engine", config(artifact, timing_cache=cache, **WHOLE), trt, ORIN, quiet
    )
    assert trt.made["flags"] == {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "STRIP_PLAN", "REFIT", "GPU_FALLBACK"}
    settings = trt.made["settings"]
    assert (settings["WORKSPACE"], settings["builder_optimization_level"], settings["DLA_core"]) == (64 * 2**20, 4, 0)
    assert settings["max_num_tactics"] == 9
    assert settings["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert trt.made["cache"] == b"earlier "
    assert cache.read_bytes() == b"earlier measured"


@pytest.mark.parametrize(
    ("option", "missing"),
    [("hardware_compatible", "AMPERE_PLUS"), ("version_compatible", "VERSION_COMPATIBLE"), ("strip", "STRIP_PLAN")],
)
def test_rejects_options_that_this_tensorrt_does_not_have(
    artifact: Path, tmp_path: Path, option: str, missing: str
) -> None:
    trt = simulated_tensorrt(missing=(missing,))
    with pytest.raises(BackendUnavailable, match=missing):
        build_engine(artifact, tmp_path / "a.engine", config(artifact, **{option: True}), trt, ORIN, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a.engine.log"]


@pytest.mark.parametrize(
    ("fails", "message"), [("parse", "Unique node_7: no converter"), ("build", "out of memory in tactic 0x12")]
)
def test_failed_build_repeats_the_message_and_leaves_only_the_log(
    artifact: Path, tmp_path: Path, fails: str, message: str
) -> None:
    with pytest.raises(BackendError, match=message):
        build_engine(artifact, tmp_path / "a.engine", config(artifact), simulated_tensorrt(fails=fails), ORIN, quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["a.engine.log"]


@pytest.mark.parametrize("stored", [b"of another GPU", b"damaged"])
def test_timing_cache_that_does_not_fit_is_replaced(artifact: Path, tmp_path: Path, stored: bytes) -> None:
    cache = tmp_path / "timing"
    lines: list[str] = []
    cache.write_bytes(stored)
    whole = config(artifact, timing_cache=cache)
    assert build_engine(artifact, tmp_path / "a.engine", whole, simulated_tensorrt(), ORIN, lines.append)
    assert any("from another TensorRT or GPU, or damaged" in line for line in lines)
    assert cache.read_bytes() == b"measured"


def test_ctrl_c_stops_a_build(artifact: Path, tmp_path: Path) -> None:
    def say(text: str) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for jobs in the background
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(artifact, tmp_path / "a.engine", config(artifact), simulated_tensorrt(), ORIN, say)
        assert [path.name for path in tmp_path.iterdir()] == ["a.engine.log"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_builder_cannot_be_created(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"TensorRT could not create a Builder.*nullptr.*is the driver new enough"):
        build_engine(artifact, tmp_path / "a.engine", config(artifact), simulated_tensorrt(fails="null"), ORIN, quiet)


def test_refit_rejects_another_network_or_tensorrt(artifact: Path, tmp_path: Path) -> None:
    contract = read_contract(artifact)
    stripped = tmp_path / "a.engine"
    with pytest.MonkeyPatch.context() as patch:
        simulate_gpu(patch)
        build_engine(artifact, stripped, config(artifact, strip=True), simulated_tensorrt(), find_gpu(), quiet)
        other = tmp_path / "other.onnx"
        other.write_bytes(embed_contract(onnx.load(artifact), replace(contract, nms=replace(contract.nms, rounds=3))))
        with pytest.raises(EngineMismatch, match=r"other\.onnx does not fit .*a\.engine: its NMS is"):
            refit_engine(stripped, other, tmp_path / "b.engine", simulated_tensorrt(), open_cuda())
        with pytest.raises(EngineMismatch, match=r"built by TensorRT 10\.16\.1\.11, here is 11\.4\.0"):
            refit_engine(stripped, artifact, tmp_path / "b.engine", simulated_tensorrt("11.4.0.1"), open_cuda())


def test_rejects_an_artifact_for_another_backend(artifact: Path, tmp_path: Path) -> None:
    contract = read_contract(artifact)
    for_cpu = replace(contract, precision=replace(contract.precision, weights="int8", activations="int8", target="cpu"))
    path = tmp_path / "cpu.onnx"
    path.write_bytes(embed_contract(onnx.load(artifact), for_cpu))
    with pytest.raises(EngineMismatch, match=r"quantized for cpu.*--target tensorrt"):
        build_engine(path, tmp_path / "a.engine", config(artifact), simulated_tensorrt(), ORIN, quiet)
    with pytest.raises(ArtifactError, match=r"none\.onnx"):
        build_engine(tmp_path / "none.onnx", tmp_path / "a.engine", config(artifact), simulated_tensorrt(), ORIN, quiet)


def test_rejects_profiles_that_the_artifact_does_not_accept(artifact: Path, tmp_path: Path) -> None:
    given = read_contract(artifact).input
    with pytest.raises(ValueError, match="batch 65 is not accepted by the artifact: 1 to 64"):
        usual_profile(given, 65)
    larger = ShapeProfile(Range(1, 1, 1), Range(128, 128, 128), Range(96, 96, 96))
    with pytest.raises(ValueError, match="height 128 is not accepted by the artifact: 64 only"):
        build_engine(artifact, tmp_path / "a.engine", EngineConfig((larger,)), simulated_tensorrt(), ORIN, quiet)
    assert not list(tmp_path.iterdir())


def test_rejects_old_and_known_bad_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    check_version("10.3.0")
    check_version("11.4.0.106")
    with pytest.raises(BackendUnavailable, match=r"8\.6\.1 is too old: 10\.3"):
        check_version("8.6.1")
    wrong = KnownBug((10, 9), (10, 11), "float16", "keypoints are wrong in float16", wrong_results=True)
    monkeypatch.setattr(tensorrt_module, "KNOWN_BUGS", (wrong,))
    for good in (("10.8.0", "float16"), ("10.11.0", "float16"), ("10.9.0", "float32")):
        check_version(*good)
    with pytest.raises(BackendUnavailable, match=r"10\.9\.0 builds wrong plans: keypoints are wrong.*10\.11"):
        check_version("10.9.0", "float16")


def test_known_failure_is_explained(artifact: Path, tmp_path: Path) -> None:
    contract = read_contract(artifact)
    quantized = replace(contract, precision=PrecisionInfo("int8", "int8", "tensorrt", placement="unverified"))
    path = tmp_path / "int8.onnx"
    path.write_bytes(embed_contract(onnx.load(artifact), quantized))
    fails = simulated_tensorrt("10.3.0", fails="build")
    with pytest.raises(BackendError, match=r"out of memory.*ultralytics#23841.*use 10\.4 or later, or --fp16"):
        build_engine(path, tmp_path / "a.engine", config(path), fails, ORIN, quiet)
    with pytest.raises(BackendError, match=r"tactic 0x12$"):
        build_engine(artifact, tmp_path / "a.engine", config(artifact), fails, ORIN, quiet)
    assert build_engine(path, tmp_path / "a.engine", config(path), simulated_tensorrt("10.3.0"), ORIN, quiet)
    assert read_contract(tmp_path / "a.engine").precision.placement == "verified"


def test_missing_tensorrt_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "yolopose\[tensorrt\]"'):
        import_tensorrt()


# The real bindings


@pytest.fixture(scope="module", params=tensorrt_bindings.VERSIONS)
def bindings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler for the empty libraries")
    try:
        return tensorrt_bindings.install(tmp_path_factory.mktemp("bindings"), request.param)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"TensorRT's bindings cannot be installed: {error}")


@pytest.fixture(scope="module")
def uses(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Uses:
    """Every member used by building and running: with every option, and with every kind of failure."""
    folder, found = tmp_path_factory.mktemp("uses"), {}
    with pytest.MonkeyPatch.context() as patch:
        simulate_gpu(patch)
        for fails in ("", "parse", "build", "load", "context", "run", "refit", "fill", "null"):
            trt, plan = simulated_tensorrt(fails=fails), folder / f"a{fails}.engine"
            for options in (WHOLE, {}):
                whole = config(artifact, timing_cache=folder / "timing", **options)
                try:
                    build_engine(artifact, plan, whole, trt, find_gpu(), quiet)
                    if options.get("strip"):
                        refit_engine(plan, artifact, folder / "full.engine", trt, open_cuda())
                except BackendError:
                    assert fails in ("parse", "build", "load", "refit", "fill", "null")
            if plan.exists():
                patch.setitem(sys.modules, "tensorrt", trt)
                try:
                    with PoseEstimator(plan) as estimate:
                        for _ in range(2):
                            estimate(np.zeros((64, 96, 3), np.uint8))
                except (ArtifactError, BackendError):
                    assert fails in ("load", "context", "run")
            for member, counts in trt.uses.items():
                found.setdefault(member, set()).update(counts)
    return found


def test_real_bindings_have_every_member_used(bindings: Path, uses: Uses) -> None:
    members = tensorrt_bindings.members_of(bindings)
    assert ("Builder", "build_serialized_network") in uses
    assert ("BuilderFlag", "TF32") in uses
    assert ("IExecutionContext", "execute_async_v3") in uses
    assert ("Refitter", "get_missing_weights") in uses
    assert ("Runtime", "engine_host_code_allowed") not in uses  # it stays off
    for (kind, name), counts in uses.items():
        assert name in members[kind], (bindings.name, kind, name)
        for count in counts - {None}:
            assert count is not None
            signatures = tensorrt_bindings.arguments_of(members[kind][name])
            assert any(least <= count <= most for least, most in signatures), (kind, name, count, signatures)
    assert {"phase_start", "phase_finish", "step_complete"} <= members["IProgressMonitor"].keys()
    assert "log" in members["ILogger"]


def test_real_bindings_accept_logger_and_monitor(bindings: Path) -> None:
    script = """
import json, threading, tensorrt_bindings as trt
from yolopose.export.tensorrt import _monitor
from yolopose.runtime.backends.tensorrt_plan import make_logger
phases = []
lines, stopped = [], threading.Event()
log, monitor = make_logger(trt, lines.append), _monitor(trt, phases.append, stopped)
log.log(trt.ILogger.Severity.ERROR, "an error")
log.log(trt.ILogger.Severity.INFO, "news")
monitor.phase_start("Building", None, 3)
assert monitor.step_complete("Building", 1) is True
stopped.set()
assert monitor.step_complete("Building", 1) is False
try:
    trt.Builder(log)
except TypeError as error:
    assert "nullptr" in str(error)
print(json.dumps([list(log.errors), len(lines), phases, trt.__version__]))
"""
    errors, lines, phases, version = json.loads(tensorrt_bindings.run(bindings, script))
    assert errors == ["an error"]
    assert lines >= 2
    assert phases == ["TensorRT: Building (3 steps)"]
    assert version == bindings.name


def test_contract_of_a_plan_is_valid_json(artifact: Path, tmp_path: Path) -> None:
    build_engine(artifact, tmp_path / "a.trt", config(artifact), simulated_tensorrt(), ORIN, quiet)
    text = (tmp_path / "a.trt.json").read_text(encoding="utf-8")
    assert Contract.from_json(text).to_dict() == json.loads(text)
