"""The batches of a run: their order, workers, processes, resuming, damaged images."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.augment import Augment, AugmentSettings
from yolopose.data.batch import Batch
from yolopose.data.loader import MAX_TRIES, Order, ReplaceDamaged, batches
from yolopose.runtime.errors import DataError

from .images import NoiseImages

# Both are expected: this machine may have one core, and the loader stops OpenCV's threads before it forks.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
SETTINGS = AugmentSettings(size=32, mixup=0.2)


def stream(
    count: int = 10,
    batch: int = 4,
    steps: Sequence[int] = (0, 6),
    workers: int = 0,
    damaged: Sequence[int] = (),
    **kwargs: Any,
) -> list[Batch]:
    usual, closing = (
        Augment(NoiseImages(count, damaged=damaged), AugmentSettings(size=32, mosaic=mosaic, mixup=0.2))
        for mosaic in (1.0, 0.0)
    )
    made = batches(
        Order(count, batch, seed=3), lambda epoch: closing if epoch > 1 else usual, first_step=steps[0],
        last_step=steps[1], workers=workers, **kwargs,
    )  # fmt: skip
    return list(made)


def assert_same(a: Sequence[Batch], b: Sequence[Batch]) -> None:
    for ours, theirs in zip(a, b, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert all(torch.equal(x, y) for x, y in zip(ours.people, theirs.people, strict=True))
        assert ours.damaged == theirs.damaged


# The order


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_epochs_are_permutations(count: int, batch: int, epoch: int) -> None:
    order = Order(count, batch, seed=1)
    rows = order.epoch(epoch)
    assert rows.shape == (order.steps_per_epoch, batch)
    if count >= batch:
        assert order.steps_per_epoch == count // batch
        assert len(set(rows.ravel())) == rows.size  # whole batches, none twice
    else:
        often = np.bincount(rows.ravel(), minlength=count)
        assert often.max() - often.min() <= 1
        assert sorted(rows.ravel()[:count]) == list(range(count))
    assert set(rows.ravel()) <= set(range(count))


def test_epochs_and_seeds_differ() -> None:
    first = Order(50, 5, 0).epoch(0)
    assert not np.array_equal(first, Order(50, 5, 0).epoch(1))
    assert not np.array_equal(first, Order(50, 5, 1).epoch(0))
    np.testing.assert_array_equal(first, Order(50, 5, 0).epoch(0))


def test_rounds_of_a_data_set_smaller_than_a_batch() -> None:
    (_, drawn), *_ = Order(3, 8, 0).items(0, 1, 0, 1)
    assert len(set(drawn)) == 8
    assert [number for _, number in drawn] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert all(number == 0 for _, drawn in Order(9, 4, 0).items(0, 10, 0, 1) for _, number in drawn)


@pytest.mark.parametrize(("count", "batch"), [(0, 4), (4, 0)])
def test_rejects_empty_orders(count: int, batch: int) -> None:
    with pytest.raises(ValueError, match=f"got {count} images and batches of {batch}"):
        Order(count, batch, 0)


# The batches


def test_workers_do_not_change_the_batches() -> None:
    alone = stream(damaged=[2, 3])
    assert len(alone) == 6
    assert isinstance(alone[0], Batch)
    for workers in (1, 2):
        made = stream(workers=workers, damaged=[2, 3])
        assert_same(made, alone)
        assert isinstance(made[0], Batch)
        assert made[0].images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("first", range(7))
def test_resumes_at_any_step(first: int) -> None:
    assert_same(stream(steps=(first, 6)), stream()[first:])


def test_two_processes_share_each_batch() -> None:
    whole, shares = stream(), [stream(rank=rank, world_size=2) for rank in (0, 1)]
    for rank in (0, 1):
        for one, part in zip(whole, shares[rank], strict=True):
            assert torch.equal(part.images, one.images[rank::2])
            most = part.people.valid.shape[1]
            for x, y in zip(part.people, one.people, strict=True):
                assert torch.equal(x, y[rank::2, :most])
                assert not y[rank::2, most:].any()


def test_rejects_batches_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="a batch of 4 cannot be shared evenly by 3 processes"):
        stream(world_size=3)


def test_repeated_images_of_a_batch_differ() -> None:
    (batch,) = stream(count=2, batch=8, steps=(0, 1))
    assert len(batch.images) == 8
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(batch.images, 2))


def test_each_epoch_has_its_own_augmentation() -> None:
    made = stream(count=4, batch=4, steps=(0, 3))
    assert not torch.equal(made[0].images.sum((1, 2, 3)).sort()[0], made[1].images.sum((1, 2, 3)).sort()[0])
    whole = Augment(NoiseImages(4), AugmentSettings(size=32, mosaic=0.0, mixup=0.2))
    index = Order(4, 4, 3).epoch(2)[0, 0]
    expected = whole(int(index), np.random.default_rng((3, 2, int(index))))
    np.testing.assert_array_equal(made[2].images[0].permute(1, 2, 0), expected.image)


# Damaged images


def test_usable_images_are_returned() -> None:
    source = NoiseImages(5)
    usable = ReplaceDamaged(source)
    assert (len(usable), usable.skeleton, usable.classes) == (5, source.skeleton, source.classes)
    assert usable[3] is source[3]
    assert usable.damaged == []


def test_replacements_are_repeatable() -> None:
    damaged = range(50)
    first = [ReplaceDamaged(NoiseImages(100, damaged=damaged))[7].image for _ in range(3)]
    for image in first[1:]:
        np.testing.assert_array_equal(image, first[0])
    usable = ReplaceDamaged(source := NoiseImages(100, damaged=damaged))
    found = {id(usable[index]) for index in range(50)}
    assert len(found) > 20  # not the same replacement for all
    assert usable.damaged.count("7.png: is damaged") >= 1
    assert len(usable.damaged) == len(source.accessed) - 50


def test_finds_the_only_usable_image() -> None:
    usable = ReplaceDamaged(NoiseImages(40, damaged=set(range(40)) - {17}))
    for index in range(40):
        np.testing.assert_array_equal(usable[index].image, NoiseImages(18)[17].image)


@pytest.mark.parametrize("count", [1, 5, 500])
def test_rejects_sources_without_usable_images(count: int) -> None:
    source = NoiseImages(count, damaged=range(count))
    tried = min(count, MAX_TRIES)
    with pytest.raises(DataError, match=f"none of {tried} images tried, of {count}, can be used; .*is damaged"):
        ReplaceDamaged(source)[0]
    assert len(source.accessed) == len(set(source.accessed)) == tried


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_images_are_replaced_and_listed(workers: int) -> None:
    made = stream(count=6, batch=3, steps=(0, 4), workers=workers, damaged=[1, 4])
    assert all(len(batch.images) == 3 for batch in made)
    named = [name for batch in made for name in batch.damaged]
    assert set(named) == {"1.png: is damaged", "4.png: is damaged"}
    assert not any(batch.damaged for batch in stream(count=6, batch=3, steps=(0, 4)))


def test_continues_with_more_than_half_of_the_images_damaged() -> None:
    """A mosaic needs four usable images: each damaged one is replaced."""
    assert len(stream(count=40, batch=8, steps=(0, 10), damaged=range(25))) == 10


@pytest.mark.parametrize("workers", [0, 2])
def test_only_damaged_images_are_an_error(workers: int) -> None:
    with pytest.raises(DataError, match=r"^none of 10 images tried, of 10, can be used; the last: \d.png: is damaged$"):
        stream(workers=workers, damaged=range(10))


# Workers


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    """Run code with a time limit: it may hang, and its workers with it."""
    code = "import cv2, numpy as np\nfrom tests.data.test_loader import *\n" + code
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        return subprocess.CompletedProcess(code, child.wait(60), *child.communicate())
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


@pytest.mark.parametrize("place", ["before", "between"])
def test_opencv_threads_do_not_hang_workers(place: str) -> None:
    done = in_a_process(f"""
