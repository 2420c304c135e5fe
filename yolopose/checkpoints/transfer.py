"""From another code base's tensors to one of our networks: renaming, strict filling, skeleton by number of points."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton, generic_skeleton

from ..model.config import NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import build
from .archive import Document
from .pickle_values import InertTensor, brief

# More would be a damaged or hostile file: whole-body poses have 133 keypoints, the largest public data sets 365 classes
# of people's surroundings.
MAX_KEYPOINTS = MAX_CLASSES = 1_000
MAX_INPUT = 16_384  # pixels a side

Rules = Sequence[tuple[str, str]]  # (pattern of the start of a name, what takes its place)

# Counters that take no part in inference and that old PyTorch did not write.
COUNTER = "num_batches_tracked"


class SkeletonMismatch(ValueError):
    """The caller's skeleton has another number of keypoints than the network: a ValueError, the file is whole."""


def renamed(name: str, rules: Rules) -> str | None:
    """``name`` with the first rule that fits its start applied; None when none does."""
    for pattern, replacement in rules:
        changed, count = re.subn(rf"^{pattern}", replacement, name, count=1)
        if count:
            return changed
    return None


def rename_all(tensors: Mapping[str, InertTensor], rules: Rules, document: Document) -> dict[str, Tensor]:
    """Tensors under our names. CheckpointError for one that no rule knows: it would be dropped silently."""
    found: dict[str, Tensor] = {}
    for name, inert in tensors.items():
        ours = renamed(name, rules)
        if ours is None or ours in found:
            raise CheckpointError(f"{document.path}: no place for the tensor {name!r} in this kind of network")
        found[ours] = document.tensor(inert, name)
    return found


def filled_net(config: NetConfig, tensors: Mapping[str, Tensor], document: Document) -> PoseNet:
    """A network in evaluation mode, float32, that holds exactly ``tensors``: none missing, none left over."""
    _check_count(config.skeleton.num_keypoints, MAX_KEYPOINTS, "keypoints", document)
    _check_count(len(config.classes), MAX_CLASSES, "classes", document)
    _check_count(config.input.size, MAX_INPUT, "pixels a side", document)
    try:
        with torch.device("meta"):  # no memory, no random numbers drawn
            net = build(config)
    except ValueError as error:
        raise CheckpointError(f"{document.path} describes a network that cannot be: {error}") from error
    expected = net.state_dict()
    given = {name: _as_stored_by_us(tensor, name) for name, tensor in tensors.items()}
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            given.setdefault(name, torch.zeros((), dtype=tensor.dtype))
    _check(expected, given, document)
    net.load_state_dict(given, strict=True, assign=True)
    net.weights_sha256 = document.sha256
    return net.eval()


def _as_stored_by_us(tensor: Tensor, name: str) -> Tensor:
    if name.endswith(COUNTER):
        return tensor.long()
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_count(count: int, most: int, what: str, document: Document) -> None:
    if not 1 <= count <= most:
        raise CheckpointError(f"{document.path}: {brief(count)} {what}; a network here has 1 to {most}")


def _check(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], document: Document) -> None:
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        raise CheckpointError(
            f"{document.path}: the weights do not fit the network that they describe: "
            f"{_some('missing', missing)}{_some('left over', extra)}"
        )
    for name, tensor in given.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{document.path}: {name} is {tuple(tensor.shape)} in the file, {tuple(expected[name].shape)} expected"
            )
        if tensor.dtype != expected[name].dtype:
            raise CheckpointError(f"{document.path}: {name} is {tensor.dtype}; quantised weights are not supported")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{document.path}: {name} holds values that are not finite; the training diverged?")


def _some(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) " if names else ""


def skeleton_for(num_keypoints: int, given: Skeleton | None, document: Document) -> Skeleton:
    """The caller's skeleton if it fits, else the built-in one of that many points, else nameless points."""
    _check_count(num_keypoints, MAX_KEYPOINTS, "keypoints", document)
    if given is not None:
        if given.num_keypoints != num_keypoints:
            raise SkeletonMismatch(
                f"skeleton {given.name!r} has {given.num_keypoints} keypoints, {document.path} has {num_keypoints}"
            )
        return given
    for skeleton in (COCO_17, LSP_14):
        if skeleton.num_keypoints == num_keypoints:
            return skeleton
    return generic_skeleton(num_keypoints)


def with_skeleton(config: NetConfig, skeleton: Skeleton, document: Document) -> NetConfig:
    """``config`` with the caller's skeleton, which must have as many keypoints as the network."""
    return replace(config, skeleton=skeleton_for(config.skeleton.num_keypoints, skeleton, document))


def class_names(count: int, document: Document, known: object = None) -> tuple[str, ...]:
    """``known`` if it is a list (or a dict by index) of that many texts, else "person" or numbered classes."""
    _check_count(count, MAX_CLASSES, "classes", document)
    if isinstance(known, Mapping):
        known = [known.get(index) for index in range(count)] if len(known) == count else None
    if isinstance(known, list | tuple) and len(known) == count and all(isinstance(name, str) for name in known):
        return tuple(str(name) for name in known)
    return ("person",) if count == 1 else tuple(f"class_{index}" for index in range(count))


def depth_from_repeats(short: int, long: int, document: Document) -> float:
    """The depth multiplier that gives stages of ``short`` (3 x depth) and ``long`` (9 x depth) bottlenecks."""
    published = (0.33, 0.67, 1.0, 1.33)
    for depth in (*published, short / 3, long / 9, *(step / 100 for step in range(1, 301))):
        if (max(round(3 * depth), 1), max(round(9 * depth), 1)) == (short, long):
            return depth
    raise CheckpointError(f"{document.path}: stages of {short} and {long} blocks are no depth of this network")


def count_blocks(names: Sequence[str] | Mapping[str, object], prefix: str) -> int:
    """How many numbered children follow ``prefix`` among dotted names."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in names if name.startswith(prefix)})


def require_tensors(value: object, document: Document) -> dict[str, InertTensor]:
    """A state dict as a plain dictionary of tensors, all in the file."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{document.path}: the state dict is damaged")
    tensors = {key: tensor for key, tensor in value.items() if isinstance(tensor, InertTensor)}
    document.check(tensors)
    return tensors


def shape_of(tensors: Mapping[str, InertTensor], name: str, document: Document, network: str) -> tuple[int, ...]:
    """Shape of a convolution's weight. CheckpointError when the file lacks it."""
    if name not in tensors or len(tensors[name].shape) != 4:
        raise CheckpointError(f"{document.path}: the tensor {name!r} of {network} pose networks is missing")
    return tensors[name].shape
