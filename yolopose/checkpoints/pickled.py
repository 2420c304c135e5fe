"""Pickled networks as stand-ins: what the readers of edgeai-yolov5, yolov7 and Ultralytics share.

Such a checkpoint holds a whole ``torch.nn.Module`` under "ema" (averaged weights) or "model". Its layers are the
children of ``network.model``; each layer has an attribute ``f``, the number of the layer or layers that feed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from yolopose.runtime.errors import CheckpointError

from ..model.blocks import BN_EPS
from ..model.config import MAX_MULTIPLIER, Anchors
from .archive import Document
from .pickle_values import InertTensor, StandIn, brief, stand_in_name
from .transfer import ACTIVATION_NAMES

MAX_MODULES = 10_000  # of one network; the largest known one has a tenth
MAX_PATH = 1_000  # characters of the dotted name of a module

Layout = tuple[tuple[str, object], ...]  # of each layer: class names joined by "|", and its inputs ``f``


def network_of(content: Any, package: str) -> StandIn | None:
    """The averaged network if there is one, else the network; None unless its class lies in ``package``."""
    if not isinstance(content, dict):
        return None
    for key in ("ema", "model"):
        network = content.get(key)
        if isinstance(network, StandIn) and stand_in_name(network).startswith(f"{package}."):
            return network
    return None


def children(module: Any) -> dict[str, Any]:
    """Direct submodules by name; empty for anything but a module."""
    modules = vars(module).get("_modules") if isinstance(module, StandIn) else None
    return dict(modules) if isinstance(modules, Mapping) else {}


def kind_of(module: Any) -> str:
    """Class name without its package: "Conv" for "models.common.Conv"; "" for anything but a stand-in."""
    return stand_in_name(module).rpartition(".")[2]


def layers_of(network: Any) -> list[Any]:
    """The layers in order; the last one is the head."""
    return list(children(children(network).get("model")).values())


def modules_of(network: Any, document: Document) -> dict[str, StandIn]:
    """Every module of ``network`` by dotted name, parents first, the network itself as "".

    Modules may share submodules, such as one activation. Raises CheckpointError if the traversal does not end.
    """
    found: dict[str, StandIn] = {}
    waiting = [("", network)]
    while waiting:
        name, module = waiting.pop()
        if not isinstance(module, StandIn) or len(name) > MAX_PATH or len(found) + len(waiting) > MAX_MODULES:
            raise CheckpointError(f"{document.path}: the pickled network is damaged at {brief(name)}")
        found[name] = module
        below = [(f"{name}.{key}" if name else str(key), child) for key, child in children(module).items()]
        waiting.extend((path, child) for path, child in reversed(below) if child is not None)
    return found


def named_tensors(network: Any, document: Document) -> dict[str, InertTensor]:
    """The state dict of a network: its parameters and persistent buffers. Raises CheckpointError if one is missing."""
    found: dict[str, InertTensor] = {}
    for prefix, module in modules_of(network, document).items():
        state = vars(module)
        skipped = state.get("_non_persistent_buffers_set", ())
        for name, value in {**state.get("_parameters", {}), **state.get("_buffers", {})}.items():
            if isinstance(value, InertTensor) and name not in skipped:
                found[f"{prefix}.{name}" if prefix else str(name)] = value
        document.check_count(len(found))  # inside the loop: modules may share their content
    document.check(found)
    return found


def check_layout(layers: Sequence[Any], layout: Layout, what: str, document: Document) -> None:
    """Raises CheckpointError unless classes and inputs of all layers are those of ``layout``, the network ``what``."""
    if len(layers) != len(layout):
        raise CheckpointError(
            f"{document.path}: the network has {len(layers)} layers; only {what} with {len(layout)} layers is supported"
        )
    for index, (layer, (kinds, source)) in enumerate(zip(layers, layout, strict=True)):
        kind, inputs = kind_of(layer), vars(layer).get("f")
        if kind not in kinds.split("|") or inputs != source:
            raise CheckpointError(
                f"{document.path}: layer {index} is {kind} with input {brief(inputs)}; "
                f"in {what} it is {kinds} with input {source}"
            )


def check_norms(network: Any, document: Document) -> None:
    """Raises CheckpointError for a batch norm with another epsilon than BN_EPS, which would shift all outputs."""
    for name, module in modules_of(network, document).items():
        epsilon = vars(module).get("eps", BN_EPS)
        if kind_of(module) == "BatchNorm2d" and not (isinstance(epsilon, float) and abs(epsilon - BN_EPS) < 1e-9):
            raise CheckpointError(f"{document.path}: {name} has epsilon {brief(epsilon)}; {BN_EPS} is supported")


def activation_of(modules: Mapping[str, Any], document: Document) -> str:
    """The activation of all ``modules`` (dotted name -> module) named ``act``. Raises CheckpointError for several."""
    kinds = {kind_of(module) for name, module in modules.items() if name.rpartition(".")[2] == "act"}
    if len(kinds) != 1 or not kinds <= ACTIVATION_NAMES.keys():
        raise CheckpointError(
            f"{document.path}: activations {sorted(kinds)} are not supported; all must be SiLU, or all ReLU"
        )
    return ACTIVATION_NAMES[kinds.pop()]


@dataclass(frozen=True)
class AnchorHeadFacts:
    """The facts that a pickled head with anchors holds."""

    num_keypoints: int
    num_classes: int
    anchors: Anchors  # pixels


def anchor_head_facts(head: Any, document: Document) -> AnchorHeadFacts:
    """Keypoints, classes and anchors. The anchors are read from the file because training may have changed them."""
    state = vars(head)
    grid = state.get("_buffers", {}).get("anchor_grid")
    counts = (state.get("nkpt"), state.get("nc"))
    if not isinstance(grid, InertTensor) or not all(type(count) is int and count > 0 for count in counts):
        raise CheckpointError(f"{document.path}: the pickled head lacks its anchors, keypoints or classes")
    pixels = document.tensor(grid, "anchor_grid").to(torch.float32)
    if pixels.ndim != 6 or pixels.shape[-1] != 2:
        raise CheckpointError(f"{document.path}: anchors of shape {tuple(pixels.shape)} are not supported")
    anchors = tuple(tuple((float(w), float(h)) for w, h in level.reshape(-1, 2).tolist()) for level in pixels)
    return AnchorHeadFacts(int(state["nkpt"]), int(state["nc"]), anchors)


def multiplier(network: StandIn, key: str, document: Document) -> float:
    """``depth_multiple`` or ``width_multiple`` in the model description inside the network."""
    description = vars(network).get("yaml")
    value = description.get(key) if isinstance(description, dict) else None
    if not isinstance(value, int | float) or not 0 < value <= MAX_MULTIPLIER:
        raise CheckpointError(f"{document.path}: the model description has no valid {key}")
    return float(value)
