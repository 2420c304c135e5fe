from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from yolopose.runtime.backends.fake import FakeBackend, fake_contract, raw_people
from yolopose.runtime.contract import Range
from yolopose.runtime.errors import BackendError
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.result import PoseResult


def counting(batch: Range | None = None) -> PoseEstimator:
    """Answers with as many candidates as the first pixel says."""

    def answer(images: np.ndarray, *_: np.ndarray) -> object:
        raw = raw_people([PoseResult.empty(17)] * len(images), 100)
        raw.num_candidates[:] = images[:, 0, 0, 0]
        return raw

    small = Range(32, 32, 32)
    return PoseEstimator(fake_contract(height=small, width=small, batch=batch), backend=FakeBackend(answer))  # type: ignore[arg-type]


def frames(count: int) -> Iterator[np.ndarray]:
    return (np.full((32, 32, 3), n, np.uint8) for n in range(count))


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize("batch", [None, Range(3, 3, 3)])
def test_order_is_kept(count: int, batch: Range | None) -> None:
    with counting(batch) as estimate:
        assert [people.num_candidates for people in estimate.stream(frames(count))] == list(range(count))
        assert len(estimate._spare) <= 2


def test_equals_single_calls(artifact: Path) -> None:
    images = [np.full((40 + n, 60, 3), 40 * n, np.uint8) for n in range(7)]
    with PoseEstimator(artifact, threads=1) as estimate:
        for image, people in zip(images, estimate.stream(images), strict=True):
            assert people.to_dict() == estimate(image).to_dict()


def test_next_frame_is_prepared_while_this_one_is_inferred() -> None:
    taken = threading.Event()

    def source() -> Iterator[np.ndarray]:
        yield np.zeros((32, 32, 3), np.uint8)
        taken.set()
        yield np.ones((32, 32, 3), np.uint8)

    def answer(images: np.ndarray, *_: np.ndarray) -> object:
        assert taken.wait(10)  # without the overlap the second frame is never asked for
        return raw_people([PoseResult.empty(17)], 100)

    with PoseEstimator(fake_contract(), backend=FakeBackend(answer)) as estimate:  # type: ignore[arg-type]
        assert len(list(estimate.stream(source()))) == 2


def test_errors_come_in_their_turn() -> None:
    def source() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise OSError("camera unplugged")

    with counting() as estimate:
        seen = []
        with pytest.raises(OSError, match="camera unplugged"):
            seen.extend(people.num_candidates for people in estimate.stream(source()))
        stream = estimate.stream([*frames(2), np.zeros((0, 3), np.uint8)])
        assert [next(stream).num_candidates for _ in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="empty"):
            next(stream)


def test_engine_error_ends_the_stream() -> None:
    def fail(*_: np.ndarray) -> object:
        raise BackendError("broke")

    before = threading.active_count()
    with PoseEstimator(fake_contract(), backend=FakeBackend(fail)) as estimate, pytest.raises(BackendError):  # type: ignore[arg-type]
        list(estimate.stream(frames(5)))
    assert threading.active_count() == before


def test_a_source_that_blocks_does_not_hold_who_leaves() -> None:
    gate = threading.Event()

    def source() -> Iterator[np.ndarray]:
        yield np.full((32, 32, 3), 7, np.uint8)
        gate.wait(30)
        yield np.full((32, 32, 3), 9, np.uint8)

    with counting() as estimate:
        stream = estimate.stream(source())
        assert next(stream).num_candidates == 7
        start = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 5
        (worker,) = (thread for thread in threading.enumerate() if thread.name == "yolopose-stream")
        assert worker.daemon
        assert len(estimate._spare) == 2
        for buffer in estimate._spare:
            buffer[:] = 1
        gate.set()
        worker.join(10)
        assert not worker.is_alive()
        assert all((buffer == 1).all() for buffer in estimate._spare)  # the late frame went nowhere


def test_not_a_sequence_of_frames() -> None:
    with counting() as estimate:
        with pytest.raises(TypeError):
            next(estimate.stream(3))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NoneType"):
            next(estimate.stream([None]))  # type: ignore[list-item]


def test_left_early() -> None:
    before = threading.active_count()
    with counting() as estimate:
        stream = estimate.stream(frames(100))
        assert next(stream).num_candidates == 0
        stream.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before
        assert len(estimate._spare) == 2
