"""What edgeai-yolov5 and yolov7 share: a whole pickled network, ``models.yolo.Model``, under "ema" or "model"."""

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

MAX_MODULES = 10_000  # of one network; the largest here has a tenth
MAX_PATH = 1_000  # characters of a module's dotted name
ACTIVATION_NAMES = {"SiLU": "silu", "ReLU": "relu"}
Layout = tuple[tuple[str, object], ...]  # class name (several joined by "|") and where a layer takes its input from


def children(module: Any) -> dict[str, Any]:
    modules = vars(module).get("_modules") if isinstance(module, StandIn) else None
    return dict(modules) if isinstance(modules, Mapping) else {}


def kind_of(module: Any) -> str:
    """Class name without its package: "Conv" of "models.common.Conv"."""
    return stand_in_name(module).rpartition(".")[2]


def network_of(content: Any) -> StandIn | None:
    """The averaged network if the file has one, else the network; None when the file is of another kind."""
    if not isinstance(content, dict):
        return None
    for key in ("ema", "model"):
        network = content.get(key)
        if stand_in_name(network).startswith("models.yolo."):
            return network if isinstance(network, StandIn) else None
    return None


def layers_of(network: Any) -> list[Any]:
    return list(children(children(network).get("model")).values())


def head_of(content: Any) -> Any:
    """Last layer of the pickled network, None when there is none."""
    layers = layers_of(network_of(content))
    return layers[-1] if layers else None


def modules_of(network: Any, document: Document) -> dict[str, StandIn]:
    """Every module of ``network`` by dotted name, parents first, itself as "".

    A module may be part of several others, as a shared activation is; CheckpointError when the walk has no end.
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
    """State dict of a stand-in ``torch.nn.Module``: parameters and persistent buffers, all in the file."""
    found: dict[str, InertTensor] = {}
    for prefix, module in modules_of(network, document).items():
        state = vars(module)
        skipped = state.get("_non_persistent_buffers_set", ())
        for name, value in {**state.get("_parameters", {}), **state.get("_buffers", {})}.items():
            if isinstance(value, InertTensor) and name not in skipped:
                found[f"{prefix}.{name}" if prefix else str(name)] = value
        document.check_count(len(found))  # here: modules may share what they hold
    document.check(found)
    return found


def check_layout(layers: Sequence[Any], layout: Layout, what: str, document: Document) -> None:
    """CheckpointError unless the layers are of the kinds, and joined in the way, that ``what`` is known for."""
    if len(layers) != len(layout):
        raise CheckpointError(
            f"{document.path}: a network of {len(layers)} layers; {what} has {len(layout)} and no other is supported"
        )
    for index, (layer, (kinds, source)) in enumerate(zip(layers, layout, strict=True)):
        found = (kind_of(layer), vars(layer).get("f"))
        if found[0] not in kinds.split("|") or found[1] != source:
            raise CheckpointError(
                f"{document.path}: layer {index} is {found[0]} of {brief(found[1])}, "
                f"in {what} it is {kinds} of {source}"
            )


def check_norms(network: Any, document: Document) -> None:
    """The networks here have one epsilon in every batch norm; another one would give other numbers silently."""
    for name, module in modules_of(network, document).items():
        epsilon = vars(module).get("eps", BN_EPS)
        if kind_of(module) == "BatchNorm2d" and not (isinstance(epsilon, float) and abs(epsilon - BN_EPS) < 1e-9):
            raise CheckpointError(f"{document.path}: {name} has epsilon {brief(epsilon)}; {BN_EPS} is supported")


def activation_of(modules: Mapping[str, Any], document: Document) -> str:
    """The one activation of all ``modules`` (name -> module) that are called ``act``."""
    kinds = {kind_of(module) for name, module in modules.items() if name.rpartition(".")[2] == "act"}
    if len(kinds) != 1 or not kinds <= ACTIVATION_NAMES.keys():
        raise CheckpointError(f"{document.path}: activations {sorted(kinds)} are not supported; SiLU or ReLU alone is")
    return ACTIVATION_NAMES[kinds.pop()]


@dataclass(frozen=True)
class HeadFacts:
    """What the pickled head says of itself."""

    num_keypoints: int
    num_classes: int
    anchors: Anchors


def head_facts(head: Any, document: Document) -> HeadFacts:
    """Keypoints, classes and anchors in pixels. Anchors may have evolved in training, so the file's own count."""
    state = vars(head)
    grid = state.get("_buffers", {}).get("anchor_grid")
    counts = (state.get("nkpt"), state.get("nc"))
    if not isinstance(grid, InertTensor) or not all(type(count) is int and count > 0 for count in counts):
        raise CheckpointError(f"{document.path}: the pickled head lacks its anchors, keypoints or classes")
    pixels = document.tensor(grid, "anchor_grid").to(torch.float32)
    if pixels.ndim != 6 or pixels.shape[-1] != 2:
        raise CheckpointError(f"{document.path}: anchors of shape {tuple(pixels.shape)} are not understood")
    anchors = tuple(tuple((float(w), float(h)) for w, h in level.reshape(-1, 2).tolist()) for level in pixels)
    return HeadFacts(int(state["nkpt"]), int(state["nc"]), anchors)


def multiplier(network: StandIn, key: str, document: Document) -> float:
    """``depth_multiple`` or ``width_multiple`` of the model description that the network carries."""
    description = vars(network).get("yaml")
    value = description.get(key) if isinstance(description, dict) else None
    if not isinstance(value, int | float) or not 0 < value <= MAX_MULTIPLIER:
        raise CheckpointError(f"{document.path}: the pickled network carries no {key}")
    return float(value)
