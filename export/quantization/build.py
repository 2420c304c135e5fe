"""A float32 graph -> the int8 graph of one engine: calibrate, plan, rank, search."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from yolopose.runtime.contract import InputInfo
from yolopose.runtime.machine import installed_versions
from yolopose.runtime.skeleton import Skeleton

from ..graph_run import letterboxed
from ..images import ExportImages
from .calibration import collect
from .cost import element_counts, keeping_order
from .journal import Journal
from .layers import find_body
from .plan import Int8Config, Plan, make_plan, tensors_to_sample
from .qdq import quantize
from .search import Found, Progress, rank, search
from .trials import Trials

CALIBRATION = 64  # images
MIN_SHARE = 16  # images that calibration, search and report need each
MOST_SEARCHED = 256


@dataclass(frozen=True)
class Shares:
    """Images for three purposes, no image for two: what a plan was fitted to cannot tell how good it is."""

    calibration: ExportImages
    search: ExportImages
    report: ExportImages


def share_out(images: ExportImages, calibration: ExportImages | None, seed: int) -> Shares:
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
                f"in all (better {CALIBRATION} and some hundreds); {images.source} has {len(images)}"
                + (f", {calibration.source} {len(calibration)}" if calibration is not None else "")
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
