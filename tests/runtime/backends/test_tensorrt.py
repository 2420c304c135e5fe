"""The TensorRT backend on a simulated GPU: buffers, graphs, slots, threads, contexts, and what its errors say."""

from __future__ import annotations

import gc
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from tests.runtime.conftest import dots
from tests.simulated_gpu import SimulatedGpu
from tests.simulated_gpu.tensorrt import simulated_tensorrt
from yolopose.export.tensorrt_options import ShapeProfile
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.base import Backend, RawPeople, open_backend
from yolopose.runtime.backends.tensorrt import PendingResult, TensorRtBackend
from yolopose.runtime.contract import Range, read_contract
from yolopose.runtime.errors import ArtifactError, BackendError, BackendUnavailable

from .plans import HW, arrays, assert_equal, batch_of, built, opened, thresholds


@pytest.fixture
def expected(artifact: Path) -> Callable[[np.ndarray], RawPeople]:
    """What ONNX Runtime finds with the same artifact."""
    backend = open_backend(artifact, read_contract(artifact), threads=1)
    return lambda images: backend.infer(images, *thresholds(len(images)))


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_batches_of_every_size_match_onnxruntime(
    plan: Path, expected: Callable[[np.ndarray], RawPeople], library: str
) -> None:
    backend = opened(plan, cuda=library)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device, backend.version) == ("tensorrt", "cuda:0", "10.16.1.11")
    for seed, rows in enumerate([1, 3, 3, 1, 4, 2, 3, 1, 4]):  # first run, repeated as a graph, others in between
        images = batch_of(rows, seed)
        assert_equal(backend.infer(images, *thresholds(rows)), expected(images))
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(batch_of(1), *thresholds(1))


def test_results_are_copies_and_thresholds_are_used(plan: Path) -> None:
    backend = opened(plan)
    first = backend.infer(batch_of(1), *thresholds(1))
    before = [array.copy() for array in arrays(first)]
    images = np.zeros((1, *HW, 3), np.uint8)
    empty = backend.infer(images, *thresholds(1))
    assert empty.num_people.tolist() == [0]
    assert all(array.flags.owndata and array.flags.writeable for array in arrays(first))
    assert_equal(first, RawPeople(*before))
    high = np.full((1, 1), 0.95, np.float32)
    assert backend.infer(images, high, high).flags.tolist() == [4]


def test_first_run_is_eager_then_a_graph_repeats(gpu: SimulatedGpu, plan: Path) -> None:
    backend = opened(plan)
    gpu.calls.clear()
    backend.infer(batch_of(2), *thresholds(2))
    # It runs once and is waited for before it is captured.
    assert gpu.calls == ["in", "run", "out", "wait", "begin capture", "in", "run", "out", "end capture"]
    gpu.calls.clear()
    backend.infer(batch_of(2), *thresholds(2))
    assert gpu.calls == ["launch", "wait"]
    assert gpu.used() == {"device": 3, "host": 2, "streams": 1, "graphs": 1}
    backend.close()
    assert not gpu.used()
    without = opened(plan, graphs=False)
    gpu.calls.clear()
    for _ in range(2):
        without.infer(batch_of(1), *thresholds(1))
    assert gpu.calls == ["in", "run", "out", "wait"] * 2


def test_bare_run_is_only_the_graph(gpu: SimulatedGpu, plan: Path) -> None:
    backend = opened(plan)
    run = backend.bare(batch_of(2), *thresholds(2))
    gpu.calls.clear()
    run()
    assert gpu.calls == ["launch", "wait"]
    assert_equal(backend.infer(batch_of(2), *thresholds(2)), backend.infer(batch_of(2), *thresholds(2)))


def test_backend_without_graphs(gpu: SimulatedGpu, plan: Path) -> None:
    with PoseEstimator(plan, "tensorrt:eager") as estimate:
        assert estimate.backend.name == "tensorrt:eager"
        gpu.calls.clear()
        for _ in range(2):
            estimate(dots(HW, (0, 30, 30)))
        assert gpu.calls == ["in", "run", "out", "wait"] * 2


