"""The TensorRT backend on a played GPU: buffers, graphs, slots, threads, contexts, and what is said when it fails."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from tests.export.fake_tensorrt import fake_tensorrt
from tests.played_gpu import Machine, play
from tests.runtime.conftest import dots, small_contract, write_artifact
from yolopose.export.tensorrt import build_engine
from yolopose.export.tensorrt_options import EngineConfig, Profile, usual_profile
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.base import Backend, RawPeople, open_backend
from yolopose.runtime.backends.cuda import find_gpu
from yolopose.runtime.backends.tensorrt import TensorRtBackend
from yolopose.runtime.contract import Range, read_contract
from yolopose.runtime.errors import (
    ArtifactError,
    BackendError,
    BackendUnavailable,
    ContractInvalid,
    ContractMissing,
    EngineMismatch,
)

from .test_onnxruntime import thresholds

HW = (64, 96)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    played = play(monkeypatch)
    yield played
    gc.collect()
    assert not played.used()
    assert played.context == 0


@pytest.fixture
def plan(machine: Machine, artifact: Path, tmp_path: Path) -> Path:
    """Of the dot model, for batches of 1 to 4 of its best size."""
    return built(artifact, tmp_path / "dots.engine")


def built(artifact: Path, path: Path, version: str = "10.16.1.11", **more: Any) -> Path:
    profiles = more.pop("profiles", None) or (usual_profile(read_contract(artifact).input, 4),)
    build_engine(artifact, path, EngineConfig(profiles, **more), fake_tensorrt(version), find_gpu(), lambda text: None)
    return path


def opened(path: Path, **more: Any) -> TensorRtBackend:
    return TensorRtBackend(path, read_contract(path), more.pop("shape_hw", HW), **more)


def batch_of(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([dots(HW, (int(rng.integers(3)), *rng.uniform(10, 50, 2))) for _ in range(rows)])


@pytest.fixture
def expected(artifact: Path) -> Callable[[np.ndarray], RawPeople]:
    """What ONNX Runtime finds with the artifact."""
    backend = open_backend(artifact, read_contract(artifact), threads=1)
    return lambda images: backend.infer(images, *thresholds(len(images)))


def assert_equal(found: RawPeople, expected: RawPeople) -> None:
    for name, one, other in zip(RawPeople._fields, found, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
        assert one.dtype == other.dtype


@pytest.mark.parametrize("through", ["cuda-python", "pycuda"])
def test_batches_of_every_size_give_what_onnxruntime_gives(
    plan: Path, expected: Callable[[np.ndarray], RawPeople], through: str
) -> None:
    backend = opened(plan, cuda=through)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device, backend.version) == ("tensorrt", "cuda:0", "10.16.1.11")
    for seed, rows in enumerate([1, 3, 3, 1, 4, 2, 3, 1, 4]):  # first, repeated as a graph, and others in between
        images = batch_of(rows, seed)
        assert_equal(backend.infer(images, *thresholds(rows)), expected(images))
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(batch_of(1), *thresholds(1))


def test_results_are_copies_and_thresholds_arrive(plan: Path) -> None:
    backend = opened(plan)
    first = backend.infer(batch_of(1), *thresholds(1))
    before = [array.copy() for array in first]
    images = np.zeros((1, *HW, 3), np.uint8)
    empty = backend.infer(images, *thresholds(1))
    assert empty.num_people.tolist() == [0]
    assert all(array.flags.owndata and array.flags.writeable for array in first)
    assert_equal(first, RawPeople(*before))
    high = np.full((1, 1), 0.95, np.float32)
    assert backend.infer(images, high, high).flags.tolist() == [4]


def test_one_stream_in_order_then_one_graph(machine: Machine, plan: Path) -> None:
    backend = opened(plan)
    machine.calls.clear()
    backend.infer(batch_of(2), *thresholds(2))
    # It runs once, is waited for, and only then captured.
    assert machine.calls == ["in", "run", "out", "wait", "begin capture", "in", "run", "out", "end capture"]
    machine.calls.clear()
    backend.infer(batch_of(2), *thresholds(2))
    assert machine.calls == ["launch", "wait"]
    assert machine.used() == {"device": 3, "host": 2, "streams": 1, "graphs": 1}
    backend.close()
    assert not machine.used()
    without = opened(plan, graphs=False)
    machine.calls.clear()
    for _ in range(2):
        without.infer(batch_of(1), *thresholds(1))
    assert machine.calls == ["in", "run", "out", "wait"] * 2


def test_the_bare_run_is_the_graph_alone(machine: Machine, plan: Path) -> None:
    backend = opened(plan)
    run = backend.bare(batch_of(2), *thresholds(2))
    machine.calls.clear()
    run()
    assert machine.calls == ["launch", "wait"]
    assert_equal(backend.infer(batch_of(2), *thresholds(2)), backend.infer(batch_of(2), *thresholds(2)))


def test_a_plan_without_graphs_has_a_name(machine: Machine, plan: Path) -> None:
    with PoseEstimator(plan, "tensorrt:eager") as estimate:
        assert estimate.backend.name == "tensorrt:eager"
        machine.calls.clear()
        for _ in range(2):
            estimate(dots(HW, (0, 30, 30)))
        assert machine.calls == ["in", "run", "out", "wait"] * 2


def test_only_the_rows_of_a_batch_are_copied(machine: Machine, plan: Path) -> None:
    backend = opened(plan)
    copied: list[int] = []
    real = backend._cuda.copy_to_device
    backend._cuda.copy_to_device = lambda address, source, stream: (  # type: ignore[method-assign]
        copied.append(source.nbytes), real(address, source, stream)
    )[1]  # fmt: skip
    backend.infer(batch_of(1), *thresholds(1))
    assert HW[0] * HW[1] * 3 < copied[0] < HW[0] * HW[1] * 3 + 1024


def test_two_slots_overlap(machine: Machine, plan: Path, expected: Callable[[np.ndarray], RawPeople]) -> None:
    backend = opened(plan)
    for round_ in range(3):
        images = [batch_of(1 + i, 10 * round_ + i) for i in range(2)]
        copies = [each.copy() for each in images]
        tickets = [backend.submit(each, *thresholds(len(each))) for each in copies]
        for each in copies:
            each[...] = 0  # submit() has taken what it needs
        with pytest.raises(ValueError, match="all 2 slots wait to be collected: collect"):
            backend.submit(images[0], *thresholds(1))
        for ticket, each in reversed(list(zip(tickets, images, strict=True))):
            assert_equal(backend.collect(ticket), expected(each))
        with pytest.raises(ValueError, match="collected already"):
            backend.collect(tickets[0])
    assert machine.used()["streams"] == 2
    ticket = backend.submit(images[0], *thresholds(1))
    backend.close()  # what is under way is finished
    assert_equal(backend.collect(ticket), expected(images[0]))


def test_a_ticket_that_is_dropped_gives_its_slot_back(machine: Machine, plan: Path) -> None:
    backend = opened(plan)
    for _ in range(5):
        backend.submit(batch_of(1), *thresholds(1))  # nobody keeps it
        gc.collect()
    kept = backend.submit(batch_of(1), *thresholds(1))
    backend.collect(kept)
    backend.close()
    assert not machine.used()  # though the ticket is still there
    with pytest.raises(ValueError, match="collected already"):
        backend.collect(kept)


def test_a_ticket_may_be_collected_by_another_thread(
    machine: Machine, plan: Path, expected: Callable[[np.ndarray], RawPeople]
) -> None:
    backend = opened(plan)
    work: SimpleQueue[Any] = SimpleQueue()
    found: list[RawPeople] = []

    def collector() -> None:
        while (ticket := work.get()) is not None:
            found.append(backend.collect(ticket))

    thread = threading.Thread(target=collector)
    thread.start()
    batches = [batch_of(1 + i % 3, i) for i in range(30)]
    for batch in batches:
        while len(found) + 1 < sum(1 for _ in batches) and work.qsize() > 0:
            time.sleep(0.001)
        work.put(submitted(backend, batch))
    work.put(None)
    thread.join()
    for one, batch in zip(found, batches, strict=True):
        assert_equal(one, expected(batch))


def submitted(backend: TensorRtBackend, batch: np.ndarray) -> Any:
    """Tries again while the other thread is slow: both slots may be held by this one."""
    while True:
        try:
            return backend.submit(batch, *thresholds(len(batch)))
        except ValueError:
            time.sleep(0.001)


def test_threads_that_wait_for_each_other_are_told(machine: Machine, plan: Path) -> None:
    """Each holds one slot and wants another."""
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
        told = sorted(pool.map(greedy, range(2)))
    assert told == ["", "all 2 slots wait to be collected: collect() first"]


def test_no_thread_waits_for_ever_when_the_gpu_fails(machine: Machine, plan: Path) -> None:
    backend = opened(plan)
    for name in ("cudaStreamSynchronize", "cudaMalloc"):
        machine.fails[name] = 700

    def one(_: int) -> str:
        try:
            backend.infer(batch_of(1), *thresholds(1))
        except BackendError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(8) as pool:
        assert all("cudaErrorIllegalAddress" in told for told in pool.map(one, range(24)))


@pytest.mark.parametrize("through", ["cuda-python", "pycuda"])
def test_eight_threads_share_one_estimator(
    machine: Machine, plan: Path, monkeypatch: pytest.MonkeyPatch, through: str
) -> None:
    monkeypatch.setenv("YOLOPOSE_CUDA", through)
    images = [dots((50 + i % 7, 90 - i % 5), (i % 3, 20 + i % 40, 25)) for i in range(2000)]
    with PoseEstimator(plan) as estimate:
        alone = [estimate(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(estimate, images))
        assert machine.used()["streams"] <= 2
        batches = estimate(images[:10])  # more than the plan takes at once
    for one, other in zip(alone, [*together, *batches], strict=False):
        np.testing.assert_array_equal(one.keypoints, other.keypoints)
        np.testing.assert_array_equal(one.scores, other.scores)
    for one, other in zip(alone, batches, strict=False):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_memory_is_flat_over_ten_thousand_calls(machine: Machine, plan: Path) -> None:
    import tracemalloc

    with PoseEstimator(plan) as estimate:
        image = dots(HW, (0, 30, 30))

        def calls(count: int) -> tuple[dict[str, int], int]:
            for _ in range(count):
                estimate(image)
                machine.calls.clear()
            gc.collect()
            return machine.used(), tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            used, before = calls(100)
            assert calls(9900)[0] == used
            assert tracemalloc.get_traced_memory()[0] - before < 100_000  # an object a call would be half a megabyte
        finally:
            tracemalloc.stop()


def test_an_estimator_that_nobody_closes(machine: Machine, plan: Path) -> None:
    estimate = PoseEstimator(plan)
    estimate(dots(HW, (0, 30, 30)))
    assert machine.used()
    del estimate
    gc.collect()
    assert not machine.used()


def test_the_application_keeps_its_own_context(machine: Machine, plan: Path) -> None:
    machine.contexts.add(77)
    machine.context = 77
    backend = opened(plan)
    assert machine.context == 77
    backend.infer(batch_of(1), *thresholds(1))
    with pytest.raises(BackendError):
        backend.infer(batch_of(5), *thresholds(5))
    assert machine.context == 77
    backend.close()
    assert machine.context == 77
    machine.context = 0


def test_pycuda_works_in_the_context_of_the_application(machine: Machine, plan: Path) -> None:
    import pycuda.driver as driver

    own = driver.Device(0).make_context()
    backend = opened(plan, cuda="pycuda")
    seen: list[int] = []
    real = backend._cuda.wait
    backend._cuda.wait = lambda stream: (seen.append(machine.context), real(stream))[1]  # type: ignore[method-assign]
    backend.infer(batch_of(1), *thresholds(1))
    thread = threading.Thread(target=backend.infer, args=(batch_of(1), *thresholds(1)))
    thread.start()
    thread.join()
    assert seen == [own.handle] * 2
    assert driver.Context.get_current() == own
    with pytest.raises(BackendUnavailable, match="another GPU than the one asked for, 1"):
        opened(plan, cuda="pycuda", device="cuda:1")
    backend.close()
    late = opened(plan, cuda="pycuda")
    late.infer(batch_of(1), *thresholds(1))
    late.close()
    driver.Context.pop()
    own.detach()


# What cannot be


def test_a_batch_over_the_profile(machine: Machine, plan: Path) -> None:
    backend = opened(plan)
    with pytest.raises(BackendError, match=r"\(5, 64, 96, 3\) uint8: the plan was opened for 1 to 4 of \(64, 96, 3\)"):
        backend.infer(batch_of(5), *thresholds(5))
    with pytest.raises(BackendError, match="float32"):
        backend.infer(batch_of(1).astype(np.float32), *thresholds(1))  # type: ignore[arg-type]
    backend.infer(batch_of(4), *thresholds(4))


def test_sizes_and_profiles(machine: Machine, artifact: Path, tmp_path: Path) -> None:
    small = Profile(Range(1, 1, 2), Range(64, 64, 64), Range(64, 64, 64))
    large = Profile(Range(1, 2, 3), Range(128, 128, 192), Range(128, 128, 192))
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


def test_profiles_by_batch(
    machine: Machine, artifact: Path, tmp_path: Path, expected: Callable[[np.ndarray], RawPeople]
) -> None:
    """Of each batch the profile that was tuned for it; a list of any length is split and padded to what there is."""
    given = read_contract(artifact).input
    size = {"height": Range(64, 64, 64), "width": Range(96, 96, 96)}
    few, many = (Profile(Range(*batch), **size) for batch in ((1, 1, 1), (2, 4, 4)))
    path = built(artifact, tmp_path / "two.engine", profiles=(few, many))
    backend = opened(path)
    assert (backend.batch, given.batch.max) == (Range(1, 1, 4), 4)
    for rows in (1, 2, 4, 1, 3):
        assert_equal(backend.infer(batch_of(rows), *thresholds(rows)), expected(batch_of(rows)))
    lane = backend._slots._free[0]
    assert {rows: shape.context._profile for rows, shape in lane._shapes.items()} == {1: 0, 2: 1, 4: 1, 3: 1}
    backend.close()
    images = [dots(HW, (i % 3, 30, 30)) for i in range(6)]
    by_size = (Profile(Range(2, 2, 2), **size), Profile(Range(1, 1, 4), Range(128, 128, 128), Range(96, 96, 96)))
    with PoseEstimator(built(artifact, tmp_path / "sizes.engine", profiles=by_size)) as estimate:
        assert [len(people) for people in estimate(images)] == [1] * 6
        assert len(estimate(images[0])) == 1


def test_the_accelerator_of_a_jetson(machine: Machine, artifact: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    trt = fake_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    opened(built(artifact, tmp_path / "dla.engine", dla=1)).close()
    assert trt.made["settings"]["DLA_core"] == 1


@pytest.mark.parametrize(
    ("fails", "when", "said"),
    [
        ("null", "open", "TensorRT made no Runtime"),
        ("load", "open", "cannot load .*magicTag does not match"),
        ("context", "infer", "made no context.*cudaMalloc of 4096 failed"),
        ("run", "infer", "could not run the plan: Cask convolution execution failed"),
    ],
)
def test_what_tensorrt_says_is_told(
    machine: Machine, plan: Path, monkeypatch: pytest.MonkeyPatch, fails: str, when: str, said: str
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(fails=fails))
    if when == "open":
        with pytest.raises((ArtifactError, BackendError), match=said):
            opened(plan)
        return
    backend = opened(plan)
    with pytest.raises(BackendError, match=said):
        backend.infer(batch_of(1), *thresholds(1))
    assert not machine.used()  # the lane was given back, and another one can be had
    with pytest.raises(BackendError, match=said):
        backend.infer(batch_of(1), *thresholds(1))
    backend.close()


def test_out_of_device_memory(machine: Machine, plan: Path) -> None:
    machine.limit = 60_000
    with pytest.raises(
        BackendError, match=r"out of memory: cudaMalloc of 0\.1 MiB on Played Orin; use a smaller batch"
    ):
        opened(plan)
    with pytest.raises(BackendError, match=r"out of memory: 0\.1 MiB on Played Orin"):
        opened(plan, cuda="pycuda")
    assert not machine.used()
    machine.limit = 120_000  # one lane, not two
    backend = opened(plan)
    ticket = backend.submit(batch_of(1), *thresholds(1))
    with pytest.raises(BackendError, match="out of memory"):
        backend.submit(batch_of(1), *thresholds(1))
    backend.collect(ticket)
    with ThreadPoolExecutor(8) as pool:  # one after the other then
        list(pool.map(lambda _: backend.infer(batch_of(1), *thresholds(1)), range(40)))
    backend.close()


@pytest.mark.parametrize(
    "name", ["cudaStreamSynchronize", "cudaMemcpyAsync", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_gpu_that_fails(machine: Machine, plan: Path, name: str) -> None:
    backend = opened(plan)
    machine.fails[name] = 700
    graph = ": no CUDA graph; the backend tensorrt:eager" if "Graph" in name or "Capture" in name else ""
    with pytest.raises(BackendError, match=rf"{name} failed: played: cudaErrorIllegalAddress \(.*\){graph}"):
        backend.infer(batch_of(1), *thresholds(1))
    machine.fails.clear()
    assert not machine.used()
    backend.infer(batch_of(1), *thresholds(1))
    backend.close()


def test_no_gpu_no_driver_no_library(machine: Machine, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    machine.fails["cudaGetDeviceCount"] = 35
    with pytest.raises(
        BackendUnavailable, match=r"cudaErrorInsufficientDriver\); is there an NVIDIA GPU with a driver"
    ):
        opened(plan)
    machine.fails.clear()
    with pytest.raises(BackendUnavailable, match="there is no GPU 3: CUDA sees 1"):
        opened(plan, device="cuda:3")
    machine.fails["init"] = 1
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
def test_arguments_that_cannot_be(plan: Path, wrong: dict[str, Any]) -> None:
    (value,) = wrong.values()
    with pytest.raises(ValueError, match=str(value)):
        opened(plan, **wrong)


# Before it is loaded


def test_a_truncated_plan_and_one_of_another_contract(
    machine: Machine, artifact: Path, plan: Path, tmp_path: Path
) -> None:
    content = plan.read_bytes()
    plan.write_bytes(content[:1000])
    with pytest.raises(ArtifactError, match=rf"truncated: 1000 of {len(content)} bytes"):
        PoseEstimator(plan)
    other = built(
        artifact, tmp_path / "other.engine", version="10.13.0", profiles=(usual_profile(small_contract().input, 2),)
    )
    plan.write_bytes(other.read_bytes() + content)
    with pytest.raises(ArtifactError, match=r"dots\.engine\.json is the contract of another plan: sha256"):
        PoseEstimator(plan)
    (tmp_path / "dots.engine.json").unlink()
    with pytest.raises(ContractMissing, match=r"dots\.engine\.json is not there; copy both files"):
        PoseEstimator(plan)
    (tmp_path / "dots.engine.json").write_text(read_contract(artifact).to_json(), encoding="utf-8")
    with pytest.raises(ContractInvalid, match=r"no section engine.*contract of an \.onnx.*--format engine"):
        PoseEstimator(plan)


def test_another_version_or_gpu(machine: Machine, artifact: Path, plan: Path, tmp_path: Path) -> None:
    for version in ("10.13.3.9", "11.4.0.106"):
        path = built(artifact, tmp_path / f"{version}.engine", version=version)
        with pytest.raises(
            EngineMismatch, match=rf"by TensorRT {version}, here is tensorrt 10\.16\.1\.11: build it here"
        ):
            PoseEstimator(path)
    patched = built(artifact, tmp_path / "patched.engine", version="10.16.1.99")
    PoseEstimator(patched).close()  # another build of the same release
    machine.capability, machine.name = (8, 9), "Played Ada"
    with pytest.raises(
        EngineMismatch, match=r"on Played Orin \(compute capability 8\.7\), here is Played Ada \(8\.9\)"
    ):
        PoseEstimator(plan)
    machine.capability = (8, 7)
    contract = read_contract(plan)
    assert contract.engine is not None
    with pytest.raises(EngineMismatch, match="was built on a Z80, this is"):
        TensorRtBackend(plan, replace(contract, engine={**contract.engine, "machine": "a Z80"}), HW)
    wide = built(artifact, tmp_path / "wide.engine", hardware_compatible=True)
    machine.capability = (12, 0)
    PoseEstimator(wide).close()
    machine.capability = (7, 5)
    with pytest.raises(EngineMismatch, match="compute capability"):
        PoseEstimator(wide)


def test_a_version_compatible_plan_runs_on_the_lean_runtime(
    machine: Machine, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    path = built(artifact, tmp_path / "old.engine", version="10.3.0", version_compatible=True)
    with pytest.raises(EngineMismatch, match=r'here is tensorrt 10\.16.*pip install "tensorrt_lean==10\.3\.0"'):
        PoseEstimator(path)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", fake_tensorrt("10.3.0"))
    with PoseEstimator(path) as estimate:
        assert estimate.backend.version == "10.3.0"
        assert len(estimate(dots(HW, (0, 30, 30)))) == 1
    plain = built(artifact, tmp_path / "plain.engine", version="10.3.0")
    with pytest.raises(EngineMismatch, match=r"here is tensorrt 10\.16"):  # lean does not run these
        PoseEstimator(plain)


def test_a_plan_without_weights_or_for_another_engine(machine: Machine, artifact: Path, tmp_path: Path) -> None:
    stripped = built(artifact, tmp_path / "stripped.engine", strip=True)
    with pytest.raises(EngineMismatch, match=r"without weights \(--strip\): fill it with --refit"):
        PoseEstimator(stripped)
    contract = read_contract(stripped)
    for_cpu = replace(contract, precision=replace(contract.precision, weights="int8", activations="int8", target="cpu"))
    with pytest.raises(EngineMismatch, match="quantized for cpu"):
        TensorRtBackend(stripped, for_cpu, HW)


def test_a_plan_of_ultralytics(machine: Machine, tmp_path: Path) -> None:
    text = b'{"description": "Ultralytics YOLOv8n-pose model", "task": "pose", "stride": 32}'
    foreign = tmp_path / "yolov8n-pose.engine"
    foreign.write_bytes(len(text).to_bytes(4, "little") + text + b"ftrt plan")
    with pytest.raises(
        EngineMismatch, match=r"as Ultralytics writes it \(Ultralytics YOLOv8n-pose model\).*yolopose-export"
    ):
        PoseEstimator(foreign)


def test_a_plan_with_other_outputs(machine: Machine, tmp_path: Path) -> None:
    contract = small_contract()
    path = built(write_artifact(tmp_path / "five.onnx", contract, keypoints=5), tmp_path / "five.engine")
    with pytest.raises(ArtifactError, match=r"output keypoints should be .*\[3, 17, 3\].* is \(.*5, 3"):
        PoseEstimator(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tensorrt": 10}, "engine.tensorrt: must be a string"),
        ({"gpu": {"name": "x", "compute_capability": "new"}}, "engine.gpu.compute_capability: must be as 8.7"),
        ({"plan_sha256": "x"}, "engine.plan_sha256"),
        ({"version_compatible": None}, "engine.version_compatible"),
        ({"machine": 1}, "engine.machine: must be a string"),
    ],
)
def test_a_damaged_fingerprint(plan: Path, change: dict[str, Any], said: str) -> None:
    contract = read_contract(plan)
    assert contract.engine is not None
    with pytest.raises(ContractInvalid, match=said):
        TensorRtBackend(plan, replace(contract, engine={**contract.engine, **change}), HW)
