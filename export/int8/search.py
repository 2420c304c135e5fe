"""Which layers must stay float32: the fewest that keep the loss of accuracy within a budget.

``rank`` measures each layer alone in int8. ``float32_order`` sorts the layers by accuracy regained per added time.
``search`` finds how many of them must stay float32.

Time is modeled, not measured, so that equal inputs give equal files. A single float32 layer among integer layers costs
two conversions; next to the image, the prediction convolutions or other float32 layers it costs almost none. On ONNX
Runtime, fifteen scattered float32 layers cost half of the speed-up of int8, and the first sixteen layers of the same
network a twentieth (docs/experiments.md).
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
from typing import TypeVar

import numpy as np
import onnx

from yolopose.runtime.output import atomic_write

from ..config import Target
from ..graph import feed, open_session, with_outputs
from .layers import Body, Layer
from .quantize import QuantizationPlan, integer_nodes, quantize
from .ranges import Progress
from .trials import Trial, Trials

RANKING_IMAGES = 24  # images on which each layer is ranked
MAX_POSE_LOSS = 0.01  # budget without labels: mean OKS 0.99, of the poses alone; the gate judges scores too
MACS_PER_ELEMENT = 200  # multiply-adds whose int8 savings equal the cost of converting one element
SILU_PER_ELEMENT = 1.5  # conversions' worth of time that SiLU takes longer in integers than as one float32 kernel

_Result = TypeVar("_Result")


class ResumeCache:
    """Results by name in a JSON file, written after each, so that an interrupted search continues.

    key: hash of everything that determines the results; a file with another key is ignored and overwritten.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self._results: dict[str, object] = {}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # no file yet, or a damaged one
            return
        if isinstance(stored, dict) and stored.get("key") == key and isinstance(stored.get("results"), dict):
            self._results = stored["results"]

    def get_or_compute(self, name: str, compute: Callable[[], _Result]) -> _Result:
        """The stored result, or that of ``compute()``, which must be JSON."""
        if name not in self._results:
            self._results[name] = compute()
            text = json.dumps({"key": self.key, "results": self._results}, ensure_ascii=False, allow_nan=False)
            atomic_write(self.path, text + "\n")
        return self._results[name]  # type: ignore[return-value]  # JSON of the same type

    def has(self, name: str) -> bool:
        return name in self._results

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def element_counts(model: onnx.ModelProto, body: Body, frame: np.ndarray, rows: int = 1) -> dict[str, int]:
    """Elements per image of each tensor of the body.

    frame: letterboxed (h, w, 3) uint8; rows: size of a fixed batch.
    """
    tensors = [output for node in body.nodes for output in node.output]
    values = open_session(with_outputs(model, tensors)).run(tensors, feed([frame], rows=rows))
    return {name: int(value[0].size) for name, value in zip(tensors, values, strict=True)}


def cost(plan: QuantizationPlan, elements: Mapping[str, int]) -> float:
    """Modeled time in converted elements: conversions between integers and float32, and savings lost in float32 layers.

    elements: of ``element_counts``.
    """
    integer = integer_nodes(plan)
    readers: dict[str, set[bool]] = {layer.input: {False} for layer in plan.body.predictions}  # reads integers?
    for node in plan.body.nodes:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name in integer)
    converted = sum(
        elements[output]
        for node in plan.body.nodes
        for output in node.output
        if (node.name not in integer) in readers.get(output, ())
    )
    lost = sum(_saving(layer, elements, plan.target) for layer in plan.body.layers if layer.name in plan.float32_layers)
    return converted + lost


def _saving(layer: Layer, elements: Mapping[str, int], target: Target) -> float:
    """What int8 saves in a layer: much with many input channels, nothing in large feature maps of few channels."""
    silu = SILU_PER_ELEMENT if layer.has_silu and target == "cpu" else 0.0
    return max(float(layer.weight[0].size) / MACS_PER_ELEMENT - silu, 0.0) * elements[layer.output]


def float32_order(plan: QuantizationPlan, losses: Mapping[str, float], elements: Mapping[str, int]) -> Iterator[str]:
    """The layers of ``losses`` in the order in which they are to stay float32.

    Each step takes the layer with the most loss (alone in int8) per added ``cost``. Steps are computed when needed,
    because each compares all remaining layers.
    """
    order: list[str] = []
    left = dict(losses)
    now = cost(plan.with_float32_layers(()), elements)
    while left:
        added = {name: cost(plan.with_float32_layers((*order, name)), elements) - now for name in left}
        best = max(left, key=lambda name: (left[name] / max(added[name], 1.0), left[name], name))
        order.append(best)
        now += added[best]
        del left[best]
        yield best


