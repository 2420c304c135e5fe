"""What a search has measured so far, on disk, so that an interrupted one goes on where it was.

In which order layers are kept: first those that give back most accuracy for the time that they cost.

A layer alone in the middle of integers costs two conversions; beside the image, the prediction convolutions or layers
that are kept already it costs hardly any. On ONNX Runtime fifteen scattered layers cost half of the gain of int8, the
first sixteen of the same network together a twentieth (docs/log.md). Time is modelled, not measured, so that the same
inputs give the same file.

Which layers stay float32: ranked by what each does to poses on its own, as few as an accuracy budget allows.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from yolopose.runtime.output import atomic_write

from ..config import Target
from ..graph import feed, open_session, with_outputs
from .layers import Body, Layer
from .quantize import Plan, integer_nodes, quantize
from .trials import Trial, Trials


class Journal:
    """Answers by name, written after each one. Those of another ``key`` (other weights, images or options) are
    left out."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.answers: dict[str, Any] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet, or not one of ours: it is made anew
            return
        if isinstance(stored, dict) and stored.get("key") == key and isinstance(stored.get("answers"), dict):
            self.answers = stored["answers"]

    def ask(self, name: str, measure: Callable[[], Any]) -> Any:
        """The answer of an earlier run, or ``measure()``."""
        if name not in self.answers:
            self.answers[name] = measure()
            text = json.dumps({"key": self.key, "answers": self.answers}, ensure_ascii=False, allow_nan=False)
            atomic_write(self.path, text + "\n")
        return self.answers[name]

    def knows(self, name: str) -> bool:
        return name in self.answers

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


MACS_PER_ELEMENT = 200  # multiply-adds in int8 that save as much as converting one element costs
SILU_PER_ELEMENT = 1.5  # conversions that SiLU in integers costs more than in floating point, where it is one kernel


def element_counts(model: onnx.ModelProto, body: Body, frame: np.ndarray, rows: int = 1) -> dict[str, int]:
    """Elements of one image in each tensor of the body. frame: letterboxed (h, w, 3) uint8; rows: of a fixed batch."""
    tensors = [output for node in body.nodes for output in node.output]
    values = open_session(with_outputs(model, tensors)).run(tensors, feed([frame], rows=rows))
    return {name: int(value[0].size) for name, value in zip(tensors, values, strict=True)}


def cost(plan: Plan, elements: Mapping[str, int]) -> float:
    """Elements converted between integers and floating point, and what the layers that are kept do not save."""
    integer = integer_nodes(plan)
    readers: dict[str, set[bool]] = {layer.input: {False} for layer in plan.body.predictions}
    for node in plan.body.nodes:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name in integer)
    converted = sum(
        elements[output]
        for node in plan.body.nodes
        for output in node.output
        if (node.name not in integer) in readers.get(output, ())
    )
    forgone = sum(_saved(layer, elements, plan.target) for layer in plan.body.layers if layer.name in plan.kept)
    return converted + forgone


def _saved(layer: Layer, elements: Mapping[str, int], target: Target) -> float:
    """What int8 saves in a layer: much where many channels meet, nothing in large pictures of few channels."""
    silu = SILU_PER_ELEMENT if layer.has_silu and target == "cpu" else 0.0
    return max(layer.weight[0].size / MACS_PER_ELEMENT - silu, 0.0) * elements[layer.output]


def keeping_order(plan: Plan, losses: Mapping[str, float], elements: Mapping[str, int]) -> Iterator[str]:
    """All layers: at each step the one with most loss (alone in int8) for the cost that keeping it adds.

    Each step weighs all that are left, so what is not asked for is not computed.
    """
    order: list[str] = []
    left = dict(losses)
    now = cost(plan.keeping(()), elements)
    while left:
        added = {name: cost(plan.keeping((*order, name)), elements) - now for name in left}
        best = max(left, key=lambda name: (left[name] / max(added[name], 1.0), left[name], name))
        order.append(best)
        now += added[best]
        del left[best]
        yield best


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
