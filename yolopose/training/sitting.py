"""One sitting of a run: network, trainer, run folder and logs put together; the one module that knows all others."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from yolopose.runtime.console import Console
from yolopose.runtime.opencv import cv2

from ..checkpoints import load
from ..data.augment import Augment
from ..data.batch import Batch
from ..data.loader import Order, batches
from ..data.sources import LabelledImages, Mixed, SyntheticSource
from ..evaluation import Convention
from ..model.pose_net import PoseNet
from .distributed import rank, world_size
from .engine import Engine
from .initial import initial_net
from .interrupt import Interrupt
from .logs import Logs
from .report import Reporter
from .resources import MEMORY_SHARE, device_for, free_memory, keep_memory, pictures_bytes, use_threads, workers_for
from .run_folder import RunFolder
from .session import Session, show_samples
from .settings import TrainSettings
from .trainer import Stream, Trainer
from .validate import Validator

SHOWN_NAMES = 6


def train(session: Session, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Train to the end or to an interruption; the outcome as plain values, after Ctrl-C too.

    Raises Diverged, DataError, OutputError, ValueError; KeyboardInterrupt for a second Ctrl-C.
    """
    settings, source = session.settings, session.source
    if settings.batch % world_size():
        raise ValueError(f"--batch {settings.batch} cannot be shared evenly by {world_size()} processes")
    device = device_for(arguments.device)
    use_threads(arguments.threads)
    in_memory = fits_in_memory(source, settings)
    workers = workers_for(arguments.workers, device, in_memory)
    keep_memory(device)
    interrupt = Interrupt(arguments.max_minutes)
    folder = _folder(session, arguments)
    net = new_net(session, console) if session.start else _resumed_net(folder)
    order = Order(len(source), settings.batch, settings.seed)
    engine = Engine(net, settings, order.steps_per_epoch, device)
    stream = stream_of(source, settings, order, workers, pin_memory=device.type == "cuda")
    trainer = Trainer(engine, stream, _validator(session, net), folder.path, console, lambda row, validation: None)
    if session.start is None:
        trainer.resume(folder.last)
    if rank() == 0:
        RunFolder.check(folder.path, resume=session.start is None)
    preload(source, settings, in_memory, console)  # before anything is written: it may take long, and be interrupted
    if rank() == 0:
        _begin(session, folder, net, trainer.epoch + 1)
        if session.val is None:
            console.say("no --val: nothing is measured, and best.pt is not written; last.pt has the averaged network")
    reporter = None
    with ExitStack() as stack:
        if rank() == 0:
            board = None if arguments.no_tensorboard else folder.tensorboard
            logs = stack.enter_context(Logs(folder.metrics_csv, board, console.say, trainer.epoch + 1))
            trainer.report = reporter = Reporter(folder, logs, session.val, console)
        finished = trainer.run(stack.enter_context(interrupt))
        if reporter:
            reporter.finish()
    return _outcome(trainer, folder, finished, interrupt, console)


def stream_of(source: Mixed, settings: TrainSettings, order: Order, workers: int, *, pin_memory: bool) -> Stream:
    """The batches of a run for this process, from any step on."""

    def stream(first_step: int) -> Iterator[Batch]:
        return batches(
            order, _Augmentation(source, settings), first_step=first_step,
            last_step=settings.epochs * order.steps_per_epoch, workers=workers, rank=rank(), world_size=world_size(),
            pin_memory=pin_memory,
        )  # fmt: skip

    return stream


def _folder(session: Session, arguments: argparse.Namespace) -> RunFolder:
    if arguments.resume:
        folder = RunFolder(arguments.resume)
        if not folder.last.exists():
            raise ValueError(
                f"nothing to resume: {folder.path} has no last.pt, its run ended before the first; "
                "delete the folder and train again"
            )
        return folder
    options = session.options
    return RunFolder(arguments.output or Path("runs") / (options.model or Path(options.weights or "run").stem))


def new_net(session: Session, console: Console) -> PoseNet:
    """The network that a new run begins with."""
    assert session.start is not None
    config, given = session.start
    source, settings = session.source, session.settings
    start = initial_net(config, given, source.skeleton, source.classes, settings.augment.size, settings.seed)
    if given is not None:
        shown = ", ".join(start.fresh[:SHOWN_NAMES]) + (", ..." if len(start.fresh) > SHOWN_NAMES else "")
        begin = f"{len(start.fresh)} begin anew ({shown})" if start.fresh else "none begins anew"
        console.say(f"{start.taken} tensors from {session.options.weights}; {begin}")
    return start.net


