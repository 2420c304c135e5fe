"""ONNX Runtime on the CPU, and on a simulated GPU."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.runtime.conftest import dots
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends import onnxruntime as backend_module
from yolopose.runtime.backends.base import Backend, open_backend
from yolopose.runtime.backends.onnxruntime import (
    CUDA,
    TENSORRT,
    OnnxRuntimeBackend,
    OnnxRuntimeGpuBackend,
    open_session,
    session_options,
)
from yolopose.runtime.contract import NmsInfo, PrecisionInfo, Range, read_contract
from yolopose.runtime.errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch
from yolopose.runtime.skeleton import LSP_14

from .plans import HW, arrays, assert_equal, thresholds


def test_sessions_open_from_a_path_or_content(artifact: Path) -> None:
    feed = {
        "images": np.full((1, *HW, 3), 255, np.uint8),
        **dict(zip(("score_threshold", "iou_threshold"), thresholds(1), strict=True)),
    }
    default, fixed = open_session(artifact.read_bytes()), open_session(artifact, session_options(HW, 1))
    for one, other in zip(default.run(None, feed), fixed.run(None, feed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert default.get_providers() == ["CPUExecutionProvider"]
    assert default.get_session_options().log_severity_level == 3
    assert fixed.get_session_options().intra_op_num_threads == 1
    with pytest.raises(Exception, match="Got: 32 Expected: 64"):
        fixed.run(None, {**feed, "images": feed["images"][:, :32]})


def test_outputs_have_the_shapes_and_types_of_the_contract(artifact: Path) -> None:
    backend = open_backend(artifact, read_contract(artifact), threads=1)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device) == ("onnxruntime", "cpu")
    assert backend.version
    raw = backend.infer(np.zeros((2, 64, 96, 3), np.uint8), *thresholds(2))
    assert [array.shape for array in arrays(raw)] == [(2,), (2, 3, 4), (2, 3), (2, 3), (2, 3, 17, 3), (2,), (2,)]
    types = [np.int32, np.float32, np.float32, np.int32, np.float32, np.int32, np.int32]
    assert [array.dtype for array in arrays(raw)] == types
    assert raw.num_people.tolist() == [0, 0]
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8), *thresholds(1))


def test_results_belong_to_the_caller(artifact: Path, draw_dots: Callable[..., np.ndarray]) -> None:
    backend = open_backend(artifact, read_contract(artifact), threads=1)
    first = backend.infer(draw_dots((64, 96), (0, 30, 20))[None], *thresholds(1))
    boxes = first.boxes.copy()
    backend.infer(draw_dots((64, 96), (0, 70, 50))[None], *thresholds(1))
    assert np.array_equal(first.boxes, boxes)


def test_image_size_is_fixed(artifact: Path) -> None:
    backend = open_backend(artifact, read_contract(artifact), shape_hw=(64, 64))
    with pytest.raises(BackendError, match=r"failed on images of \(1, 64, 96, 3\) uint8"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8), *thresholds(1))


def test_threads_reach_the_session(artifact: Path) -> None:
    backend = open_backend(artifact, read_contract(artifact), threads=2)
    assert isinstance(backend, OnnxRuntimeBackend)
    assert backend.session is not None
    assert backend.session.get_session_options().intra_op_num_threads == 2


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_rejects_an_artifact_for_another_backend(target: str, artifact: Path) -> None:
    contract = replace(read_contract(artifact), precision=PrecisionInfo("int8", "int8", target))
    with pytest.raises(EngineMismatch, match=f"quantized for {target} .* --target cpu"):
        open_backend(artifact, contract, "onnxruntime")


def test_rejects_a_corrupt_graph(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(ArtifactError, match=r"cannot load .*bad\.onnx") as caught:
        open_backend(tmp_path / "bad.onnx", read_contract(artifact))
    assert caught.value.__cause__ is not None


def test_rejects_a_graph_that_does_not_match_its_contract(artifact: Path, tmp_path: Path) -> None:
    contract = read_contract(artifact)
    with pytest.raises(ArtifactError, match=r"output boxes should be \(batch, \*\[2, 4\]\) float"):
        open_backend(artifact, replace(contract, nms=NmsInfo(max_people=2)))
    with pytest.raises(ArtifactError, match="output keypoints should be"):
        open_backend(artifact, replace(contract, skeleton=LSP_14))
    model = onnx.load(artifact)
    del model.graph.output[-1]
    onnx.save(model, tmp_path / "short.onnx")
    with pytest.raises(ArtifactError, match=r"output flags should be .* is absent"):
        open_backend(tmp_path / "short.onnx", contract)
    other = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1])],
            [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match=r"its inputs are \{'x': 'float32'\}"):
        open_backend(tmp_path / "other.onnx", contract)


def test_artifact_of_fixed_shape(build_artifact: Callable[..., Path]) -> None:
    path = build_artifact(height=Range(64, 64, 64), width=Range(96, 96, 96), batch=Range(2, 2, 2))
    backend = open_backend(path, read_contract(path))
    assert backend.infer(np.zeros((2, 64, 96, 3), np.uint8), *thresholds(2)).boxes.shape == (2, 3, 4)


def test_onnxruntime_is_not_installed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "yolopose\[cpu\]"'):
        open_backend(artifact, read_contract(artifact))


def test_onnxruntime_installation_is_broken(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(BackendUnavailable, match="installation of ONNX Runtime is broken"):
        open_backend(artifact, read_contract(artifact))


def test_build_without_cuda(artifact: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(
        BackendUnavailable, match=r"device cuda:0 \(CUDAExecutionProvider\) was requested, but .*CPUExecutionProvider"
    ) as caught:
        open_backend(artifact, read_contract(artifact), device="cuda")
    message = str(caught.value)
    assert (
        0
        < message.index("no NVIDIA GPU")
        < message.index("use device cpu")
        < message.index("pip uninstall onnxruntime")
    )


def test_fallback_to_the_cpu_is_an_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime with CUDA but without its libraries makes a CPU session and raises nothing."""
    real = onnxruntime.InferenceSession
    requested = []

    def fallback(path: str, options: object, providers: list, enable_fallback: int) -> object:
        requested.extend(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fallback)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(
        BackendUnavailable,
        match=r"device cuda:1 \(CUDAExecutionProvider\) was requested, but CPU.* is active.*no NVIDIA.*cuDNN",
    ):
        open_backend(artifact, read_contract(artifact), device="cuda:1")
    assert requested == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1"})]


