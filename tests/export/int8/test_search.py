"""The cost of float32 layers, their order, the search for the fewest within a budget, and its cache."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from yolopose.export.int8.build import sensitivity_figure, write_sensitivity
from yolopose.export.int8.quantize import QuantizationPlan
from yolopose.export.int8.search import (
    ResumeCache,
    SearchResult,
    cost,
    element_counts,
    float32_order,
    rank,
    search,
    shortfall,
    within_budget,
)
from yolopose.export.int8.trials import Trial

from .graphs import SIZE, no_progress, random_images, small_graph, small_plan

LOSSES = {"stem": 0.1, "inner": 0.6, "depthwise": 0.2, "last": 0.05}


@pytest.fixture(scope="module")
def plan() -> QuantizationPlan:
    return small_plan("cpu")


@pytest.fixture(scope="module")
def elements(plan: QuantizationPlan) -> dict[str, int]:
    return element_counts(small_graph(), plan.body, random_images(1)[0])


def test_element_counts_are_per_image(elements: dict[str, int]) -> None:
    assert elements["stem_out"] == 8 * SIZE * SIZE
    assert elements["joined"] == 16 * SIZE * SIZE


def test_adjacent_float32_layers_cost_less_than_scattered_ones(
    plan: QuantizationPlan, elements: dict[str, int]
) -> None:
    together = cost(plan.with_float32_layers(["stem", "inner"]), elements)
    scattered = cost(plan.with_float32_layers(["stem", "depthwise"]), elements)
    # Without the lost savings, of which the depthwise layer has hardly any.
    savings = {layer.name: layer.weight[0].size * elements[layer.output] / 200 for layer in plan.body.layers}
    assert together - savings["inner"] < scattered - savings["depthwise"]


def test_order_prefers_neighbors_among_equally_sensitive_layers(
    plan: QuantizationPlan, elements: dict[str, int]
) -> None:
    equal = {layer.name: 0.01 for layer in plan.body.layers}
    order = list(float32_order(plan, equal, elements))
    assert sorted(order) == sorted(equal)
    assert order == list(float32_order(plan, dict(reversed(equal.items())), elements))
    sensitive = float32_order(plan, {**equal, "inner": 10.0}, elements)
    assert next(sensitive) == "inner"


class FakeTrials:
    """The loss of a graph is the sum over its int8 layers; no network runs."""

    def __init__(self, losses: dict[str, float], labeled: bool = True) -> None:
        self.losses, self.labeled, self.runs = losses, labeled, 0

    def _sum(self, model: object) -> float:
        names = {node.name for node in model.graph.node if node.input[1:2] and node.input[1].endswith("weight_rounded")}  # type: ignore[attr-defined]
        return sum(loss for name, loss in self.losses.items() if name in names)

    def loss(self, model: object, count: int) -> float:
        self.runs += 1
        return self._sum(model)

    def run(self, model: object) -> Trial:
        self.runs += 1
        total = self._sum(model)
        return Trial(total / 100, total, 0.1) if self.labeled else Trial(total / 100)


def run_search(
    plan: QuantizationPlan, trials: FakeTrials, budget: float, path: Path, seconds: float = 60, rank_all: bool = True
) -> SearchResult:
    """rank and search; seconds: until the deadline. rank_all: the deadline does not hold for the ranking."""
    cache, model, deadline = ResumeCache(path, "key"), small_graph(), time.monotonic() + seconds
    ranking = rank(plan, model, trials, cache, no_progress, *(() if rank_all else (deadline,)))  # type: ignore[arg-type]
    return search(plan, model, trials, ranking, list(ranking), budget, cache, lambda text: None, deadline)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "float32_layers"),
    [(1.0, set()), (0.5, {"inner"}), (0.2, {"inner", "depthwise"}), (0.05, {"inner", "depthwise", "stem"})],
)
def test_search_keeps_the_fewest_layers_within_the_budget(
    plan: QuantizationPlan, tmp_path: Path, budget: float, float32_layers: set[str]
) -> None:
    result = run_search(plan, FakeTrials(LOSSES), budget, tmp_path / "cache.json")
    assert result.budget_met
    assert result.plan.float32_layers == float32_layers
    assert shortfall(result, budget) == ""
    assert list(result.ranking) == ["inner", "depthwise", "stem", "last"]


def test_shortfall_of_an_impossible_budget(plan: QuantizationPlan, tmp_path: Path) -> None:
    result = run_search(plan, FakeTrials(LOSSES), 0.01, tmp_path / "cache.json")
    assert not result.budget_met
    assert len(result.plan.float32_layers) == 3
    assert "the best, with 3 float32 layers, loses 0.05 points of keypoint AP, at most 0.01 are allowed" in shortfall(
        result, 0.01
    )


def test_budget_without_labels_is_the_mean_oks(plan: QuantizationPlan, tmp_path: Path) -> None:
    trials = FakeTrials({**LOSSES, "inner": 2.0}, labeled=False)
    assert run_search(plan, trials, 0.5, tmp_path / "cache.json").plan.float32_layers == {"inner"}
    assert within_budget(Trial(0.009), 0)
    assert not within_budget(Trial(0.011), 100)


def test_interrupted_search_continues(plan: QuantizationPlan, tmp_path: Path) -> None:
    path = tmp_path / "cache.json"

    class Interrupted(FakeTrials):
        def loss(self, model: object, count: int) -> float:
            if self.runs == 3:
                raise KeyboardInterrupt
            return super().loss(model, count)

    with pytest.raises(KeyboardInterrupt):
        run_search(plan, Interrupted(LOSSES), 0.5, path)
    rest, whole = FakeTrials(LOSSES), FakeTrials(LOSSES)
    assert run_search(plan, rest, 0.5, path) == run_search(plan, whole, 0.5, tmp_path / "another.json")
    assert whole.runs - rest.runs == 3


def test_cache_ignores_another_key_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "cache.json"
    ResumeCache(path, "one").get_or_compute("answer", lambda: 1)
    assert ResumeCache(path, "one").has("answer")
    assert ResumeCache(path, "one").get_or_compute("answer", lambda: 2) == 1
    assert ResumeCache(path, "other").get_or_compute("answer", lambda: 2) == 2
    path.write_text("{", encoding="utf-8")
    assert ResumeCache(path, "one").get_or_compute("answer", lambda: 3) == 3


def test_search_out_of_time_is_not_done(plan: QuantizationPlan, tmp_path: Path) -> None:
    result = run_search(plan, FakeTrials(LOSSES), 0.05, tmp_path / "cache.json", seconds=-1)
    assert not result.budget_met
    assert not result.search_done
    assert "--search-minutes" in shortfall(result, 0.05)


def test_layers_without_time_are_not_ranked_and_none_stays_float32_unmeasured(
    plan: QuantizationPlan, tmp_path: Path
) -> None:
    path, trials = tmp_path / "cache.json", FakeTrials(LOSSES)
    wide = run_search(plan, trials, 1.0, path, seconds=-1, rank_all=False)
    assert wide.ranking == {}
    assert (wide.budget_met, wide.search_done, wide.plan.float32_layers) == (True, True, set())
    narrow = run_search(plan, trials, 0.5, path, seconds=-1, rank_all=False)
    assert narrow.ranking == {}
    assert (narrow.budget_met, narrow.search_done, list(narrow.trials)) == (False, False, [0])
    sensitivity_figure(narrow)
    write_sensitivity(tmp_path / "ranking.json", narrow)
    document = json.loads((tmp_path / "ranking.json").read_text(encoding="utf-8"))
    assert [layer["pose_loss_alone"] for layer in document["layers"]] == [None] * 4


def test_cached_results_count_after_the_deadline(plan: QuantizationPlan, tmp_path: Path) -> None:
    """An earlier search with a narrower budget has measured all that a search without time needs."""
    path = tmp_path / "cache.json"
    assert run_search(plan, FakeTrials(LOSSES), 0.05, path).budget_met
    trials = FakeTrials(LOSSES)
    result = run_search(plan, trials, 0.5, path, seconds=-1, rank_all=False)
    assert len(result.ranking) == 4
    assert (result.budget_met, result.plan.float32_layers) == (True, {"inner"})
    assert trials.runs == 0
