"""The order in which layers are kept: accuracy for conversions."""

from __future__ import annotations

import pytest

from yolopose.export.int8.quantize import Plan
from yolopose.export.int8.search import cost, element_counts, keeping_order

from .graphs import SIZE, pictures, small_graph, small_plan


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan("cpu")


@pytest.fixture(scope="module")
def elements(plan: Plan) -> dict[str, int]:
    return element_counts(small_graph(), plan.body, pictures(1)[0])


def test_elements_are_those_of_one_image(elements: dict[str, int]) -> None:
    assert elements["stem_out"] == 8 * SIZE * SIZE
    assert elements["joined"] == 16 * SIZE * SIZE


def test_layers_side_by_side_cost_less_than_scattered_ones(plan: Plan, elements: dict[str, int]) -> None:
    together = cost(plan.keeping(["stem", "inner"]), elements)
    scattered = cost(plan.keeping(["stem", "depthwise"]), elements)
    # Multiply-adds apart, which the depthwise layer has hardly any of.
    multiplied = {layer.name: layer.weight[0].size * elements[layer.output] / 200 for layer in plan.body.layers}
    assert together - multiplied["inner"] < scattered - multiplied["depthwise"]


def test_neighbours_come_first_among_equally_sensitive_layers(plan: Plan, elements: dict[str, int]) -> None:
    equal = {layer.name: 0.01 for layer in plan.body.layers}
    order = list(keeping_order(plan, equal, elements))
    assert sorted(order) == sorted(equal)
    assert order == list(keeping_order(plan, dict(reversed(equal.items())), elements))
    loud = keeping_order(plan, {**equal, "inner": 10.0}, elements)
    assert next(loud) == "inner"