@dataclass(frozen=True)
class SearchResult:
    """The plan chosen, its loss, and everything that was tried."""

    plan: QuantizationPlan
    trial: Trial
    trials: dict[int, Trial]  # number of float32 layers -> trial
    ranking: dict[str, float]  # layer -> pose loss with this layer alone in int8, descending; without those out of time
    budget_met: bool
    search_done: bool  # False: the time was up before the search ended


def rank(
    plan: QuantizationPlan,
    model: onnx.ModelProto,
    trials: Trials,
    cache: ResumeCache,
    progress: Progress,
    deadline: float = math.inf,
) -> dict[str, float]:
    """Layer -> pose loss with this layer alone in int8, the most sensitive first.

    deadline: of ``time.monotonic``; layers not measured by then are missing.
    """
    names = [layer.name for layer in plan.body.layers]
    losses = {}
    for i in progress(range(len(names)), len(names), "sensitivity of layers"):
        key = f"alone {names[i]}"
        if time.monotonic() > deadline and not cache.has(key):
            break
        losses[names[i]] = float(cache.get_or_compute(key, partial(_loss_alone, plan, model, trials, names[i])))
    return dict(sorted(losses.items(), key=lambda item: -item[1]))


def _loss_alone(plan: QuantizationPlan, model: onnx.ModelProto, trials: Trials, name: str) -> float:
    others = (layer.name for layer in plan.body.layers if layer.name != name)
    return trials.loss(quantize(model, plan.with_float32_layers(others)), RANKING_IMAGES)


def search(
    plan: QuantizationPlan,
    model: onnx.ModelProto,
    trials: Trials,
    ranking: dict[str, float],
    order: Iterable[str],
    max_ap_drop: float,
    cache: ResumeCache,
    say: Callable[[str], None],
    deadline: float,
) -> SearchResult:
    """The fewest first layers of ``order`` that must stay float32 for the budget: 0, 1, 2, 4 ..., then bisection.

    At least one layer is int8. max_ap_drop: points; without labels the budget is ``MAX_POSE_LOSS``. deadline: of
    ``time.monotonic``; after it only the first trial starts, and trials in ``cache`` are used.
    """
    tried: dict[int, Trial] = {}
    layers, rest = len(plan.body.layers), iter(order)
    first: list[str] = []

    def plan_with(count: int) -> QuantizationPlan:
        first.extend(islice(rest, max(count - len(first), 0)))
        return plan.with_float32_layers(first[:count])

    def in_time(count: int) -> bool:
        return time.monotonic() <= deadline or not tried or cache.has(f"float32 {count}")

    def meets_budget(count: int) -> bool:
        fields = cache.get_or_compute(f"float32 {count}", lambda: asdict(trials.run(quantize(model, plan_with(count)))))
        tried[count] = Trial(**fields)
        say(f"{count} of {layers} layers kept float32: {tried[count].description}")
        return within_budget(tried[count], max_ap_drop)

    counts = [0, *(1 << i for i in range(layers.bit_length()) if 1 << i < layers - 1), layers - 1]
    failed, passed = -1, None
    done = True
    for count in dict.fromkeys(counts):
        if not in_time(count):
            done = False
            break
        if meets_budget(count):
            passed = count
            break
        failed = count
    while passed is not None and passed - failed > 1:
        middle = (failed + passed) // 2
        if not in_time(middle):
            done = False
            break
        if meets_budget(middle):
            passed = middle
        else:
            failed = middle
    best = passed if passed is not None else min(tried, key=lambda count: tried[count].loss)
    return SearchResult(plan_with(best), tried[best], tried, ranking, passed is not None, done)


def within_budget(trial: Trial, max_ap_drop: float) -> bool:
    return trial.loss <= (MAX_POSE_LOSS if trial.drop is None else max_ap_drop)


def shortfall(result: SearchResult, max_ap_drop: float) -> str:
    """By how much the budget is missed on the images of the search; empty if it is met."""
    if result.budget_met:
        return ""
    time_up = "" if result.search_done else " before its time was up (--search-minutes allows more)"
    trial, count = result.trial, len(result.plan.float32_layers)
    if trial.drop is None:
        loss = f"has a mean OKS with float32 of {1 - trial.pose_loss:.4f}, at least {1 - MAX_POSE_LOSS:g} is required"
    else:
        loss = f"loses {trial.drop:.2f} points of keypoint AP, at most {max_ap_drop:g} are allowed"
    return (
        f"the search found no int8 graph within the accuracy budget{time_up}: "
        f"the best, with {count} float32 layers, {loss}"
    )