def test_only_the_rows_of_a_batch_are_copied(gpu: SimulatedGpu, plan: Path) -> None:
    backend = opened(plan)
    copied: list[int] = []
    real = backend._cuda.copy_to_device
    backend._cuda.copy_to_device = lambda address, source, stream: (  # type: ignore[method-assign]
        copied.append(source.nbytes), real(address, source, stream)
    )[1]  # fmt: skip
    backend.infer(batch_of(1), *thresholds(1))
    assert HW[0] * HW[1] * 3 < copied[0] < HW[0] * HW[1] * 3 + 1024


def test_two_slots_run_at_once(gpu: SimulatedGpu, plan: Path, expected: Callable[[np.ndarray], RawPeople]) -> None:
    backend = opened(plan)
    for round_ in range(3):
        images = [batch_of(1 + i, 10 * round_ + i) for i in range(2)]
        copies = [each.copy() for each in images]
        results = [backend.submit(each, *thresholds(len(each))) for each in copies]
        for each in copies:
            each[...] = 0  # submit() has copied what it needs
        with pytest.raises(ValueError, match="all 2 slots hold results that are not collected: call collect"):
            backend.submit(images[0], *thresholds(1))
        for pending, each in reversed(list(zip(results, images, strict=True))):
            assert_equal(backend.collect(pending), expected(each))
        with pytest.raises(ValueError, match="already collected"):
            backend.collect(results[0])
    assert gpu.used()["streams"] == 2
    pending = backend.submit(images[0], *thresholds(1))
    backend.close()  # the pending result can still be collected
    assert_equal(backend.collect(pending), expected(images[0]))


def test_dropped_result_releases_its_slot(gpu: SimulatedGpu, plan: Path) -> None:
    backend = opened(plan)
    for _ in range(5):
        backend.submit(batch_of(1), *thresholds(1))  # dropped
        gc.collect()
    kept = backend.submit(batch_of(1), *thresholds(1))
    backend.collect(kept)
    backend.close()
    assert not gpu.used()  # though the result still exists
    with pytest.raises(ValueError, match="already collected"):
        backend.collect(kept)


def test_result_may_be_collected_by_another_thread(
    gpu: SimulatedGpu, plan: Path, expected: Callable[[np.ndarray], RawPeople]
) -> None:
    backend = opened(plan)
    work: SimpleQueue[Any] = SimpleQueue()
    found: list[RawPeople] = []

    def collector() -> None:
        while (pending := work.get()) is not None:
            found.append(backend.collect(pending))

    thread = threading.Thread(target=collector)
    thread.start()
    batches = [batch_of(1 + i % 3, i) for i in range(30)]
    for batch in batches:
        while len(found) + 1 < len(batches) and work.qsize() > 0:
            time.sleep(0.001)
        work.put(submitted(backend, batch))
    work.put(None)
    thread.join()
    for one, batch in zip(found, batches, strict=True):
        assert_equal(one, expected(batch))


def submitted(backend: TensorRtBackend, batch: np.ndarray) -> PendingResult:
    """Tries again while the other thread is slow: this thread may hold both slots."""
    while True:
        try:
            return backend.submit(batch, *thresholds(len(batch)))
        except ValueError:
            time.sleep(0.001)


def test_deadlock_of_two_threads_is_an_error(gpu: SimulatedGpu, plan: Path) -> None:
    """Each thread holds one slot and wants another."""
    backend = opened(plan)
    both = threading.Barrier(2)

    def greedy(_: int) -> str:
        first = backend.submit(batch_of(1), *thresholds(1))
        both.wait()
        try:
            second = backend.submit(batch_of(1), *thresholds(1))
        except ValueError as error:
            backend.collect(first)
            return str(error)
        backend.collect(first)
        backend.collect(second)
        return ""

    with ThreadPoolExecutor(2) as pool:
        messages = sorted(pool.map(greedy, range(2)))
    assert messages == ["", "all 2 slots hold results that are not collected: call collect() first"]


