"""A training run from start to end: open data, network, resources, loop, report. ``train`` shows the steps in order."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime.console import Console
from yolopose.runtime.contract import skeleton_from_json
from yolopose.runtime.errors import CheckpointError, DataError, UsageError
from yolopose.runtime.images import cv2
from yolopose.runtime.skeleton import Skeleton

from ..checkpoints import load
from ..data.augment import Augment
from ..data.batch import Batch
from ..data.loader import Order, ReplaceDamaged, batches
from ..data.sources import LabeledImages, Labels, Mixed, Opened, SyntheticSource, is_yaml, open_labels, open_sources
from ..data.yolo_txt import read_yolo_folder
from ..evaluation import Convention
from ..model.config import NetConfig
from ..model.pose_net import PoseNet
from .distributed import rank, world_size
from .initial_net import check_size, initial_config, initial_net, plain_config, resumed_net
from .options import read_run_options, read_settings
from .preview import grid
from .report import Reporter
from .resources import (
    default_precision,
    device_for,
    image_bytes,
    images_fit,
    keep_memory,
    use_threads,
    workers_for,
)
from .run_folder import RunFolder, label_facts
from .settings import RunOptions, SessionOptions, TrainSettings
from .train_step import TrainStep
from .trainer import Interrupt, Stream, Trainer
from .validate import Validator

SAMPLES = 16  # in augmented.jpg
MAX_PROBLEMS = 10  # label problems that are printed; run.json has all
MAX_NAMES = 6  # tensors that are printed


@dataclass(frozen=True)
class RunInputs:
    """What a run works with: options and settings, opened data, and the network that a new run begins with."""

    options: RunOptions
    settings: TrainSettings
    source: Mixed
    val: Labels | None
    new: NewNetwork | None  # None: a run is resumed
    facts: dict[str, Any]  # for run.json


@dataclass(frozen=True)
class NewNetwork:
    """The kind of network, and the checkpoint of --weights that its weights are taken from."""

    config: NetConfig
    given: PoseNet | None


def train(inputs: RunInputs, session: SessionOptions, console: Console) -> dict[str, Any]:
    """One training session of a run, to its end or an interruption. Returns the outcome, after Ctrl-C too.

    Raises UsageError, Diverged, DataError, CheckpointError, OutputError; KeyboardInterrupt for a second Ctrl-C.
    """
    settings, source, first_process = inputs.settings, inputs.source, rank() == 0

    # Network: new, or that of the run to resume
    folder = _run_folder(inputs, session)
    net = new_net(inputs, console) if inputs.new else resumed_net(folder.last, folder.read().get("network"))

    # Resources: device, threads, worker processes, memory for images
    if settings.batch % world_size():
        raise UsageError(f"--batch {settings.batch} cannot be shared evenly by {world_size()} processes")
    device = device_for(session.device)
    use_threads(session.threads)
    in_memory = images_fit(source_bytes(source, settings))
    workers = workers_for(session.workers, device, in_memory)
    keep_memory(device)
    interrupt = Interrupt(session.max_minutes)

    # Loop: batches, optimizer step, validation
    order = Order(len(source), settings.batch, settings.seed)
    train_step = TrainStep(net, settings, order.steps_per_epoch, device)
    stream = stream_of(source, settings, order, workers, pin_memory=device.type == "cuda")
    validator = _validator(inputs, net) if first_process else None
    reporter = Reporter(folder, inputs.val, console, tensorboard=not session.no_tensorboard)
    trainer = Trainer(train_step, stream, validator, folder.path, console, reporter)
    if inputs.new is None:
        trainer.resume(folder.last)
    elif first_process:
        folder.check_new()
    preload(source, settings, in_memory, console)  # before anything is written: it takes long and may be interrupted

    # Report: run.json, samples, metrics and curves
    if first_process:
        _begin(inputs, folder, net, trainer.epoch + 1)
        if inputs.val is None:
            console.say("no --val: no validation, so best.pt is not written; last.pt holds the averaged network")
    with interrupt, reporter.open(trainer.epoch + 1) if first_process else nullcontext():
        finished = trainer.run(interrupt)
    outcome = _outcome(trainer, folder, finished, interrupt)
    if first_process:
        folder.record(outcome=outcome)
        if trainer.progress.damaged:
            console.say(f"{len(trainer.progress.damaged)} images could not be used; run.json names them")
    return outcome


# Data


def open_inputs(arguments: argparse.Namespace, session: SessionOptions, console: Console) -> RunInputs:
    """Open the data that the command line, or the run to resume, names. UsageError, DataError, CheckpointError."""
    new: NewNetwork | None = None
    weights: dict[str, Any] | None = None
    if session.resume:
        options, settings, weights = _stored_options(RunFolder(session.resume))
    else:
        options = read_run_options(arguments)
        given = load(options.weights) if options.weights else None
        config = initial_config(options.model, given)
        size = config.input.size if arguments.imgsz is None else arguments.imgsz
        check_size("--imgsz", size, config)
        precision = default_precision(device_for(session.device))
        settings = read_settings(arguments, size, config.input.pad_value, precision)
        if settings.augment.window is not None:
            check_size("--window", settings.augment.window, config)
        new = NewNetwork(config, given)
        if given is not None:
            weights = {"path": options.weights, "sha256": given.weights_sha256}
    opened = _open_data(options, settings)
    _say_problems(opened.problems, console)
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
    return RunInputs(options, settings, opened.source, val, new, facts)


def _stored_options(folder: RunFolder) -> tuple[RunOptions, TrainSettings, dict[str, Any] | None]:
    """Options and settings of the run in ``folder``, and the weights it began with, which need not exist any more."""
    stored = folder.read()
    try:
        return RunOptions(**stored["options"]), TrainSettings.from_dict(stored["settings"]), stored["weights"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder.run_json} is damaged or of another version of yolopose: {type(error).__name__}: {error}"
        ) from error


def _open_data(options: RunOptions, settings: TrainSettings) -> Opened:
    """Images are kept no larger than the largest scale of augmentation shows them."""
    skeleton = skeleton_from_json(Path(options.skeleton)) if options.skeleton else None
    images = Path(options.images) if options.images else None
    size = settings.augment.size
    return open_sources(options.data, images, skeleton, (size, size), round(_longest_side(settings)))


def _say_problems(problems: list[str], console: Console) -> None:
    for problem in problems[:MAX_PROBLEMS]:
        console.say(problem)
    if problems:
        shown = " (the first are above, run.json has all)" if len(problems) > MAX_PROBLEMS else ""
        console.say(f"{len(problems)} problems in the labels{shown}; training continues, corrected or without them")


def _check_mirror(skeleton: Skeleton, settings: TrainSettings, options: RunOptions) -> None:
    """UsageError where images would be mirrored although nothing says which keypoints are left and right."""
    given = options.skeleton or any(is_yaml(spec) and read_yolo_folder(spec).mirror_given for spec in options.data)
    if settings.augment.mirror and not skeleton.flip_pairs and skeleton.num_keypoints > 1 and not given:
        raise UsageError(
            "nothing says which keypoints are left and right of each other, so mirrored images would train one as the "
            "other; name them left_... and right_..., give --skeleton (or flip_idx in a YAML), or --mirror 0"
        )


def _open_val(options: RunOptions, source: Mixed) -> Labels | None:
    """Validation labels, with the skeleton and classes of the training data. DataError."""
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
    """For run.json: label files by content, synthetic scenes by their spec."""
    return {
        name: label_facts(part.dataset) if isinstance(part, LabeledImages) else {"scenes": name}
        for name, part in zip(source.names, source.sources, strict=True)
    }


# Network


def new_net(inputs: RunInputs, console: Console) -> PoseNet:
    """The network that a new run begins with."""
    assert inputs.new is not None
    source, settings, given = inputs.source, inputs.settings, inputs.new.given
    initial = initial_net(
        inputs.new.config, given, source.skeleton, source.classes, settings.augment.size, settings.seed
    )
    if given is not None:
        shown = ", ".join(initial.fresh[:MAX_NAMES]) + (", ..." if len(initial.fresh) > MAX_NAMES else "")
        new = f"{len(initial.fresh)} new tensors ({shown})" if initial.fresh else "no new tensors"
        console.say(f"{initial.taken} tensors from {inputs.options.weights}; {new}")
    return initial.net


# Resources


def source_bytes(source: Mixed, settings: TrainSettings) -> float:
    """Memory of all images, decoded."""
    return image_bytes(len(source), _longest_side(settings))


def _longest_side(settings: TrainSettings) -> float:
    """Pixels of an image at the largest scale of augmentation."""
    return settings.augment.size * max(settings.augment.scale[1], 1.0)


def preload(source: Mixed, settings: TrainSettings, in_memory: bool, console: Console) -> None:
    """Keep decoded images if they fit in memory, because decoding takes longer than augmentation."""
    cv2.setNumThreads(1)  # before workers fork: OpenCV's own threads do not survive it
    if in_memory:
        source.preload(console.progress)
        return
    for part in source.sources:
        if isinstance(part, SyntheticSource):  # drawing takes a hundred times as long as decoding
            part.preload(console.progress)
    if any(isinstance(part, LabeledImages) for part in source.sources):
        gib = source_bytes(source, settings) / 2**30
        console.say(
            f"{len(source)} images (up to {gib:.1f} GiB) would take too much memory; they are read from disk each time"
        )


# Loop


def stream_of(source: Mixed, settings: TrainSettings, order: Order, workers: int, *, pin_memory: bool) -> Stream:
    """The batches of a run for this process, from any step on."""
    augment_of = _augmentation(source, settings)

    def stream(first_step: int) -> Iterator[Batch]:
        return batches(
            order, augment_of, first_step=first_step, last_step=settings.epochs * order.steps_per_epoch,
            workers=workers, rank=rank(), world_size=world_size(), pin_memory=pin_memory,
        )  # fmt: skip

    return stream


def _augmentation(source: Mixed, settings: TrainSettings) -> Callable[[int], Augment]:
    """Augmentation by epoch: the last ``close_epochs`` see whole single images."""
    usual = Augment(source, settings.augment)
    closing = Augment(source, replace(settings.augment, window=None, mosaic=0.0, mixup=0.0))
    first_closing = settings.epochs - settings.close_epochs
    return lambda epoch: usual if epoch < first_closing else closing


def _validator(inputs: RunInputs, net: PoseNet) -> Validator | None:
    if inputs.val is None:
        return None
    size = inputs.settings.augment.size
    images: Convention = "with-people" if inputs.options.with_people else "all"
    return Validator(inputs.val.dataset, inputs.val.skeleton, net.input, (size, size), images)


# Report


def _run_folder(inputs: RunInputs, session: SessionOptions) -> RunFolder:
    if session.resume:
        folder = RunFolder(session.resume)
        if not folder.last.exists():
            raise UsageError(
                f"nothing to resume: {folder.path} has no last.pt, because its run ended before the first checkpoint; "
                "delete the folder and train again"
            )
        return folder
    options = inputs.options
    return RunFolder(session.output or Path("runs") / (options.model or Path(options.weights or "run").stem))


def _begin(inputs: RunInputs, folder: RunFolder, net: PoseNet, first_epoch: int) -> None:
    """Write run.json and, in a new run, an image of samples."""
    if inputs.new is None:
        stored = folder.read()  # facts that an earlier version did not store are not compared
        folder.resume({name: fact for name, fact in inputs.facts.items() if name in stored}, first_epoch=first_epoch)
        return
    folder.create({**inputs.facts, "network": plain_config(net)}, first_epoch=first_epoch)
    draw_samples(inputs, folder.samples / "augmented.jpg")


def draw_samples(inputs: RunInputs, path: Path) -> Path:
    """Draw what the network will see; damaged images are replaced as in training. DataError, OutputError."""
    source, seed = inputs.source, inputs.settings.seed
    augment = Augment(ReplaceDamaged(source), inputs.settings.augment)
    chosen = np.linspace(0, len(source) - 1, min(SAMPLES, len(source))).round().astype(int).tolist()
    samples = [augment(index, np.random.default_rng((seed, 0, index, 0))) for index in chosen]
    return grid(samples, source.skeleton, path)


def _outcome(trainer: Trainer, folder: RunFolder, finished: bool, interrupt: Interrupt) -> dict[str, Any]:
    progress = trainer.progress
    return {
        "run": str(folder.path), "finished": finished, "stopped_by": None if finished else interrupt.reason,
        "epochs": trainer.epoch, "best_ap": progress.best_ap if progress.best_epoch else None,
        "best_epoch": progress.best_epoch, "minutes": progress.seconds / 60,
        "damaged_images": sorted(progress.damaged.values()),
    }  # fmt: skip
