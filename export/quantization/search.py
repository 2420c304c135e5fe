"""Which layers stay float32: ranked by what each does to poses on its own, as few as an accuracy budget allows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice

import onnx

from .journal import Journal
from .plan import Plan
from .qdq import quantize
from .trials import Trial, Trials

PROBES = 24  # images a layer is ranked on
MAX_POSE_LOSS = 0.01  # without labels: the mean OKS of 0.99 that the gate asks for

Progress = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True)
class Found:
    """The plan chosen, how it did, and all that was tried: number of layers kept -> trial."""

    plan: Plan
    trial: Trial
    trials: dict[int, Trial]
    ranking: dict[str, float]  # layer -> pose loss with this layer alone in int8, falling; those that time allowed
    met: bool  # the budget is met
    finished: bool  # before the time was up


def rank(
    plan: Plan, model: onnx.ModelProto, trials: Trials, journal: Journal, progress: Progress, deadline: float = math.inf
) -> dict[str, float]:
    """Layer -> pose loss with this layer alone in int8; the most sensitive first.

    deadline: of ``time.monotonic``; layers that it leaves unmeasured are missing.
    """
    names = [layer.name for layer in plan.body.layers]
    losses = {}
    for i in progress(range(len(names)), len(names), "sensitivity of layers"):
        question = f"alone {names[i]}"
        if time.monotonic() > deadline and not journal.knows(question):
            break
        losses[names[i]] = float(journal.ask(question, partial(_loss_alone, plan, model, trials, names[i])))
    return dict(sorted(losses.items(), key=lambda item: -item[1]))


def _loss_alone(plan: Plan, model: onnx.ModelProto, trials: Trials, name: str) -> float:
    others = (layer.name for layer in plan.body.layers if layer.name != name)
    return trials.loss(quantize(model, plan.keeping(others)), PROBES)


def search(
    plan: Plan,
    model: onnx.ModelProto,
    trials: Trials,
    ranking: dict[str, float],
    order: Iterable[str],
    max_ap_drop: float,
    journal: Journal,
    say: Callable[[str], None],
    deadline: float,
) -> Found:
    """The fewest layers that must be kept for the budget: 0, 1, 2, 4 ... of ``order``, then halving.

    At least one layer is int8. deadline: of ``time.monotonic``; after it no trial but the first begins, and only what
    the journal knows is asked.
    """
    tried: dict[int, Trial] = {}
    layers, rest = len(plan.body.layers), iter(order)
    first: list[str] = []

    def keeping(count: int) -> Plan:
        first.extend(islice(rest, max(count - len(first), 0)))
        return plan.keeping(first[:count])

    def in_time(count: int) -> bool:
        return time.monotonic() <= deadline or not tried or journal.knows(f"keeping {count}")

    def meets(count: int) -> bool:
        answer = journal.ask(f"keeping {count}", lambda: asdict(trials.run(quantize(model, keeping(count)))))
        tried[count] = Trial(**answer)
        say(f"{count} of {layers} layers kept float32: {_told(tried[count])}")
        return within(tried[count], max_ap_drop)

    counts = [0, *(1 << i for i in range(layers.bit_length()) if 1 << i < layers - 1), layers - 1]
    failed, passed = -1, None
    finished = True
    for count in dict.fromkeys(counts):
        if not in_time(count):
            finished = False
            break
        if meets(count):
            passed = count
            break
        failed = count
    while passed is not None and passed - failed > 1:
        middle = (failed + passed) // 2
        if not in_time(middle):
            finished = False
            break
        if meets(middle):
            passed = middle
        else:
            failed = middle
    best = passed if passed is not None else min(tried, key=lambda count: _figure(tried[count]))
    return Found(keeping(best), tried[best], tried, ranking, passed is not None, finished)


def within(trial: Trial, max_ap_drop: float) -> bool:
    return trial.pose_loss <= MAX_POSE_LOSS if trial.drop is None else trial.drop <= max_ap_drop


def shortfall(found: Found, max_ap_drop: float) -> str:
    """Why the budget is not met on the images of the search, and by how much; empty where it is."""
    if found.met:
        return ""
    time_up = "" if found.finished else " in the time it had (more: --search-minutes)"
    trial, kept = found.trial, len(found.plan.kept)
    if trial.drop is None:
        wanted = f"mean OKS with float32 of {1 - trial.pose_loss:.4f} where {1 - MAX_POSE_LOSS:g} is asked for"
    else:
        wanted = f"{trial.drop:.2f} points of keypoint AP lost where {max_ap_drop:g} may be"
    return (
        f"the search found no int8 that keeps to the budget{time_up}: at best {wanted}, with {kept} layers kept float32"
    )


def _figure(trial: Trial) -> float:
    return trial.pose_loss if trial.drop is None else trial.drop


def _told(trial: Trial) -> str:
    poses = f"mean OKS with float32 {1 - trial.pose_loss:.4f}"
    if trial.drop is None:
        return poses
    return f"{poses}, keypoint AP lost {trial.drop:.2f} points, standard error {trial.error:.2f}"