def test_no_thread_waits_forever_when_the_gpu_fails(gpu: SimulatedGpu, plan: Path) -> None:
    backend = opened(plan)
    for name in ("cudaStreamSynchronize", "cudaMalloc"):
        gpu.fails[name] = 700

    def one(_: int) -> str:
        try:
            backend.infer(batch_of(1), *thresholds(1))
        except BackendError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        assert all("cudaErrorIllegalAddress" in message for message in pool.map(one, range(24)))


@pytest.mark.parametrize("library", ["cuda-python", "pycuda"])
def test_eight_threads_share_one_estimator(
    gpu: SimulatedGpu, plan: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setenv("YOLOPOSE_CUDA", library)
    images = [dots((50 + i % 7, 90 - i % 5), (i % 3, 20 + i % 40, 25)) for i in range(2000)]
    with PoseEstimator(plan) as estimate:
        alone = [estimate(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(estimate, images))
        assert gpu.used()["streams"] <= 2
        batches = estimate(images[:10])  # more than the plan takes at once
    for one, other in zip(alone, [*together, *batches], strict=False):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.scores, other.scores)
    for one, other in zip(alone, batches, strict=False):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_memory_is_constant_over_ten_thousand_calls(gpu: SimulatedGpu, plan: Path) -> None:
    with PoseEstimator(plan) as estimate:
        image = dots(HW, (0, 30, 30))

        def calls(count: int) -> tuple[dict[str, int], int]:
            for _ in range(count):
                estimate(image)
                gpu.calls.clear()
            gc.collect()
            return gpu.used(), tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            used, before = calls(100)
            assert calls(9900)[0] == used
            assert tracemalloc.get_traced_memory()[0] - before < 100_000  # one object per call would be half a megabyte
        finally:
            tracemalloc.stop()


def test_estimator_that_is_not_closed(gpu: SimulatedGpu, plan: Path) -> None:
    estimate = PoseEstimator(plan)
    estimate(dots(HW, (0, 30, 30)))
    assert gpu.used()
    del estimate
    gc.collect()
    assert not gpu.used()


def test_context_of_the_application_stays_current(gpu: SimulatedGpu, plan: Path) -> None:
    gpu.contexts.add(77)
    gpu.context = 77
    backend = opened(plan)
    assert gpu.context == 77
    backend.infer(batch_of(1), *thresholds(1))
    with pytest.raises(BackendError):
        backend.infer(batch_of(5), *thresholds(5))
    assert gpu.context == 77
    backend.close()
    assert gpu.context == 77
    gpu.context = 0


def test_pycuda_uses_the_context_of_the_application(gpu: SimulatedGpu, plan: Path) -> None:
    import pycuda.driver as driver

    own = driver.Device(0).make_context()
    backend = opened(plan, cuda="pycuda")
    seen: list[int] = []
    real = backend._cuda.wait
    backend._cuda.wait = lambda stream: (seen.append(gpu.context), real(stream))[1]  # type: ignore[method-assign]
    backend.infer(batch_of(1), *thresholds(1))
    thread = threading.Thread(target=backend.infer, args=(batch_of(1), *thresholds(1)))
    thread.start()
    thread.join()
    assert seen == [own.handle] * 2
    assert driver.Context.get_current() == own
    with pytest.raises(
        BackendUnavailable, match="GPU 1 was requested, but the application's context is on another GPU"
    ):
        opened(plan, cuda="pycuda", device="cuda:1")
    backend.close()
    late = opened(plan, cuda="pycuda")
    late.infer(batch_of(1), *thresholds(1))
    late.close()
    driver.Context.pop()
    own.detach()


# Errors


def test_rejects_a_batch_that_no_profile_accepts(gpu: SimulatedGpu, plan: Path) -> None:
    backend = opened(plan)
    with pytest.raises(BackendError, match=r"\(5, 64, 96, 3\) uint8: the plan was opened for 1 to 4 of \(64, 96, 3\)"):
        backend.infer(batch_of(5), *thresholds(5))
    with pytest.raises(BackendError, match="float32"):
        backend.infer(batch_of(1).astype(np.float32), *thresholds(1))  # type: ignore[arg-type]
    backend.infer(batch_of(4), *thresholds(4))


def test_profile_is_chosen_by_image_size(gpu: SimulatedGpu, artifact: Path, tmp_path: Path) -> None:
    small = ShapeProfile(Range(1, 1, 2), Range(64, 64, 64), Range(64, 64, 64))
    large = ShapeProfile(Range(1, 2, 3), Range(128, 128, 192), Range(128, 128, 192))
    path = built(artifact, tmp_path / "two.engine", profiles=(small, large))
    given = read_contract(path).input
    assert (given.height, given.width, given.batch) == (Range(64, 64, 192, 32), Range(64, 64, 192, 32), Range(1, 1, 3))
    for size, most in (((64, 64), 2), ((128, 192), 3)):
        backend = opened(path, shape_hw=size)
        assert backend.batch.max == most
        assert (
            backend.infer(np.full((most, *size, 3), 255, np.uint8), *thresholds(most)).num_people.tolist() == [3] * most
        )
        backend.close()
    with pytest.raises(ValueError, match="takes 96x64; they take 64x64 to 64x64, 128x128 to 192x192"):
        opened(path, shape_hw=(96, 64))
    with pytest.raises(ValueError, match="imgsz: height 256 is not legal"):
        PoseEstimator(path, imgsz=256)


def test_profile_is_chosen_by_batch_size(
    gpu: SimulatedGpu, artifact: Path, tmp_path: Path, expected: Callable[[np.ndarray], RawPeople]
) -> None:
    """Each batch uses the profile tuned for it; a list of images is split and padded to accepted batches."""
    given = read_contract(artifact).input
    size = {"height": Range(64, 64, 64), "width": Range(96, 96, 96)}
    few, many = (ShapeProfile(Range(*batch), **size) for batch in ((1, 1, 1), (2, 4, 4)))
    path = built(artifact, tmp_path / "two.engine", profiles=(few, many))
    backend = opened(path)
    assert (backend.batch, given.batch.max) == (Range(1, 1, 4), 4)
    for rows in (1, 2, 4, 1, 3):
        assert_equal(backend.infer(batch_of(rows), *thresholds(rows)), expected(batch_of(rows)))
    slot = backend._slots._free[0]
    assert {rows: state.context._profile for rows, state in slot._states.items()} == {1: 0, 2: 1, 4: 1, 3: 1}
    backend.close()
    images = [dots(HW, (i % 3, 30, 30)) for i in range(6)]
    by_size = (
        ShapeProfile(Range(2, 2, 2), **size),
        ShapeProfile(Range(1, 1, 4), Range(128, 128, 128), Range(96, 96, 96)),
    )
    with PoseEstimator(built(artifact, tmp_path / "sizes.engine", profiles=by_size)) as estimate:
        assert [len(people) for people in estimate(images)] == [1] * 6
        assert len(estimate(images[0])) == 1


def test_dla_core_reaches_the_runtime(
    gpu: SimulatedGpu, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = simulated_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    opened(built(artifact, tmp_path / "dla.engine", dla=1)).close()
    assert trt.made["settings"]["DLA_core"] == 1


@pytest.mark.parametrize(
    ("fails", "when", "message"),
    [
        ("null", "open", "TensorRT could not create a Runtime"),
        ("load", "open", "cannot load .*magicTag does not match"),
        ("context", "infer", "created no execution context.*cudaMalloc of 4096 failed"),
        ("run", "infer", "could not run the plan: Cask convolution execution failed"),
    ],
)
def test_errors_repeat_the_message_of_tensorrt(
    gpu: SimulatedGpu, plan: Path, monkeypatch: pytest.MonkeyPatch, fails: str, when: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", simulated_tensorrt(fails=fails))
    if when == "open":
        with pytest.raises((ArtifactError, BackendError), match=message):
            opened(plan)
        return
    backend = opened(plan)
    with pytest.raises(BackendError, match=message):
        backend.infer(batch_of(1), *thresholds(1))
    assert not gpu.used()  # the slot was discarded, and a new one can be created
    with pytest.raises(BackendError, match=message):
        backend.infer(batch_of(1), *thresholds(1))
    backend.close()


def test_out_of_device_memory(gpu: SimulatedGpu, plan: Path) -> None:
    gpu.limit = 60_000
    with pytest.raises(
        BackendError, match=r"out of memory: cudaMalloc of 0\.1 MiB on Simulated Orin; use a smaller batch"
    ):
        opened(plan)
    with pytest.raises(BackendError, match=r"out of memory: 0\.1 MiB on Simulated Orin"):
        opened(plan, cuda="pycuda")
    assert not gpu.used()
    gpu.limit = 120_000  # one slot, not two
    backend = opened(plan)
    pending = backend.submit(batch_of(1), *thresholds(1))
    with pytest.raises(BackendError, match="out of memory"):
        backend.submit(batch_of(1), *thresholds(1))
    backend.collect(pending)
    with ThreadPoolExecutor(8) as pool:  # one after the other
        list(pool.map(lambda _: backend.infer(batch_of(1), *thresholds(1)), range(40)))
    backend.close()


@pytest.mark.parametrize(
    "name", ["cudaStreamSynchronize", "cudaMemcpyAsync", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_recovers_after_the_gpu_failed(gpu: SimulatedGpu, plan: Path, name: str) -> None:
    backend = opened(plan)
    gpu.fails[name] = 700
    graph = ": no CUDA graph; the backend tensorrt:eager" if "Graph" in name or "Capture" in name else ""
    with pytest.raises(BackendError, match=rf"{name} failed: simulated: cudaErrorIllegalAddress \(.*\){graph}"):
        backend.infer(batch_of(1), *thresholds(1))
    gpu.fails.clear()
    assert not gpu.used()
    backend.infer(batch_of(1), *thresholds(1))
    backend.close()


def test_missing_gpu_driver_or_library(gpu: SimulatedGpu, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu.fails["cudaGetDeviceCount"] = 35
    with pytest.raises(
        BackendUnavailable, match=r"cudaErrorInsufficientDriver\); is there an NVIDIA GPU with a driver"
    ):
        opened(plan)
    gpu.fails.clear()
    with pytest.raises(BackendUnavailable, match="there is no GPU 3: CUDA finds 1"):
        opened(plan, device="cuda:3")
    gpu.fails["init"] = 1
    with pytest.raises(BackendUnavailable, match="no CUDA-capable device"):
        opened(plan, cuda="pycuda")
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(BackendUnavailable, match=r"yolopose\[pycuda\]"):
        opened(plan, cuda="pycuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailable, match=r"yolopose\[cuda\]"):
        opened(plan)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendUnavailable, match=r'needs TensorRT 10\.16\.1\.11 .*pip install "tensorrt==10\.16\.1\.11"'
    ):
        opened(plan)


@pytest.mark.parametrize("wrong", [{"device": "cpu"}, {"threads": 2}, {"slots": 0}, {"cuda": "cupy"}])
def test_rejects_wrong_arguments(plan: Path, wrong: dict[str, Any]) -> None:
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=str(value)):
        opened(plan, **wrong)
