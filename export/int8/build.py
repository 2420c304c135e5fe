"""From a float32 graph to the int8 graph of one backend: split the images, calibrate, plan, rank, search, report."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from yolopose.data.image_set import ImageSet
from yolopose.runtime.contract import InputInfo
from yolopose.runtime.errors import UsageError
from yolopose.runtime.machine import installed_versions
from yolopose.runtime.output import atomic_write
from yolopose.runtime.skeleton import Skeleton

from ..config import Int8Config
from ..graph import letterboxed
from .layers import find_body
from .quantize import QuantizationPlan, make_plan, quantize, tensors_to_sample
from .ranges import Progress, collect_samples
from .search import ResumeCache, SearchResult, element_counts, float32_order, rank, search
from .trials import Trials

CALIBRATION = 64  # images
MIN_SHARE = 16  # images needed each for calibration, search and report
MAX_SEARCH_IMAGES = 256
SHOWN_LAYERS = 40  # layers in the figure, the most sensitive ones


@dataclass(frozen=True)
class Shares:
    """Disjoint images for three purposes: images to which a graph was fitted cannot show how accurate it is."""

    calibration: ImageSet
    search: ImageSet
    report: ImageSet


def share_out(images: ImageSet, calibration: ImageSet | None, seed: int) -> Shares:
    """Split ``images`` at random by ``seed``.

    ``CALIBRATION`` images (or a third, if that is fewer) are for calibration, unless ``calibration`` gives others. Half
    of the rest, at most ``MAX_SEARCH_IMAGES``, is for the search, the others are for the report. UsageError for too few
    images, or if an image of ``calibration`` is also in ``images``.
    """
    if calibration is not None:
        paths = {path.resolve() for path in images.paths}
        shared = [path for path in calibration.paths if path.resolve() in paths]
        if shared:
            raise UsageError(
                f"{shared[0]} ({len(shared)} in all) is in --calibration and in the images that judge int8: name other "
                "images, or leave --calibration out and some of --images are used for it"
            )
    order = np.random.default_rng(seed).permutation(len(images))
    own = 0 if calibration is not None else min(CALIBRATION, len(images) // 3)
    searched = min(MAX_SEARCH_IMAGES, (len(images) - own) // 2)
    shares = (
        calibration if calibration is not None else images.part(sorted(order[:own].tolist())),
        images.part(sorted(order[own : own + searched].tolist())),
        images.part(sorted(order[own + searched :].tolist())),
    )
    parts = 2 if calibration is not None else 3
    for purpose, share in zip(("calibration", "the search", "the report"), shares, strict=True):
        if len(share) < MIN_SHARE:
            raise UsageError(
                f"int8 needs at least {MIN_SHARE} images for {purpose}, no image is used twice: {parts * MIN_SHARE} in "
                f"all (better {CALIBRATION} and some hundreds); {images.description} has {len(images)}"
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
    cache_path: Path,
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[onnx.ModelProto, SearchResult]:
    """The int8 graph of the float32 ``model``, and the result of the search.

    max_ap_drop: points. cache_path: file from which an interrupted search continues; removed once the budget is met.
    UsageError for a graph that cannot become int8, ArtifactError for values that are not finite.
    """
    body = find_body(model)
    tensors = tensors_to_sample(body, config.target)
    frames = [frame for frame, _ in letterboxed(shares.calibration, given)]
    count = len(frames)
    calibration = (frames[i] for i in progress(range(count), count, "calibration"))
    samples = collect_samples(model, tensors, calibration, config.seed, rows=given.batch.min)
    plan = make_plan(body, samples, config.target, progress)
    del samples
    trials = Trials(model, shares.search, given, skeleton)
    cache = ResumeCache(cache_path, _cache_key(model, config, frames, trials))
    deadline = time.monotonic() + 60 * config.search_minutes
    ranking = rank(plan, model, trials, cache, progress, deadline)
    order = float32_order(plan, ranking, element_counts(model, body, frames[0], given.batch.min))
    result = search(plan, model, trials, ranking, order, max_ap_drop, cache, say, deadline)
    if result.search_done and result.budget_met:
        cache.remove()
        if len(ranking) < len(body.layers):
            say(f"time to rank {len(ranking)} of {len(body.layers)} layers; none of them has to stay float32")
    elif not result.search_done:
        say("the time of the search was up; the same command with more --search-minutes continues it")
    quantized = quantize(model, result.plan)
    onnx.checker.check_model(quantized, full_check=True)
    return quantized, result


def _cache_key(model: onnx.ModelProto, config: Int8Config, frames: Sequence[np.ndarray], trials: Trials) -> str:
    """Hash of everything that determines the results of trials. Budget and time only decide which trials are run."""
    digest = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    digest.update(f"{config.target} {config.seed} {installed_versions()} {trials.skeleton.sigmas}".encode())
    for person in trials.labels():
        digest.update(f"{person}".encode())
    for frame in (*frames, *(frame for frame, _ in trials.frames)):
        digest.update(frame.tobytes())
    return digest.hexdigest()


def kept_layers(plan: QuantizationPlan) -> tuple[str, ...]:
    """Names of the layers that stay float32, in graph order."""
    return tuple(layer.name for layer in plan.body.layers if layer.name in plan.float32_layers)


def write_sensitivity(path: Path, result: SearchResult) -> None:
    """Write ``path`` (.json): ranking, trials and the range of each tensor; and the figure, .png. OutputError."""
    plan = result.plan
    unranked = [layer.name for layer in plan.body.layers if layer.name not in result.ranking]
    document = {
        "target": plan.target,
        "layers": [
            {"name": name, "pose_loss_alone": loss, "kept_float32": name in plan.float32_layers}
            for name, loss in (result.ranking | dict.fromkeys(unranked)).items()
        ],
        "trials": [{"layers_kept": count, **asdict(trial)} for count, trial in sorted(result.trials.items())],
        "tensors": {name: asdict(choice) for name, choice in plan.choices.items()},
    }
    atomic_write(path, json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    atomic_write(path.with_suffix(".png"), sensitivity_figure(result))


def sensitivity_figure(result: SearchResult) -> bytes:
    """PNG: loss of each of the most sensitive layers alone in int8, and loss over the number of float32 layers."""
    from matplotlib.figure import Figure  # takes half a second to import

    names = list(result.ranking)[:SHOWN_LAYERS]
    figure = Figure(figsize=(11, 0.2 * len(names) + 2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    colors = ["#999999" if name in result.plan.float32_layers else "#c44e52" for name in names]
    left.barh(range(len(names)), [result.ranking[name] for name in names], color=colors)
    left.set_yticks(range(len(names)), names, fontsize=6)
    left.invert_yaxis()
    left.set_xlabel("1 - OKS with float32, this layer alone in int8 (gray: stays float32)")
    counts = sorted(result.trials)
    trials = [result.trials[count] for count in counts]
    drops = [trial.drop for trial in trials if trial.drop is not None]
    positions = range(len(counts))
    if drops:
        right.errorbar(positions, drops, [trial.error or 0 for trial in trials], fmt="o-", color="#4c72b0", capsize=3)
        right.set_ylabel("keypoint AP lost, points")
    else:
        right.plot(positions, [trial.pose_loss for trial in trials], "o-", color="#4c72b0")
        right.set_ylabel("1 - OKS with float32")
    right.set_xticks(positions, [str(count) for count in counts])
    right.set_xlabel("float32 layers")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()
