"""The training batches, the same for equal seeds whatever the number of workers or processes.

Batch s of a run is a fixed part of a fixed order (`Order`). A sample is augmented by a generator seeded with (seed,
epoch, index, round), so a run can resume at any step and several processes can share the batches. The round is 0
unless the data set is smaller than a batch; then each further pass over it is another round.
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

from yolopose.runtime.errors import DataError, UsageError
from yolopose.runtime.images import cv2

from .augment import Augment
from .batch import Batch, as_nchw, empty_images, padded
from .parallel import in_threads
from .sample import DamagedImage, Sample, Source

MAX_TRIES = 100  # damaged images in a row, after which the data set counts as unusable
# Workers yield to the network: on few cores a worker that interrupts one thread of the network delays all its threads.
# On 2 cores that cost 8 % of the speed.
WORKER_NICE = 10

Item = tuple[int, list[tuple[int, int]]]  # epoch; index and round of each sample


class Order:
    """The samples of batch ``step`` of a run: indices in a new random order each epoch, whole batches only."""

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1 or batch < 1:
            raise ValueError(f"batches need images and a size, got {count} images and batches of {batch}")
        self.count, self.batch, self.seed = count, batch, seed
        self.steps_per_epoch = max(count // batch, 1)

    def epoch(self, epoch: int) -> np.ndarray:
        """(steps_per_epoch, batch) indices; a data set smaller than a batch is repeated, in rounds."""
        rng = np.random.default_rng((self.seed, epoch))
        total = self.steps_per_epoch * self.batch
        rounds = [rng.permutation(self.count) for _ in range(-(-total // self.count))]
        return np.concatenate(rounds)[:total].reshape(-1, self.batch)

    def items(self, first_step: int, last_step: int, rank: int, world_size: int) -> Iterator[Item]:
        """The samples of each step in process ``rank``: rows rank, rank + world_size, ... of the batch."""
        for step in range(first_step, last_step):
            epoch, row = divmod(step, self.steps_per_epoch)
            if row == 0 or step == first_step:
                rows = self.epoch(epoch)
            rounds = (row * self.batch + np.arange(self.batch)) // self.count
            share = slice(rank, None, world_size)
            yield epoch, list(zip(rows[row][share].tolist(), rounds[share].tolist(), strict=True))


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
    """Batches first_step..last_step - 1 of the run; of each batch the part of this process, see `Order.items`.

    augment_for: the augmentation of an epoch, which may change during a run.
    workers: processes that make batches; 0: this process makes them. They start at once.
    pin_memory: for a GPU, so that copies to it overlap with its work.

    Raises ValueError for a batch that the processes cannot share evenly, UsageError for workers where processes cannot
    fork. The iterator raises DataError if no usable image is found.
    """
    if order.batch % world_size:
        raise ValueError(f"a batch of {order.batch} cannot be shared evenly by {world_size} processes")
    if workers and "fork" not in multiprocessing.get_all_start_methods():
        raise UsageError("this system cannot fork processes, which workers need: give --workers 0")
    if workers:
        cv2.setNumThreads(1)  # OpenCV's threads do not survive the fork: a worker would wait for them forever
    loader = DataLoader(
        _Batches(augment_for, order.seed),
        batch_size=None,  # an item is a whole batch already
        sampler=order.items(first_step, last_step, rank, world_size),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_init_worker,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,  # images in memory are shared, nothing is pickled
    )
    return _raise_errors(iter(loader))


class _Batches(Dataset[Batch | DataError]):
    """Makes the batch of an item. Errors are returned, not raised: torch would turn a worker's into RuntimeError."""

    def __init__(self, augment_for: Callable[[int], Augment], seed: int) -> None:
        self.augment_for, self.seed = augment_for, seed

    def __getitem__(self, item: Item) -> Batch | DataError:
        epoch, samples = item
        configured = self.augment_for(epoch)
        source = ReplaceDamaged(configured.source)
        augment = Augment(source, configured.settings)
        images = empty_images(len(samples), (augment.settings.side, augment.settings.side, 3))
        in_trainer = get_worker_info() is None  # the network waits meanwhile: paint with all of its threads
        drawn = []
        try:
            for (index, round_), out in zip(samples, images.numpy(), strict=True):
                sample = augment.draw(index, np.random.default_rng((self.seed, epoch, index, round_)))
                if not in_trainer:  # at once, so that images read from files are not held until the batch is complete
                    augment.paint(sample, out)
                    sample = sample.without_images()
                drawn.append(sample)
        except DataError as error:
            return error
        if in_trainer:
            list(in_threads(augment.paint, drawn, list(images.numpy()), threads=torch.get_num_threads()))
        return Batch(as_nchw(images), padded(*augment.people(drawn), len(drawn)), source.damaged)


class ReplaceDamaged:
    """A Source that replaces each damaged image by another one, for equal indices always the same.

    damaged: "name: reason" of every damaged image, once for each access.
    """

    def __init__(self, source: Source) -> None:
        self.skeleton, self.classes = source.skeleton, source.classes
        self.damaged: list[str] = []
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError if the image and all others tried, at most MAX_TRIES in total, are damaged."""
        try:
            return self._source[index]
        except DamagedImage as error:
            self.damaged.append(str(error))
        # In random order, because damaged images often are neighbors.
        others = [int(other) for other in np.random.default_rng(index).permutation(len(self)) if other != index]
        for other in others[: MAX_TRIES - 1]:
            try:
                return self._source[other]
            except DamagedImage as error:
                self.damaged.append(str(error))
        tried = min(len(self), MAX_TRIES)
        raise DataError(f"none of {tried} images tried, of {len(self)}, can be used; the last: {self.damaged[-1]}")


def _raise_errors(results: Iterator[Batch | DataError]) -> Iterator[Batch]:
    for result in results:
        if isinstance(result, DataError):
            break
        yield result
    else:
        return
    del results  # ends the workers, which the traceback would keep alive
    raise result


def _init_worker(worker: int) -> None:
    """Lower the priority of a worker and leave signals to the trainer.

    Terminals and schedulers send Ctrl-C and SIGTERM to every process; the trainer decides what they mean. A worker
    accepts SIGTERM only from the trainer: if it ignored it, a trainer that exits would wait for its workers forever.
    """
    os.nice(WORKER_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_with_trainer, daemon=True).start()


def _exit_with_trainer() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
