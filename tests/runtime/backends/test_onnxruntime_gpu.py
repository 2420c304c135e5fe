"""ONNX Runtime's GPU half, played: options, bindings and providers are checked, and its CPU provider computes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.runtime.conftest import dots
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends import onnxruntime as onnxruntime_gpu
from yolopose.runtime.backends.base import Backend, open_backend
from yolopose.runtime.backends.onnxruntime import CUDA, TENSORRT, OnnxRuntimeGpuBackend
from yolopose.runtime.contract import PrecisionInfo, read_contract
from yolopose.runtime.errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch

from .test_onnxruntime import thresholds
from .test_tensorrt import assert_equal

HW = (64, 96)


class PlayedSession:
    def __init__(self, played: Played, path: str, options: Any, providers: list[tuple[str, dict[str, str]]]) -> None:
        played.opened.append(providers)
        self._real = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._played, self._names = played, [name for name, _ in providers]
        self.running = 0

    def get_providers(self) -> list[str]:
        active = [name for name in self._names if name not in self._played.inactive]
        return [*active, "CPUExecutionProvider"]

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.running += 1
        assert self.running == 1, "two runs at once"
        if self._played.fails:
            raise RuntimeError(self._played.fails)
        self._played.graphs.append(options.entries.get("gpu_graph_id"))
        self._real.run_with_iobinding(binding)
        self.running -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class PlayedRunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        assert onnxruntime.RunOptions().add_run_config_entry(key, value) is None  # the real one takes it
        self.entries[key] = value


class PlayedValue(onnxruntime.OrtValue):  # type: ignore[misc]
    def numpy(self) -> np.ndarray:
        found: np.ndarray = super().numpy()
        return found.copy()  # as from a GPU


class Played:
    """Stands for the module."""

    def __init__(self) -> None:
        self.opened: list[list[tuple[str, dict[str, str]]]] = []
        self.graphs: list[str | None] = []
        self.inactive: tuple[str, ...] = ()
        self.fails = self.opens = ""
        self.buffers = 0
        self.OrtValue, self.RunOptions, self.SessionOptions = self, PlayedRunOptions, onnxruntime.SessionOptions
        self.__version__ = onnxruntime.__version__

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, "CPUExecutionProvider"]  # as the GPU build says everywhere, without a GPU too

    def ortvalue_from_shape_and_type(self, shape: list[int], dtype: Any, device: str, index: int) -> Any:
        assert (device, index) == ("cuda", 0)
        self.buffers += 1
        return PlayedValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)

    def InferenceSession(self, path: str, options: Any, providers: Any, enable_fallback: int) -> PlayedSession:
        assert not enable_fallback
        if self.opens:
            raise RuntimeError(self.opens)
        return PlayedSession(self, path, options, providers)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    found = Played()
    monkeypatch.setattr(onnxruntime_gpu, "import_onnxruntime", lambda: found)
    monkeypatch.delenv(onnxruntime_gpu.NO_TF32, raising=False)
    return found


def opened(artifact: Path, backend: str = "onnxruntime", **more: Any) -> Backend:
    return open_backend(artifact, read_contract(artifact), backend, **{"device": "cuda", **more})


def test_every_batch_has_its_buffers_and_its_graph(
    played: Played, artifact: Path, draw_dots: Callable[..., np.ndarray]
) -> None:
    backend, cpu = opened(artifact), open_backend(artifact, read_contract(artifact))
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
    assert played.graphs == ["1", "3", "1", "3", "2"]
    assert played.buffers == 3 * 10
    assert played.opened == [[(CUDA, {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "1"})]]
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(images, *thresholds(2))


def test_eager_has_no_graphs(played: Played, artifact: Path) -> None:
    backend = opened(artifact, "onnxruntime:eager", device=None)
    backend.infer(np.zeros((1, *HW, 3), np.uint8), *thresholds(1))
    assert played.opened[0][0][1]["enable_cuda_graph"] == "0"
    assert played.graphs == [None]
    assert backend.name == "onnxruntime:eager"


def test_one_call_runs_at_a_time(played: Played, artifact: Path) -> None:
    images = [dots((50 + i % 7, 90), (i % 3, 20 + i % 40, 25)) for i in range(200)]
    with PoseEstimator(artifact, device="cuda") as estimate:
        alone = [estimate(image) for image in images]
        assert set(played.graphs) == {"1"}
        played.graphs.clear()
        with ThreadPoolExecutor(8) as pool:
            for one, other in zip(alone, pool.map(estimate, images), strict=True):
                np.testing.assert_array_equal(one.keypoints, other.keypoints)
        assert set(played.graphs) == {"-1"}  # a graph belongs to the thread that captured it


def test_the_tensorrt_provider(played: Played, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailable, match=r"float32 as TF32.*NVIDIA_TF32_OVERRIDE=0"):
        opened(artifact, "onnxruntime:tensorrt")
    monkeypatch.setenv(onnxruntime_gpu.NO_TF32, "0")
    backend = opened(artifact, "onnxruntime:tensorrt", device=None)
    backend.infer(np.zeros((1, *HW, 3), np.uint8), *thresholds(1))
    (tensorrt, options), (cuda, _) = played.opened[0]
    assert (tensorrt, cuda) == (TENSORRT, CUDA)
    assert options["trt_engine_cache_path"] == str(artifact) + ".trt-cache"
    assert options["trt_int8_enable"] == "False"
    played.inactive = (TENSORRT,)
    with pytest.raises(
        BackendUnavailable, match=rf"{TENSORRT}\) was asked for, but {CUDA}, CPUExecutionProvider is active"
    ):
        opened(artifact, "onnxruntime:tensorrt")
    played.inactive = ()
    for_half = replace(read_contract(artifact), precision=PrecisionInfo("float16", "float16"))
    with pytest.raises(EngineMismatch, match="coordinates in float16 too"):
        open_backend(artifact, for_half, "onnxruntime:tensorrt")
    quantized = replace(read_contract(artifact), precision=PrecisionInfo("int8", "int8", "tensorrt"))
    open_backend(artifact, quantized, "onnxruntime:tensorrt")
    assert played.opened[-1][0][1]["trt_int8_enable"] == "True"
    with pytest.raises(EngineMismatch, match="quantized for tensorrt"):
        open_backend(artifact, quantized, "onnxruntime", device="cuda")


def test_cuda_that_is_not_active(played: Played, artifact: Path) -> None:
    played.inactive = (CUDA,)
    with pytest.raises(BackendUnavailable, match=rf"device cuda:0 \({CUDA}\) was asked for, but CPUExecutionProvider"):
        opened(artifact)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("CUDA graph capture failed", "onnxruntime:eager runs without CUDA graphs"),
        ("BFCArena: Failed to allocate memory", "out of GPU memory: use a smaller batch or size"),
        ("cudnn", r"failed on images of \(1, 64, 96, 3\): cudnn$"),
    ],
)
def test_runs_that_fail(played: Played, artifact: Path, fails: str, said: str) -> None:
    backend = opened(artifact)
    played.fails = fails
    with pytest.raises(BackendError, match=said):
        backend.infer(np.zeros((1, *HW, 3), np.uint8), *thresholds(1))


@pytest.mark.parametrize(
    ("opens", "error", "said"),
    [
        (f"cannot use the graph capture feature: nodes not on {CUDA}", BackendError, "onnxruntime:eager runs without"),
        (f"{CUDA} failed to load libcudnn", BackendUnavailable, "did not start on cuda:0"),
        ("protobuf parsing failed", ArtifactError, "cannot load"),
    ],
)
def test_sessions_that_do_not_open(
    played: Played, artifact: Path, opens: str, error: type[Exception], said: str
) -> None:
    played.opens = opens
    with pytest.raises(error, match=said) as caught:
        opened(artifact)
    assert type(caught.value) is error  # what a graph cannot hold is a failure, not something that is not there


def test_images_of_another_size(played: Played, artifact: Path) -> None:
    with pytest.raises(BackendError, match=r"opened for \(64, 96, 3\) uint8"):
        opened(artifact).infer(np.zeros((1, 64, 64, 3), np.uint8), *thresholds(1))


def test_a_graph_unlike_its_contract(played: Played, artifact: Path) -> None:
    contract = read_contract(artifact)
    with pytest.raises(ArtifactError, match="output boxes"):
        open_backend(artifact, replace(contract, nms=replace(contract.nms, max_people=2)), device="cuda")


def test_modes_are_for_gpus(artifact: Path) -> None:
    with pytest.raises(ValueError, match="onnxruntime:eager runs on cuda, not on cpu"):
        opened(artifact, "onnxruntime:eager", device="cpu")


def test_the_bare_run(played: Played, artifact: Path) -> None:
    backend = opened(artifact)
    assert isinstance(backend, OnnxRuntimeGpuBackend)
    run = backend.bare(np.zeros((2, *HW, 3), np.uint8), *thresholds(2))
    run()
    assert played.graphs == ["2", "2"]
    assert os.environ.get(onnxruntime_gpu.NO_TF32) is None
