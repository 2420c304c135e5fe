"""The network that a training begins with: a new one, or one that takes over what it can from a checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from yolopose.runtime.skeleton import Skeleton, generic_skeleton

from ..model.net_config import NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import SIZES, build

KEYPOINT_PREDICTIONS = ("head.keypoint_predictions.", "head.visibility_predictions.")


class Start(NamedTuple):
    """A network in training mode and where its weights came from."""

    net: PoseNet
    taken: int  # tensors taken from the checkpoint
    fresh: list[str]  # tensors that begin anew


def starting_config(model: str | None, given: PoseNet | None) -> NetConfig:
    """The network to train, before it is fitted to the data. ``model``: a name in SIZES, None: that of ``given``.

    Tensors keep their meaning: what the weights of ``given`` expect (colours, order of channels, anchors) is taken with
    them, also where the named network is another size. ValueError for an unknown model or one of another family.
    """
    if model is None:
        if given is None:
            raise ValueError(f"name a --model ({', '.join(SIZES)}) to train from scratch, or --weights to go on from")
        return given.config
    if model not in SIZES:
        raise ValueError(f"there is no network called {model!r}; choose one of {', '.join(SIZES)}")
    config = SIZES[model]
    if given is None:
        return config
    theirs = given.config
    if theirs.family != config.family:
        raise ValueError(
            f"the weights are of a {theirs.family} network ({theirs.name}), nothing of which fits {config.name}; "
            "leave --model out to train the network in the file"
        )
    return replace(
        config, input=theirs.input, focus_order=theirs.focus_order, head=theirs.head,
        legacy_layout=theirs.legacy_layout, anchors=theirs.anchors,
    )  # fmt: skip


def check_size(flag: str, size: int, config: NetConfig) -> None:
    """ValueError unless a network can have pictures of ``size`` x ``size``."""
    multiple = config.input.multiple
    if size < multiple or size % multiple:
        raise ValueError(f"{flag} must be a multiple of {multiple} for {config.name}, got {size}")


def initial_net(
    config: NetConfig, given: PoseNet | None, skeleton: Skeleton, classes: tuple[str, ...], size: int, seed: int
) -> Start:
    """``size``: pixels of its square input; ``seed``: of the weights that are new.

    Tensors of ``given`` that have a place of the same shape are taken, so another number of keypoints costs the layers
    that predict keypoints and no more. ValueError for weights of which nothing fits.
    """
    check_size("--imgsz", size, config)
    config = replace(config, skeleton=skeleton, classes=classes, input=replace(config.input, size=size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(config)
    if given is None:
        return Start(net, 0, [])
    theirs, mine = given.state_dict(), net.state_dict()
    fits = {name: tensor for name, tensor in theirs.items() if name in mine and mine[name].shape == tensor.shape}
    if _other_points(given.skeleton, skeleton):
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith(KEYPOINT_PREDICTIONS)}
    if not any(tensor.ndim > 1 for tensor in fits.values()):
        raise ValueError(
            f"nothing in the weights of {given.config.name} fits {config.name}; "
            "leave --model out to train the network in the file"
        )
    net.load_state_dict(fits, strict=False)
    net.weights_licence = given.weights_licence  # terms of use stay with what is made of the weights
    return Start(net, len(fits), sorted(mine.keys() - fits.keys()))


def _other_points(theirs: Skeleton, ours: Skeleton) -> bool:
    """Whether equally many keypoints are others, or in another order; of nameless ones that is not known."""
    nameless = generic_skeleton(len(ours.names)).names
    return theirs.names != ours.names and nameless not in (theirs.names, ours.names)
