"""From the tensors of another code base to a ``PoseNet``: renaming, strict filling, skeleton and class names.

Everything here validates: a file may be damaged or hostile.
"""

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

# Far above real values: whole-body poses have 133 keypoints, the largest public detection data sets 365 classes.
MAX_KEYPOINTS = MAX_CLASSES = 1_000
MAX_INPUT = 16_384  # pixels per side
PUBLISHED_DEPTHS = (0.33, 0.67, 1.0, 1.33)
ACTIVATION_NAMES = {"SiLU": "silu", "ReLU": "relu"}  # class of torch.nn -> name in NetConfig
COUNTER = "num_batches_tracked"  # buffer of batch norm, unused in inference; old PyTorch versions did not write it

Rules = Sequence[tuple[str, str]]  # (pattern of the beginning of a name, replacement)


class SkeletonMismatch(ValueError):
    """The caller's skeleton has another number of keypoints than the network. The file itself is valid."""


def require_tensors(value: object, document: Document) -> dict[str, InertTensor]:
    """A state dict as a plain dictionary of tensors that the file holds. Raises CheckpointError."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise CheckpointError(f"{document.path}: the state dict is damaged")
    tensors = {key: tensor for key, tensor in value.items() if isinstance(tensor, InertTensor)}
    document.check(tensors)
    return tensors


def shape_of(tensors: Mapping[str, InertTensor], name: str, document: Document, network: str) -> tuple[int, ...]:
    """Shape of the weight of a convolution. Raises CheckpointError if the file lacks it."""
    if name not in tensors or len(tensors[name].shape) != 4:
        raise CheckpointError(f"{document.path}: the tensor {name!r} of {network} pose networks is missing")
    return tensors[name].shape


def count_blocks(names: Sequence[str] | Mapping[str, object], prefix: str) -> int:
    """Number of different children that follow ``prefix`` in dotted names."""
    return len({name[len(prefix) :].split(".", 1)[0] for name in names if name.startswith(prefix)})


def depth_from_repeats(short: int, long: int, document: Document) -> float:
    """The depth multiplier that gives stages of ``short`` (3 x depth) and ``long`` (9 x depth) bottlenecks."""
    for depth in (*PUBLISHED_DEPTHS, short / 3, long / 9, *(step / 100 for step in range(1, 301))):
        if (max(round(3 * depth), 1), max(round(9 * depth), 1)) == (short, long):
            return depth
    raise CheckpointError(f"{document.path}: no depth multiplier gives stages of {short} and {long} blocks")


def renamed(name: str, rules: Rules) -> str | None:
    """``name`` after the first rule that matches its beginning; None if no rule matches."""
    for pattern, replacement in rules:
        changed, count = re.subn(rf"^{pattern}", replacement, name, count=1)
        if count:
            return changed
    return None


def rename_all(tensors: Mapping[str, InertTensor], rules: Rules, document: Document) -> dict[str, Tensor]:
    """The tensors under the names of ``PoseNet``. Raises CheckpointError for a tensor that no rule matches."""
    found: dict[str, Tensor] = {}
    for name, inert in tensors.items():
        new_name = renamed(name, rules)
        if new_name is None or new_name in found:
            raise CheckpointError(f"{document.path}: this kind of network has no place for the tensor {name!r}")
        found[new_name] = document.tensor(inert, name)
    return found


def filled_net(config: NetConfig, tensors: Mapping[str, Tensor], document: Document, source_format: str) -> PoseNet:
    """A network in evaluation mode, float32, with exactly ``tensors``. Raises CheckpointError if they do not fit."""
    _check_count(config.skeleton.num_keypoints, MAX_KEYPOINTS, "keypoints", document)
    _check_count(len(config.classes), MAX_CLASSES, "classes", document)
    _check_count(config.input.size, MAX_INPUT, "pixels per side", document)
    try:
        with torch.device("meta"):  # no memory, no random numbers drawn
            net = build(config)
    except ValueError as error:
        raise CheckpointError(f"{document.path} describes an impossible network: {error}") from error
    expected = net.state_dict()
    given = {name: _converted(tensor, name) for name, tensor in tensors.items()}
    for name, tensor in expected.items():
        if name.endswith(COUNTER):
            given.setdefault(name, torch.zeros((), dtype=tensor.dtype))
    _check_fit(expected, given, document)
    net.load_state_dict(given, strict=True, assign=True)
    net.weights_sha256 = document.sha256
    net.source_format = source_format
    return net.eval()


def _converted(tensor: Tensor, name: str) -> Tensor:
    """int64 for counters, float32 for floating-point values, unchanged otherwise."""
    if name.endswith(COUNTER):
        return tensor.long()
    return tensor.float() if tensor.is_floating_point() else tensor


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], document: Document) -> None:
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
            raise CheckpointError(f"{document.path}: {name} is {tensor.dtype}; quantized weights are not supported")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{document.path}: {name} has values that are not finite; did training diverge?")


def _some(what: str, names: list[str]) -> str:
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}) " if names else ""


def _check_count(count: int, limit: int, what: str, document: Document) -> None:
    if not 1 <= count <= limit:
        raise CheckpointError(f"{document.path}: the network has {brief(count)} {what}; 1 to {limit} are supported")


def skeleton_for(num_keypoints: int, given: Skeleton | None, document: Document) -> Skeleton:
    """The caller's skeleton, else the built-in one with so many keypoints, else unnamed keypoints.

    Raises SkeletonMismatch if the caller's has another number of keypoints.
    """
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
    """``config`` with the caller's skeleton. Raises SkeletonMismatch."""
    return replace(config, skeleton=skeleton_for(config.skeleton.num_keypoints, skeleton, document))


def class_names(count: int, document: Document, known: object = None) -> tuple[str, ...]:
    """``known`` if it is a list of ``count`` strings, or a dict of them by index; else "person" or numbered classes."""
    _check_count(count, MAX_CLASSES, "classes", document)
    if isinstance(known, Mapping):
        known = [known.get(index) for index in range(count)] if len(known) == count else None
    if isinstance(known, list | tuple) and len(known) == count and all(isinstance(name, str) for name in known):
        return tuple(str(name) for name in known)
    return ("person",) if count == 1 else tuple(f"class_{index}" for index in range(count))
