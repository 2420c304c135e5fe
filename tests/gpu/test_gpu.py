"""Device memory, ONNX Runtime's CUDA provider and TensorRT on a real GPU, each if it is installed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.conftest import dots, small_contract, write_artifact
from yolopose.export.tensorrt import build_engine, import_tensorrt
from yolopose.export.tensorrt_options import EngineConfig, usual_profile
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.base import Backend, RawPeople, open_backend
from yolopose.runtime.backends.cuda import Cuda, find_gpu
from yolopose.runtime.contract import read_contract
from yolopose.runtime.errors import BackendError, BackendUnavailable

pytestmark = pytest.mark.gpu
HW = (64, 96)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "dots.onnx", small_contract())


@pytest.fixture(scope="module")
def plan(artifact: Path) -> Path:
    path = artifact.with_suffix(".engine")
    config = EngineConfig((usual_profile(read_contract(artifact).input, 4),))
    try:
        build_engine(artifact, path, config, import_tensorrt(), find_gpu(), print)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return path


def batch_of(rows: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([dots(HW, (int(rng.integers(3)), *rng.uniform(10, 50, 2))) for _ in range(rows)])


def thresholds(rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, 1), 0.25, np.float32), np.full((rows, 1), 0.65, np.float32)


def opened(path: Path, backend: str, device: str = "cuda") -> Backend:
    try:
        return open_backend(path, read_contract(path), backend, device)
    except BackendUnavailable as error:
        pytest.skip(str(error))


def assert_close(found: RawPeople, expected: RawPeople) -> None:
    for name, one, other in zip(RawPeople._fields, found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2, err_msg=name)
        assert one.dtype == other.dtype


def test_copies_and_graphs(cuda: Cuda) -> None:
    with cuda.current():
        stream, end_stream = cuda.stream()
        address, free = cuda.allocate(1 << 20)
        source, free_source = cuda.pinned(1 << 20)
        target, free_target = cuda.pinned(1 << 20)

        def copies() -> None:
            cuda.copy_to_device(address, source, stream)
            cuda.copy_to_host(target, address, stream)

        releases = [end_stream, free, free_source, free_target]
        source[:] = np.arange(1 << 20) % 251
        copies()
        cuda.wait(stream)
        np.testing.assert_array_equal(target, source)
        if cuda.has_graphs:
            graph, end_graph = cuda.capture(stream, copies)
            releases.append(end_graph)
            source[:] = 7
            cuda.launch(graph, stream)
            cuda.wait(stream)
            assert (target == 7).all()
        for release in reversed(releases):
            release()


def test_out_of_memory(cuda: Cuda) -> None:
    with cuda.current(), pytest.raises(BackendError, match="out of memory"):
        cuda.allocate(1 << 50)


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime:eager", "tensorrt"])
def test_batches_match_the_cpu(artifact: Path, request: pytest.FixtureRequest, backend: str) -> None:
    path = request.getfixturevalue("plan") if backend == "tensorrt" else artifact
    on_gpu, on_cpu = opened(path, backend), opened(artifact, "onnxruntime", "cpu")
    for seed, rows in enumerate([1, 3, 3, 1, 4, 2, 3, 1, 4]):
        images = batch_of(rows, seed)
        assert_close(on_gpu.infer(images, *thresholds(rows)), on_cpu.infer(images, *thresholds(rows)))
    on_gpu.close()
    on_cpu.close()


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_eight_threads_share_one_estimator(artifact: Path, request: pytest.FixtureRequest, backend: str) -> None:
    path = request.getfixturevalue("plan") if backend == "tensorrt" else artifact
    opened(path, backend).close()
    images = [dots((50 + i % 7, 90 - i % 5), (i % 3, 20 + i % 40, 25)) for i in range(2000)]
    with PoseEstimator(path, backend, "cuda") as estimate:
        alone = [estimate(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            for one, other in zip(alone, pool.map(estimate, images), strict=True):
                np.testing.assert_array_equal(one.keypoints, other.keypoints)


def test_two_slots_run_at_once(plan: Path) -> None:
    backend: Any = opened(plan, "tensorrt")
    images = [batch_of(2, 1), batch_of(2, 2)]
    expected = [backend.infer(each, *thresholds(2)) for each in images]
    pending = [backend.submit(each, *thresholds(2)) for each in images]
    for one, each in zip(pending, expected, strict=True):
        assert_close(backend.collect(one), each)
    backend.close()


def test_pycuda_runs_the_plan(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = opened(plan, "tensorrt")
    expected = default.infer(batch_of(3, 5), *thresholds(3))
    default.close()
    monkeypatch.setenv("YOLOPOSE_CUDA", "pycuda")
    assert_close(opened(plan, "tensorrt").infer(batch_of(3, 5), *thresholds(3)), expected)


def test_device_memory_is_constant(plan: Path) -> None:
    runtime: Any = pytest.importorskip("cuda.bindings.runtime")
    if not hasattr(runtime, "cudaMemGetInfo"):
        pytest.skip("these bindings do not report free memory")

    def free(calls: int, estimate: Callable[[np.ndarray], object]) -> int:
        for _ in range(calls):
            estimate(image)
        return int(runtime.cudaMemGetInfo()[1])

    image = dots(HW, (0, 30, 30))
    with PoseEstimator(plan) as estimate:
        before = free(100, estimate)
        assert abs(before - free(10_000, estimate)) < 32 << 20  # other processes use the GPU as well