# A simulated GPU


class SimulatedSession:
    def __init__(
        self, runtime: SimulatedOnnxRuntime, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]
    ) -> None:
        runtime.opened.append(providers)
        self._real = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._runtime, self._names = runtime, [name for name, _ in providers]
        self.running = 0

    def get_providers(self) -> list[str]:
        active = [name for name in self._names if name not in self._runtime.inactive]
        return [*active, "CPUExecutionProvider"]

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.running += 1
        assert self.running == 1, "two runs at once"
        if self._runtime.fails:
            raise RuntimeError(self._runtime.fails)
        self._runtime.graphs.append(options.entries.get("gpu_graph_id"))
        self._real.run_with_iobinding(binding)
        self.running -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class SimulatedRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        assert onnxruntime.RunOptions().add_run_config_entry(key, value) is None  # the real one accepts it
        self.entries[key] = value


class SimulatedValue(onnxruntime.OrtValue):  # type: ignore[misc]
    def numpy(self) -> np.ndarray:
        found: np.ndarray = super().numpy()
        return found.copy()  # as from a GPU


class SimulatedOnnxRuntime:
    """ONNX Runtime with GPU providers, whose CPU provider computes; options, bindings and providers are checked."""

    def __init__(self) -> None:
        self.opened: list[list[tuple[str, dict[str, str]]]] = []
        self.graphs: list[str | None] = []
        self.inactive: tuple[str, ...] = ()
        self.fails = self.opens = ""
        self.buffers = 0
        self.OrtValue, self.RunOptions, self.SessionOptions = self, SimulatedRunOptions, onnxruntime.SessionOptions
        self.__version__ = onnxruntime.__version__

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, "CPUExecutionProvider"]  # as in the GPU build, also on a machine without a GPU

    def ortvalue_from_shape_and_type(self, shape: list[int], dtype: Any, device: str, index: int) -> Any:
        assert (device, index) == ("cuda", 0)
        self.buffers += 1
        return SimulatedValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)

    def InferenceSession(self, path: str, options: Any, providers: Any, enable_fallback: int) -> SimulatedSession:
        assert not enable_fallback
        if self.opens:
            raise RuntimeError(self.opens)
        return SimulatedSession(self, path, options, providers)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> SimulatedOnnxRuntime:
    found = SimulatedOnnxRuntime()
    monkeypatch.setattr(backend_module, "import_onnxruntime", lambda: found)
    monkeypatch.delenv(backend_module.NO_TF32, raising=False)
    return found


