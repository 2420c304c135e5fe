"""In which order layers are kept: first those that give back most accuracy for the time that they cost.

A layer alone in the middle of integers costs two conversions; beside the image, the prediction convolutions or layers
that are kept already it costs hardly any. On ONNX Runtime fifteen scattered layers cost half of the gain of int8, the
first sixteen of the same network together a twentieth (docs/log.md). Time is modelled, not measured, so that the same
inputs give the same file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from ..graph_run import feed, open_session, with_outputs
from .layers import Body, Layer
from .plan import Plan, Target
from .qdq import integer_nodes

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
