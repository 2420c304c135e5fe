"""The network that a training begins with: new, with weights from a checkpoint, or that of the run to resume."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from yolopose.runtime.errors import UsageError
from yolopose.runtime.skeleton import Skeleton, generic_skeleton

from ..checkpoints import load
from ..model.config import NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import SIZES, build

KEYPOINT_PREDICTIONS = ("head.keypoint_predictions.", "head.visibility_predictions.")


class InitialNet(NamedTuple):
    """A network in training mode, and where its weights come from."""

    net: PoseNet
    taken: int  # number of tensors from the checkpoint
    fresh: list[str]  # names of tensors with new random weights


def initial_config(model: str | None, given: PoseNet | None) -> NetConfig:
    """The network to train, before it is fitted to the data.

    model: a name in SIZES; None: the network of ``given``, the checkpoint of --weights. What the weights of ``given``
    expect (colors, order of channels, anchors) is taken with them, also where the named network has another size, so
    that tensors keep their meaning. Raises UsageError for an unknown model or one of another family.
    """
    if model is None:
        if given is None:
            raise UsageError(f"give --model ({', '.join(SIZES)}) to train from scratch, or --weights to start from")
        return given.config
    if model not in SIZES:
        raise UsageError(f"--model {model!r} is unknown; choose one of {', '.join(SIZES)}")
    config = SIZES[model]
    if given is None:
        return config
    source = given.config
    if source.family != config.family:
        raise UsageError(
            f"the weights are of a {source.family} network ({source.name}), nothing of which fits {config.name}; "
            "leave --model out to train the network in the file"
        )
    return replace(
        config, input=source.input, focus_order=source.focus_order, head=source.head,
        legacy_layout=source.legacy_layout, anchors=source.anchors,
    )  # fmt: skip


def check_size(flag: str, size: int, config: NetConfig) -> None:
    """UsageError unless the network accepts images of ``size`` x ``size`` px; flag: for the message."""
    multiple = config.input.multiple
    if size < multiple or size % multiple:
        raise UsageError(f"{flag} must be a multiple of {multiple} for {config.name}, got {size}")


def initial_net(
    config: NetConfig, given: PoseNet | None, skeleton: Skeleton, classes: tuple[str, ...], size: int, seed: int
) -> InitialNet:
    """Build the network with the data's skeleton and classes, and take over weights of ``given`` that fit.

    size: px, its square input; seed: of new weights. Tensors of ``given`` with the same name and shape are taken, so
    that another number of keypoints affects only the layers that predict keypoints. Raises UsageError for a size that
    the network does not accept, and for weights of which nothing fits.
    """
    check_size("--imgsz", size, config)
    config = replace(config, skeleton=skeleton, classes=classes, input=replace(config.input, size=size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build(config)
    if given is None:
        return InitialNet(net, 0, [])
    source, own = given.state_dict(), net.state_dict()
    fits = {name: tensor for name, tensor in source.items() if name in own and own[name].shape == tensor.shape}
    if _other_keypoints(given.skeleton, skeleton):
        fits = {name: tensor for name, tensor in fits.items() if not name.startswith(KEYPOINT_PREDICTIONS)}
    if not any(tensor.ndim > 1 for tensor in fits.values()):
        raise UsageError(
            f"nothing in the weights of {given.config.name} fits {config.name}; "
            "leave --model out to train the network in the file"
        )
    net.load_state_dict(fits, strict=False)
    net.weights_licence = given.weights_licence  # terms of use of the weights apply to what is made of them
    return InitialNet(net, len(fits), sorted(own.keys() - fits.keys()))


def _other_keypoints(source: Skeleton, own: Skeleton) -> bool:
    """Whether the keypoints differ in meaning or order; False if one of the skeletons has no names."""
    nameless = generic_skeleton(len(own.names)).names
    return source.names != own.names and nameless not in (source.names, own.names)


def resumed_net(checkpoint: Path, stored: dict[str, Any] | None) -> PoseNet:
    """The network of ``checkpoint`` (last.pt) in training mode.

    stored: the network in run.json, None if it has none. Raises UsageError if they differ, CheckpointError.
    """
    net = load(checkpoint).train()
    found = plain_config(net)
    if stored is not None and stored != found:
        differing = ", ".join(sorted(key for key in {**stored, **found} if stored.get(key) != found.get(key)))
        raise UsageError(
            f"{checkpoint} holds {found['name']}, but this run trains {stored['name']} (they differ in: {differing}); "
            "restore the run's own last.pt, or begin another run with the file as --weights"
        )
    return net


def plain_config(net: PoseNet) -> dict[str, Any]:
    """The network's configuration as in run.json."""
    document: dict[str, Any] = json.loads(json.dumps(net.config.to_dict()))
    return document