def opened_on_gpu(artifact: Path, backend: str = "onnxruntime", **more: Any) -> Backend:
    return open_backend(artifact, read_contract(artifact), backend, **{"device": "cuda", **more})


def test_every_batch_size_has_its_buffers_and_graph(
    runtime: SimulatedOnnxRuntime, artifact: Path, draw_dots: Callable[..., np.ndarray]
) -> None:
    backend, cpu = opened_on_gpu(artifact), open_backend(artifact, read_contract(artifact))
    assert isinstance(backend, OnnxRuntimeGpuBackend)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device) == ("onnxruntime", "cuda:0")
    kept = []
    for i, rows in enumerate([1, 3, 1, 3, 2]):
        images = np.stack([draw_dots(HW, (k % 3, 20 + 10 * i, 40)) for k in range(rows)])
        expected = cpu.infer(images, *thresholds(rows))
        kept.append((backend.infer(images, *thresholds(rows)), expected))
    for found, expected in kept:  # none was overwritten by a later call
        assert_equal(found, expected)
    assert runtime.graphs == ["1", "3", "1", "3", "2"]
    assert runtime.buffers == 3 * 10
    options = {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "1"}
    assert runtime.opened == [[(CUDA, options)], [("CPUExecutionProvider", {})]]
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(images, *thresholds(2))


def test_eager_has_no_graphs(runtime: SimulatedOnnxRuntime, artifact: Path) -> None:
    backend = opened_on_gpu(artifact, "onnxruntime:eager", device=None)
    backend.infer(np.zeros((1, *HW, 3), np.uint8), *thresholds(1))
    assert runtime.opened[0][0][1]["enable_cuda_graph"] == "0"
    assert runtime.graphs == [None]
    assert backend.name == "onnxruntime:eager"


def test_one_gpu_call_runs_at_a_time(runtime: SimulatedOnnxRuntime, artifact: Path) -> None:
    images = [dots((50 + i % 7, 90), (i % 3, 20 + i % 40, 25)) for i in range(200)]
    with PoseEstimator(artifact, device="cuda") as estimate:
        alone = [estimate(image) for image in images]
        assert set(runtime.graphs) == {"1"}
        runtime.graphs.clear()
        with ThreadPoolExecutor(8) as pool:
            for one, other in zip(alone, pool.map(estimate, images), strict=True):
                np.testing.assert_array_equal(one.keypoints, other.keypoints)
        assert set(runtime.graphs) == {"-1"}  # a graph belongs to the thread that captured it


