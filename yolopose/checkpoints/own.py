"""The project's own checkpoint: a plain dictionary from which the network rebuilds itself.

Safe for ``torch.load(weights_only=True)``. Keys:

format       "yolopose"
schema       1; a newer number is refused
config       JSON text of NetConfig (text, so that equal networks give equal bytes)
state_dict   tensors by name
origin       JSON text: source_format and weights_licence
extra        whatever the caller added: plain values and tensors

The demo network: weights that ship with the package, trained by us (docs/train.md has the commands and figures).

YOLOX-Pose-nano, 14 keypoints, 256 px; float16 weights of convolutions. Learnt from Leeds Sports Pose Extended, whose
photographs are for research, and synthetic scenes: for trying things out and for tests. Products train their own.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch

from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.output import atomic_write
from yolopose.runtime.skeleton import Skeleton

from ..model.config import NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import build
from . import transfer
from .archive import Document, read_content, read_document
from .pickle_values import brief

FORMAT = "yolopose"
SCHEMA = 1


def recognises(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


def save(net: PoseNet, path: str | Path, *, half: bool = False, **extra: Any) -> None:
    """Write ``net`` and ``extra`` to ``path``, whole or not at all; equal content gives equal bytes.

    half: weights of convolutions as float16, half the size; biases and batch norm, whose variances may exceed float16,
    stay float32. ``load`` gives float32 either way.
    Raises ValueError for a fused network, which cannot be rebuilt or trained, and for an ``extra`` that PyTorch would
    not load safely; OutputError when the file cannot be written.
    """
    with torch.device("meta"):
        expected = build(net.config).state_dict()
    state = net.state_dict()
    if state.keys() != expected.keys():
        raise ValueError("only an unfused network can be saved; save the one that fuse_conv_bn was given")
    document = {
        "format": FORMAT,
        "schema": SCHEMA,
        "config": json.dumps(net.config.to_dict(), sort_keys=True),
        "state_dict": {name: _stored(tensor, half) for name, tensor in state.items()},
        "origin": json.dumps({"source_format": net.source_format, "weights_licence": net.weights_licence}),
        "extra": extra,
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(buffer) as archive:
            read_content(archive, path)  # what yolopose.load does; it knows fewer kinds of keys than PyTorch
    except Exception as error:
        raise ValueError(f"extra may hold plain values and tensors only: {error}") from error
    atomic_write(Path(path), buffer.getvalue())


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """Contiguous, on the CPU, sharing no memory."""
    kept = tensor.detach().cpu().contiguous().clone()
    return kept.half() if half and kept.ndim > 1 else kept


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """The network as it was saved. ``skeleton`` replaces the stored one if it has as many keypoints."""
    content = document.content
    schema = content.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise CheckpointError(
            f"{document.path} has schema {brief(schema)}, this yolopose reads up to {SCHEMA}; update yolopose"
        )
    try:
        config = NetConfig.from_dict(json.loads(content["config"]))
        origin = json.loads(content["origin"])
        source_format, licence = str(origin["source_format"]), origin["weights_licence"]
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{document.path}: its description of the network is damaged ({error})") from error
    if skeleton is not None:
        config = transfer.with_skeleton(config, skeleton, document)
    tensors = transfer.require_tensors(content.get("state_dict"), document)
    net = transfer.filled_net(config, {name: document.tensor(t, name) for name, t in tensors.items()}, document)
    net.source_format = source_format
    net.weights_licence = licence if isinstance(licence, str) else None
    return net


def read_extra(path: str | Path) -> dict[str, Any]:
    """What ``save`` was given beside the network, such as the state of a training. CheckpointError if unreadable."""
    read_document(path)  # refuses pickles that PyTorch would be busy with for ever
    try:
        document = torch.load(Path(path), map_location="cpu", weights_only=True)
        extra = document["extra"] if recognises(document) else None
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(extra, dict):
        raise CheckpointError(f"{path} is not a checkpoint of yolopose")
    return extra


WEIGHTS = Path(__file__).with_name("demo.pt")


def demo_net() -> PoseNet:
    """In evaluation mode, float32."""
    net = read(read_document(WEIGHTS), None)
    net.source_format = "demo"
    return net