def work():
    cv2.setNumThreads(4)
    cv2.warpAffine(np.zeros((2000, 2000, 3), np.uint8), np.eye(2, 3), (2000, 2000))
work()
large = Augment(NoiseImages(6), AugmentSettings(size=640))
for _ in range(2):
    made = batches(Order(6, 3, 0), lambda _: large, first_step=0, last_step=4, workers=1)
    assert len(list(made)) == 4
    if {place == "between"}:
        work()
""")
    assert done.returncode == 0, done.stderr


def test_exits_with_an_unfinished_iterator() -> None:
    done = in_a_process("""
augment = Augment(NoiseImages(6), SETTINGS)
made = batches(Order(6, 3, 0), lambda _: augment, first_step=0, last_step=1000, workers=1)
next(made)
sys.kept = made  # as a traceback would, until the interpreter exits
raise SystemExit(7)
""")
    assert done.returncode == 7, done.stderr


class Signaling(NoiseImages):
    """Sends a signal to the worker that reads it, from another process, as a terminal or a scheduler does."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count)
        self._name = name

    def __getitem__(self, index: int) -> Any:
        if torch.utils.data.get_worker_info():
            subprocess.run(["sh", "-c", f"kill -{self._name} {os.getpid()}"], check=True)
        return super().__getitem__(index)


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_workers_leave_signals_to_the_trainer(name: str) -> None:
    augment = Augment(Signaling(6, name), AugmentSettings(size=32, mosaic=0.0))
    assert len(list(batches(Order(6, 3, 0), lambda _: augment, first_step=0, last_step=2, workers=1))) == 2


def test_a_dropped_iterator_ends_its_workers() -> None:
    augment = Augment(NoiseImages(6), SETTINGS)
    before = {child.pid for child in torch.multiprocessing.active_children()}
    made = batches(Order(6, 3, 0), lambda _: augment, first_step=0, last_step=10_000, workers=1)
    next(made)
    children = {child.pid for child in torch.multiprocessing.active_children()} - before
    assert children
    del made
    assert not children & {child.pid for child in torch.multiprocessing.active_children()}