def test_tensorrt_provider(runtime: SimulatedOnnxRuntime, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match=r"float32 as TF32.*NVIDIA_TF32_OVERRIDE=0"):
        opened_on_gpu(artifact, "onnxruntime:tensorrt")
    monkeypatch.setenv(backend_module.NO_TF32, "0")
    backend = opened_on_gpu(artifact, "onnxruntime:tensorrt", device=None)
    backend.infer(np.zeros((1, *HW, 3), np.uint8), *thresholds(1))
    (tensorrt, options), (cuda, _) = runtime.opened[0]
    assert (tensorrt, cuda) == (TENSORRT, CUDA)
    assert options["trt_engine_cache_path"] == str(artifact) + ".trt-cache"
    assert options["trt_int8_enable"] == "False"
    runtime.inactive = (TENSORRT,)
    with pytest.raises(
        BackendUnavailable, match=rf"{TENSORRT}\) was requested, but {CUDA}, CPUExecutionProvider is active"
    ):
        opened_on_gpu(artifact, "onnxruntime:tensorrt")
    runtime.inactive = ()
    half = replace(read_contract(artifact), precision=PrecisionInfo("float16", "float16"))
    with pytest.raises(EngineMismatch, match="coordinates in float16 too"):
        open_backend(artifact, half, "onnxruntime:tensorrt")
    quantized = replace(read_contract(artifact), precision=PrecisionInfo("int8", "int8", "tensorrt"))
    open_backend(artifact, quantized, "onnxruntime:tensorrt")
    assert runtime.opened[-1][0][1]["trt_int8_enable"] == "True"
    with pytest.raises(EngineMismatch, match="quantized for tensorrt"):
        open_backend(artifact, quantized, "onnxruntime", device="cuda")


def test_inactive_cuda_is_an_error(runtime: SimulatedOnnxRuntime, artifact: Path) -> None:
    runtime.inactive = (CUDA,)
    with pytest.raises(BackendUnavailable, match=rf"device cuda:0 \({CUDA}\) was requested, but CPUExecutionProvider"):
        opened_on_gpu(artifact)


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("CUDA graph capture failed", "onnxruntime:eager runs without CUDA graphs"),
        ("BFCArena: Failed to allocate memory", "out of GPU memory: use a smaller batch or size"),
        ("cudnn", r"failed on images of \(1, 64, 96, 3\): cudnn$"),
    ],
)
def test_failed_runs(runtime: SimulatedOnnxRuntime, artifact: Path, fails: str, message: str) -> None:
    backend = opened_on_gpu(artifact)
    runtime.fails = fails
    with pytest.raises(BackendError, match=message):
        backend.infer(np.zeros((1, *HW, 3), np.uint8), *thresholds(1))


@pytest.mark.parametrize(
    ("opens", "error", "message"),
    [
        (f"cannot use the graph capture feature: nodes not on {CUDA}", BackendError, "onnxruntime:eager runs without"),
        (f"{CUDA} failed to load libcudnn", BackendUnavailable, "did not start on cuda:0"),
        ("protobuf parsing failed", ArtifactError, "cannot load"),
    ],
)
def test_failed_sessions(
    runtime: SimulatedOnnxRuntime, artifact: Path, opens: str, error: type[Exception], message: str
) -> None:
    runtime.opens = opens
    with pytest.raises(error, match=message) as caught:
        opened_on_gpu(artifact)
    assert type(caught.value) is error  # a graph that cannot be captured is a failure, not something unavailable


def test_rejects_images_of_another_size_on_the_gpu(runtime: SimulatedOnnxRuntime, artifact: Path) -> None:
    with pytest.raises(BackendError, match=r"opened for \(64, 96, 3\) uint8"):
        opened_on_gpu(artifact).infer(np.zeros((1, 64, 64, 3), np.uint8), *thresholds(1))


def test_rejects_a_graph_that_does_not_match_its_contract_on_the_gpu(
    runtime: SimulatedOnnxRuntime, artifact: Path
) -> None:
    contract = read_contract(artifact)
    with pytest.raises(ArtifactError, match="output boxes"):
        open_backend(artifact, replace(contract, nms=replace(contract.nms, max_people=2)), device="cuda")


def test_modes_need_a_gpu(artifact: Path) -> None:
    with pytest.raises(ValueError, match="onnxruntime:eager runs on cuda, not on cpu"):
        opened_on_gpu(artifact, "onnxruntime:eager", device="cpu")


def test_bare_run(runtime: SimulatedOnnxRuntime, artifact: Path) -> None:
    backend = opened_on_gpu(artifact)
    assert isinstance(backend, OnnxRuntimeGpuBackend)
    run = backend.bare(np.zeros((2, *HW, 3), np.uint8), *thresholds(2))
    run()
    assert runtime.graphs == ["2", "2"]
    assert os.environ.get(backend_module.NO_TF32) is None
