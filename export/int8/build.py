"""How each layer fared, for people to look at: JSON, and a picture of the ranking and of what was tried.

A float32 graph -> the int8 graph of one engine: calibrate, plan, rank, search.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from yolopose.data.image_set import ImageSet
from yolopose.runtime.contract import InputInfo
from yolopose.runtime.machine import installed_versions
from yolopose.runtime.output import atomic_write
from yolopose.runtime.skeleton import Skeleton

from ..config import Int8Config
from ..graph import letterboxed
from .layers import find_body
from .quantize import Plan, make_plan, quantize, tensors_to_sample
from .ranges import collect
from .search import Found, Journal, Progress, element_counts, keeping_order, rank, search
from .trials import Trials

SHOWN = 40  # layers in the picture, the most sensitive ones


def write_sensitivity(path: Path, found: Found) -> None:
    """``path`` (.json): ranking, trials, and how each tensor is rounded; beside it the picture, .png. OutputError."""
    plan = found.plan
    unranked = [layer.name for layer in plan.body.layers if layer.name not in found.ranking]
    document = {
        "target": plan.target,
        "layers": [
            {"name": name, "pose_loss_alone": loss, "kept_float32": name in plan.kept}
            for name, loss in (found.ranking | {name: None for name in unranked}).items()
        ],
        "trials": [{"layers_kept": count, **asdict(trial)} for count, trial in sorted(found.trials.items())],
        "tensors": {name: asdict(choice) for name, choice in plan.choices.items()},
    }
    atomic_write(path, json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    atomic_write(path.with_suffix(".png"), picture(found))


def picture(found: Found) -> bytes:
    """PNG: what each of the most sensitive layers costs alone, and what keeping more of them leaves."""
    from matplotlib.figure import Figure  # takes half a second to import

    names = list(found.ranking)[:SHOWN]
    figure = Figure(figsize=(11, 0.2 * len(names) + 2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    colours = ["#999999" if name in found.plan.kept else "#c44e52" for name in names]
    left.barh(range(len(names)), [found.ranking[name] for name in names], color=colours)
    left.set_yticks(range(len(names)), names, fontsize=6)
    left.invert_yaxis()
    left.set_xlabel("1 - OKS with float32, this layer alone in int8 (grey: stays float32)")
    counts = sorted(found.trials)
    trials = [found.trials[count] for count in counts]
    drops = [trial.drop for trial in trials if trial.drop is not None]
    places = range(len(counts))
    if drops:
        right.errorbar(places, drops, [trial.error or 0 for trial in trials], fmt="o-", color="#4c72b0", capsize=3)
        right.set_ylabel("keypoint AP lost, points")
    else:
        right.plot(places, [trial.pose_loss for trial in trials], "o-", color="#4c72b0")
        right.set_ylabel("1 - OKS with float32")
    right.set_xticks(places, [str(count) for count in counts])
    right.set_xlabel("layers kept float32")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


CALIBRATION = 64  # images
MIN_SHARE = 16  # images that calibration, search and report need each
MOST_SEARCHED = 256


@dataclass(frozen=True)
class Shares:
    """Images for three purposes, no image for two: what a plan was fitted to cannot tell how good it is."""

    calibration: ImageSet
    search: ImageSet
    report: ImageSet


def share_out(images: ImageSet, calibration: ImageSet | None, seed: int) -> Shares:
    """At random by ``seed``: 64 images (or a third) to calibrate unless others are given for that, of the rest one half
    to search with, at most 256, and the other to report on. ValueError where there are too few, or one in both."""
    if calibration is not None:
        theirs = {path.resolve() for path in images.paths}
        twice = [path for path in calibration.paths if path.resolve() in theirs]
        if twice:
            raise ValueError(
                f"{twice[0]} ({len(twice)} in all) is to calibrate int8 and to judge it: name other images, or leave "
                "--calibration out and some of --images are set aside for it"
            )
    order = np.random.default_rng(seed).permutation(len(images))
    own = 0 if calibration is not None else min(CALIBRATION, len(images) // 3)
    searched = min(MOST_SEARCHED, (len(images) - own) // 2)
    shares = (
        calibration if calibration is not None else images.part(sorted(order[:own].tolist())),
        images.part(sorted(order[own : own + searched].tolist())),
        images.part(sorted(order[own + searched :].tolist())),
    )
    parts = 2 if calibration is not None else 3
    for purpose, share in zip(("calibrate on", "search with", "report on"), shares, strict=True):
        if len(share) < MIN_SHARE:
            raise ValueError(
                f"int8 needs at least {MIN_SHARE} images to {purpose}, none of them used twice, so {parts * MIN_SHARE} "
                f"in all (better {CALIBRATION} and some hundreds); {images.description} has {len(images)}"
                + (f", {calibration.description} {len(calibration)}" if calibration is not None else "")
                + ": name more, or none to use synthetic scenes"
            )
    return Shares(*shares)


def to_int8(
    model: onnx.ModelProto,
    shares: Shares,
    given: InputInfo,
    skeleton: Skeleton,
    config: Int8Config,
    max_ap_drop: float,
    journal: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[onnx.ModelProto, Found]:
    """The int8 graph, and what the search found: ``met`` says whether the budget holds on the search's images.

    max_ap_drop: points. journal: file that an interrupted search goes on from; it is removed when the budget is met.
    ValueError for a graph that cannot become int8, ArtifactError for values that are not finite.
    """
    body = find_body(model)
    tensors = tensors_to_sample(body, config.target)
    frames = [frame for frame, _ in letterboxed(shares.calibration, given)]
    count = len(frames)
    each = (frames[i] for i in progress(range(count), count, "calibration"))
    samples = collect(model, tensors, each, config.seed, rows=given.batch.min)

    def tick(names: Sequence[str]) -> Iterable[str]:
        return (names[i] for i in progress(range(len(names)), len(names), "ranges of tensors"))

    plan = make_plan(body, samples, config.target, tick)
    del samples
    trials = Trials(model, shares.search, given, skeleton)
    notes = Journal(journal, _key(model, config, frames, trials))
    deadline = time.monotonic() + 60 * config.search_minutes
    ranking = rank(plan, model, trials, notes, progress, deadline)
    order = keeping_order(plan, ranking, element_counts(model, body, frames[0], given.batch.min))
    found = search(plan, model, trials, ranking, order, max_ap_drop, notes, say, deadline)
    if found.finished and found.met:
        notes.remove()
        if len(ranking) < len(body.layers):
            say(f"time for {len(ranking)} of {len(body.layers)} layers in the ranking; none of them has to be kept")
    elif not found.finished:
        say("the time of the search was up; the same command with more --search-minutes goes on from here")
    rounded = quantize(model, found.plan)
    onnx.checker.check_model(rounded, full_check=True)
    return rounded, found


def _key(model: onnx.ModelProto, config: Int8Config, frames: Sequence[np.ndarray], trials: Trials) -> str:
    """Of everything that decides the answers, but the budget and the time, which only decide what is asked."""
    digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    digest.update(f"{config.target} {config.seed} {installed_versions()} {trials.skeleton.sigmas}".encode())
    for people in trials.labelled_people():
        digest.update(f"{people}".encode())
    for frame in (*frames, *(frame for frame, _ in trials.frames)):
        digest.update(frame.tobytes())
    return digest.hexdigest()


def kept_layers(plan: Plan) -> tuple[str, ...]:
    """Names of the layers that stay float32, in graph order."""
    return tuple(layer.name for layer in plan.body.layers if layer.name in plan.kept)
