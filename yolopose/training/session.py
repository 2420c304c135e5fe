"""What a run works with: options, settings, data and the kind of network, from the command line or a run folder."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime.console import Console
from yolopose.runtime.errors import CheckpointError, DataError
from yolopose.runtime.skeleton import Skeleton, skeleton_from_json

from ..checkpoints import load
from ..data.augment import Augment
from ..data.sources import LabelledImages, Labels, Mixed, Opened, is_yaml, open_labels, open_sources
from ..data.stand_in import StandIns
from ..data.yolo_txt import read_yolo_folder
from ..model.net_config import NetConfig
from ..model.pose_net import PoseNet
from .facts import label_facts
from .initial import check_size, starting_config
from .options import Options, options_of, settings_of
from .preview import grid
from .resources import device_for, usual_precision
from .run_folder import RunFolder
from .settings import TrainSettings

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
        name: label_facts(part.dataset) if isinstance(part, LabelledImages) else {"scenes": name}
        for name, part in zip(source.names, source.sources, strict=True)
    }


def show_samples(session: Session, path: Path) -> Path:
    """A picture of what the network would see; others stand in for pictures that cannot be used.

    DataError when none can be; ValueError for a name that is no picture's; OutputError.
    """
    source, seed = session.source, session.settings.seed
    augment = Augment(StandIns(source), session.settings.augment)
    chosen = np.linspace(0, len(source) - 1, min(SHOWN_SAMPLES, len(source))).round().astype(int).tolist()
    samples = [augment(index, np.random.default_rng((seed, 0, index, 0))) for index in chosen]
    return grid(samples, source.skeleton, path)
