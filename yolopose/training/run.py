"""The network that a training begins with: a new one, or one that takes over what it can from a checkpoint.

What a run works with: options, settings, data and the kind of network, from the command line or a run folder.

One sitting of a run: network, trainer, run folder and logs put together; the one module that knows all others.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from yolopose.runtime.console import Console
from yolopose.runtime.contract import skeleton_from_json
from yolopose.runtime.errors import CheckpointError, DataError
from yolopose.runtime.images import cv2
from yolopose.runtime.skeleton import Skeleton, generic_skeleton

from ..checkpoints import load
from ..data.augment import Augment
from ..data.batch import Batch
from ..data.loader import Order, ReplaceDamaged, batches
from ..data.sources import LabeledImages, Labels, Mixed, Opened, SyntheticSource, is_yaml, open_labels, open_sources
from ..data.yolo_txt import read_yolo_folder
from ..evaluation import Convention
from ..model.config import NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import SIZES, build
from .command import Options, options_of, settings_of
from .preview import grid
from .processes import (
    MEMORY_SHARE,
    device_for,
    free_memory,
    keep_memory,
    pictures_bytes,
    rank,
    use_threads,
    usual_precision,
    workers_for,
    world_size,
)
from .report import Logs, Reporter
from .run_folder import RunFolder, label_facts
from .settings import TrainSettings
from .train_step import Engine
from .trainer import Interrupt, Stream, Trainer
from .validate import Validator

KEYPOINT_PREDICTIONS = ("head.keypoint_predictions.", "head.visibility_predictions.")


class Start(NamedTuple):
    """A network in training mode and where its weights came from."""

    net: PoseNet
    taken: int  # tensors taken from the checkpoint
    fresh: list[str]  # tensors that begin anew


def starting_config(model: str | None, given: PoseNet | None) -> NetConfig:
    """The network to train, before it is fitted to the data. ``model``: a name in SIZES, None: that of ``given``.

    Tensors keep their meaning: what the weights of ``given`` expect (colours, order of channels, anchors) is taken with
    them, also where the named network is another size. ValueError for an unknown model or one of another family.
    """
    if model is None:
        if given is None:
            raise ValueError(f"name a --model ({', '.join(SIZES)}) to train from scratch, or --weights to go on from")
        return given.config
    if model not in SIZES:
        raise ValueError(f"there is no network called {model!r}; choose one of {', '.join(SIZES)}")
    config = SIZES[model]
    if given is None:
        return config
    theirs = given.config
    if theirs.family != config.family:
        raise ValueError(
            f"the weights are of a {theirs.family} network ({theirs.name}), nothing of which fits {config.name}; "
            "leave --model out to train the network in the file"
        )
    return replace(
        config, input=theirs.input, focus_order=theirs.focus_order, head=theirs.head,
        legacy_layout=theirs.legacy_layout, anchors=theirs.anchors,
    )  # fmt: skip


def check_size(flag: str, size: int, config: NetConfig) -> None:
    """ValueError unless a network can have pictures of ``size`` x ``size``."""
    multiple = config.input.multiple
    if size < multiple or size % multiple:
        raise ValueError(f"{flag} must be a multiple of {multiple} for {config.name}, got {size}")


def initial_net(
    config: NetConfig, given: PoseNet | None, skeleton: Skeleton, classes: tuple[str, ...], size: int, seed: int
) -> Start:
    """``size``: pixels of its square input; ``seed``: of the weights that are new.

    Tensors of ``given`` that have a place of the same shape are taken, so another number of keypoints costs the layers
    that predict keypoints and no more. ValueError for weights of which nothing fits.
    """
    check_size("--imgsz", size, config)
    config = replace(config, skeleton=skeleton, classes=classes, input=replace(config.input, size=size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(config)
    if given is None:
        return Start(net, 0, [])
    theirs, mine = given.state_dict(), net.state_dict()
    fits = {name: tensor for name, tensor in theirs.items() if name in mine and mine[name].shape == tensor.shape}
    if _other_points(given.skeleton, skeleton):
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith(KEYPOINT_PREDICTIONS)}
    if not any(tensor.ndim > 1 for tensor in fits.values()):
        raise ValueError(
            f"nothing in the weights of {given.config.name} fits {config.name}; "
            "leave --model out to train the network in the file"
        )
    net.load_state_dict(fits, strict=False)
    net.weights_licence = given.weights_licence  # terms of use stay with what is made of the weights
    return Start(net, len(fits), sorted(mine.keys() - fits.keys()))


def _other_points(theirs: Skeleton, ours: Skeleton) -> bool:
    """Whether equally many keypoints are others, or in another order; of nameless ones that is not known."""
    nameless = generic_skeleton(len(ours.names)).names
    return theirs.names != ours.names and nameless not in (theirs.names, ours.names)


SHOWN_SAMPLES = 16
SHOWN_PROBLEMS = 10  # run.json has all


@dataclass(frozen=True)
class Session:
    """What one sitting of a run works with."""

    options: Options
    settings: TrainSettings
    source: Mixed
    val: Labels | None
    start: tuple[NetConfig, PoseNet | None] | None  # the network and what it takes weights from; None: resume
    facts: dict[str, Any]  # of run.json


def open_session(arguments: argparse.Namespace, console: Console) -> Session:
    """Read the data that the command line, or the run to resume, names. DataError, CheckpointError, ValueError."""
    start = None
    weights: dict[str, Any] | None = None
    if arguments.resume:
        options, settings, weights = _stored(arguments.resume)
    else:
        options = options_of(arguments)
        given = load(options.weights) if options.weights else None
        config = starting_config(options.model, given)
        size = config.input.size if arguments.imgsz is None else arguments.imgsz
        check_size("--imgsz", size, config)
        precision = usual_precision(device_for(arguments.device))
        settings = settings_of(arguments, size, config.input.pad_value, precision)
        if settings.augment.window is not None:
            check_size("--window", settings.augment.window, config)
        start = config, given
        if given is not None:
            weights = {"path": options.weights, "sha256": given.weights_sha256}
    skeleton = skeleton_from_json(Path(options.skeleton)) if options.skeleton else None
    opened = _open_data(options, settings, skeleton)
    _tell(opened.problems, console)
    _check_mirror(opened.source.skeleton, settings, options)
    val = _open_val(options, opened.source)
    facts = {
        "options": options.to_dict(),
        "settings": settings.to_dict(),
        "data": _data_facts(opened.source),
        "validation": label_facts(val.dataset) if val else None,
        "weights": weights,
        "images": len(opened.source),
        "skeleton": opened.source.skeleton.to_dict(),
        "label_problems": opened.problems,
    }
    return Session(options, settings, opened.source, val, start, facts)


def _stored(folder: Path) -> tuple[Options, TrainSettings, dict[str, Any] | None]:
    """Options and settings of the run in ``folder``, and which weights it began with: they need not exist any more."""
    run = RunFolder(folder)
    stored = run.read()
    try:
        return Options(**stored["options"]), TrainSettings.from_dict(stored["settings"]), stored["weights"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{run.run_json} is damaged or of another version of yolopose: {type(error).__name__}: {error}"
        ) from error


def _open_data(options: Options, settings: TrainSettings, skeleton: Skeleton | None) -> Opened:
    """Pictures are kept no larger than the largest scale of augmentation will show them."""
    augment = settings.augment
    side = round(augment.size * max(augment.scale[1], 1.0))
    images = Path(options.images) if options.images else None
    return open_sources(options.data, images, skeleton, (augment.size, augment.size), side)


def _tell(problems: list[str], console: Console) -> None:
    for problem in problems[:SHOWN_PROBLEMS]:
        console.say(problem)
    if problems:
        shown = " (the first are above, run.json has all)" if len(problems) > SHOWN_PROBLEMS else ""
        console.say(f"{len(problems)} problems in the labels{shown}; training goes on, corrected or without them")


def _check_mirror(skeleton: Skeleton, settings: TrainSettings, options: Options) -> None:
    """ValueError where mirrored pictures would teach left as right because nobody said which points are pairs."""
    said = options.skeleton or any(is_yaml(spec) and read_yolo_folder(spec).mirror_given for spec in options.data)
    if settings.augment.mirror and not skeleton.flip_pairs and skeleton.num_keypoints > 1 and not said:
        raise ValueError(
            "nothing says which keypoints are left and right of each other, so mirrored pictures would teach one as "
            "the other; name them left_... and right_..., give --skeleton (or flip_idx in a YAML), or --mirror 0"
        )


def _open_val(options: Options, source: Mixed) -> Labels | None:
    """Labels of the same people as those to train on. DataError."""
    spec = options.val
    if spec is None:
        yamls = [data for data in options.data if is_yaml(data)]
        spec = next((data for data in yamls if read_yolo_folder(data).splits.get("val")), None)
    if spec is None:
        return None
    labels = open_labels(spec, Path(options.val_images) if options.val_images else None, source.skeleton)
    classes = tuple(category.name for category in labels.dataset.categories)
    if classes != source.classes:
        raise DataError(
            f"{spec} has classes {list(classes)}, the training data {list(source.classes)}; they must be the same, "
            "in the same order"
        )
    return labels


def _data_facts(source: Mixed) -> dict[str, Any]:
    """What each part of the data is: labels by content, painted scenes by how they are asked for."""
    return {
        name: label_facts(part.dataset) if isinstance(part, LabeledImages) else {"scenes": name}
        for name, part in zip(source.names, source.sources, strict=True)
    }


def show_samples(session: Session, path: Path) -> Path:
    """A picture of what the network would see; others stand in for pictures that cannot be used.

    DataError when none can be; ValueError for a name that is no picture's; OutputError.
    """
    source, seed = session.source, session.settings.seed
    augment = Augment(ReplaceDamaged(source), session.settings.augment)
    chosen = np.linspace(0, len(source) - 1, min(SHOWN_SAMPLES, len(source))).round().astype(int).tolist()
    samples = [augment(index, np.random.default_rng((seed, 0, index, 0))) for index in chosen]
    return grid(samples, source.skeleton, path)


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
    if any(isinstance(part, LabeledImages) for part in source.sources):
        console.say(
            f"{len(source)} pictures (up to {_bytes(source, settings) / 2**30:.1f} GiB) would take too much memory; "
            "they are read each time"
        )


def fits_in_memory(source: Mixed, settings: TrainSettings) -> bool:
    """All pictures, decoded. To be asked once, before they are loaded: then less is free."""
    return _bytes(source, settings) < MEMORY_SHARE * free_memory()


def _bytes(source: Mixed, settings: TrainSettings) -> float:
    return pictures_bytes(len(source), settings.augment.size * max(settings.augment.scale[1], 1.0))
