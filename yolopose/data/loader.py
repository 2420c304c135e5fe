"""Other pictures in place of damaged ones, so that training goes on and says what it did without.

A stream of training batches, the same for equal seeds whatever the number of workers or processes.

A sample is augmented by a generator seeded with (seed, epoch, index, round), the round being 0 unless a data set is
smaller than a batch and gone through again; batch s of the run is a fixed part of a fixed order. So a run can go on
from any step, and several processes share the batches of one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from yolopose.runtime.errors import DataError
from yolopose.runtime.images import cv2

from .augment import Augment
from .batch import Batch, as_images, empty_pictures, padded
from .parallel import in_threads
from .sample import DamagedImage, Sample, Source

MOST_TRIES = 100  # damaged pictures in a row before the data set itself is to blame


class StandIns:
    """A Source in which another picture, always the same one, stands in for each that is damaged.

    damaged: "name: reason" of every damaged picture met, each time that it was met.
    """

    def __init__(self, source: Source) -> None:
        self.skeleton, self.classes = source.skeleton, source.classes
        self.damaged: list[str] = []
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError when the picture and all others tried, at most MOST_TRIES, are damaged."""
        try:
            return self._source[index]
        except DamagedImage as error:
            self.damaged.append(str(error))
        # In random order: damaged pictures often lie side by side.
        others = [int(other) for other in np.random.default_rng(index).permutation(len(self)) if other != index]
        for other in others[: MOST_TRIES - 1]:
            try:
                return self._source[other]
            except DamagedImage as error:
                self.damaged.append(str(error))
        tried = min(len(self), MOST_TRIES)
        raise DataError(f"none of {tried} pictures tried, of {len(self)}, can be used; the last: {self.damaged[-1]}")


Item = tuple[int, list[tuple[int, int]]]  # epoch; index and round of each sample
# Workers take what the network leaves: where cores are few, one that interrupts a thread of the network holds up the
# others too, which wait for it. On 2 cores that cost 8 % of the speed.
WORKER_NICE = 10


class Order:
    """Which samples make batch ``step`` of the run: indices in a new random order each epoch, whole batches only."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"batches need pictures and a size, got {count} pictures and batches of {batch}")
        self.count, self.batch, self.seed = count, batch, seed
        self.steps_per_epoch = max(count // batch, 1)

    def epoch(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch, batch) indices; a set smaller than a batch is gone through again, in rounds."""
        rng = np.random.default_rng((self.seed, epoch))
        wanted = self.steps_per_epoch * self.batch
        rounds = [rng.permutation(self.count) for _ in range(-(-wanted // self.count))]
        return np.concatenate(rounds)[:wanted].reshape(-1, self.batch)

    def items(self, first_step: int, last_step: int, rank: int, world_size: int) -> Iterator[Item]:
        """What each step takes, in process ``rank``: rows rank, rank + world_size, ... of the batch."""
        for step in range(first_step, last_step):
            epoch, row = divmod(step, self.steps_per_epoch)
            if row == 0 or step == first_step:
                rows = self.epoch(epoch)
            rounds = (row * self.batch + np.arange(self.batch)) // self.count
            share = slice(rank, None, world_size)
            yield epoch, list(zip(rows[row][share].tolist(), rounds[share].tolist(), strict=True))


class _Batches(Dataset[Batch | DataError]):
    """Makes one batch of an item. An error is returned, not raised: torch would turn a worker's into RuntimeError."""

    def __init__(self, augment_for: Callable[[int], Augment], seed: int) -> None:
        self.augment_for, self.seed = augment_for, seed

    def __getitem__(self, item: Item) -> Batch | DataError:
        epoch, drawn = item
        usual = self.augment_for(epoch)
        source = StandIns(usual.source)
        augment = Augment(source, usual.settings)
        pictures = empty_pictures(len(drawn), (usual.settings.side, usual.settings.side, 3))
        alone = get_worker_info() is None  # then the network waits, and as many threads as it has paint
        made = []
        try:
            for (index, n), out in zip(drawn, pictures.numpy(), strict=True):
                one = augment.draw(index, np.random.default_rng((self.seed, epoch, index, n)))
                if not alone:  # at once: pictures that are read each time are not held until the batch is whole
                    augment.paint(one, out)
                    one = one.without_pictures()
                made.append(one)
        except DataError as error:
            return error
        if alone:
            list(in_threads(augment.paint, made, list(pictures.numpy()), threads=torch.get_num_threads()))
        return Batch(as_images(pictures), padded(*augment.people(made), len(made)), source.damaged)


def batches(
    order: Order,
    augment_for: Callable[[int], Augment],
    *,
    first_step: int,
    last_step: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Batches first_step..last_step - 1 of the run; of each batch, this process's share, see ``Order.items``.

    augment_for: the augmentation of an epoch, which may change as the run goes on. pin_memory: for a GPU, so that
    copies to it overlap with its work.

    Workers start at once. Iterating raises DataError when no picture can be found that is not damaged. ValueError for
    a batch that the processes cannot share evenly.
    """
    if order.batch % world_size:
        raise ValueError(f"a batch of {order.batch} cannot be shared evenly by {world_size} processes")
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("this system cannot fork, so batches are made without other processes: give --workers 0")
    if workers:
        cv2.setNumThreads(1)  # OpenCV's threads do not survive the fork: a worker would wait for them for ever
    loader = DataLoader(
        _Batches(augment_for, order.seed),
        batch_size=None,  # an item is a whole batch already
        sampler=order.items(first_step, last_step, rank, world_size),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_calm_worker,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,  # pictures in memory are shared, nothing is pickled
    )
    return _raised(iter(loader))


def _raised(made: Iterator[Batch | DataError]) -> Iterator[Batch]:
    for batch in made:
        if isinstance(batch, DataError):
            break
        yield batch
    else:
        return
    del made  # ends the workers, which the traceback would keep
    raise batch


def _calm_worker(worker: int) -> None:
    """Stay out of the network's way, and leave signals to the trainer.

    What Ctrl-C and SIGTERM mean, which terminals and schedulers send to every process, the trainer decides.

    SIGTERM is heeded from the trainer alone: were it ignored, a trainer that exits would wait for its workers for ever.
    """
    os.nice(WORKER_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_heed_parent, daemon=True).start()


def _heed_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