def _resumed_net(folder: RunFolder) -> PoseNet:
    """The network of last.pt, which must be that of the run. ValueError, CheckpointError."""
    net = load(folder.last).train()
    stored, found = folder.read().get("network"), _plain(net)
    if stored is not None and stored != found:
        odd = ", ".join(sorted(key for key in {**stored, **found} if stored.get(key) != found.get(key)))
        raise ValueError(
            f"{folder.last} holds {found['name']}, but this run trains {stored['name']} (they differ in: {odd}); "
            "put the run's own last.pt back, or train anew with the file as --weights"
        )
    return net


def _plain(net: PoseNet) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(net.config.to_dict()))
    return document


def _validator(session: Session, net: PoseNet) -> Validator | None:
    if session.val is None or rank():
        return None
    size = session.settings.augment.size
    images: Convention = "with-people" if session.options.with_people else "all"
    return Validator(session.val.dataset, session.val.skeleton, net.input, (size, size), images)


def _begin(session: Session, folder: RunFolder, net: PoseNet, first_epoch: int) -> None:
    """run.json and, in a new run, a picture of samples."""
    if session.start is None:
        stored = folder.read()  # facts that this version knows and the run's own did not are not held against it
        known = {key: value for key, value in session.facts.items() if key in stored}
        RunFolder.create(folder.path, known, resume=True, start_epoch=first_epoch)
        return
    RunFolder.create(folder.path, {**session.facts, "network": _plain(net)}, resume=False, start_epoch=first_epoch)
    show_samples(session, folder.samples / "augmented.jpg")


def _outcome(
    trainer: Trainer, folder: RunFolder, finished: bool, interrupt: Interrupt, console: Console
) -> dict[str, Any]:
    progress = trainer.progress
    outcome = {
        "run": str(folder.path), "finished": finished, "stopped_by": None if finished else interrupt.reason,
        "epochs": trainer.epoch, "best_ap": progress.best_ap if progress.best_epoch else None,
        "best_epoch": progress.best_epoch, "minutes": progress.seconds / 60,
        "damaged_images": sorted(progress.damaged.values()),
    }  # fmt: skip
    if rank() == 0:
        folder.record(outcome=outcome)
        if progress.damaged:
            console.say(f"{len(progress.damaged)} pictures could not be used; run.json names them")
    return outcome


class _Augmentation:
    """That of an epoch: in the last ones whole pictures, one at a time."""

    def __init__(self, source: Mixed, settings: TrainSettings) -> None:
        self.usual = Augment(source, settings.augment)
        self.closing = Augment(source, replace(settings.augment, window=None, mosaic=0.0, mixup=0.0))
        self.first_closing = settings.epochs - settings.close_epochs

    def __call__(self, epoch: int) -> Augment:
        return self.usual if epoch < self.first_closing else self.closing


def preload(source: Mixed, settings: TrainSettings, in_memory: bool, console: Console) -> None:
    """Keep decoded pictures where they fit, see ``fits_in_memory``: decoding would take more time than augmenting."""
    cv2.setNumThreads(1)  # before workers fork: OpenCV's own threads do not survive it
    if in_memory:
        source.preload(console.progress)
        return
    for part in source.sources:
        if isinstance(part, SyntheticSource):  # drawing takes a hundred times as long as decoding
            part.preload(console.progress)
    if any(isinstance(part, LabelledImages) for part in source.sources):
        console.say(
            f"{len(source)} pictures (up to {_bytes(source, settings) / 2**30:.1f} GiB) would take too much memory; "
            "they are read each time"
        )


def fits_in_memory(source: Mixed, settings: TrainSettings) -> bool:
    """All pictures, decoded. To be asked once, before they are loaded: then less is free."""
    return _bytes(source, settings) < MEMORY_SHARE * free_memory()


def _bytes(source: Mixed, settings: TrainSettings) -> float:
    return pictures_bytes(len(source), settings.augment.size * max(settings.augment.scale[1], 1.0))
