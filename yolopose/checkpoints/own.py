"""The checkpoint of yolopose: a plain dictionary from which the network is rebuilt; and the demo network.

Safe for ``torch.load(weights_only=True)``. Keys:

format       "yolopose"
schema       1; a newer number is refused
config       NetConfig as JSON (a string, so that equal networks give equal bytes)
state_dict   tensors by name
origin       JSON: source_format and weights_licence
extra        whatever the caller of ``save`` added: plain values and tensors

The demo network ships with the package: YOLOX-Pose-nano, 14 keypoints, 256 pixels, float16 weights of convolutions.
It was trained for this project on Leeds Sports Pose Extended, whose photographs are for research, and on synthetic
scenes (docs/train.md has commands and figures). It is for trials and tests; products train their own.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
DEMO_WEIGHTS = Path(__file__).with_name("demo.pt")


def recognizes(content: Any) -> bool:
    return isinstance(content, dict) and content.get("format") == FORMAT


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
        source_format, license_text = str(origin["source_format"]), origin["weights_licence"]
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{document.path}: its description of the network is damaged ({error})") from error
    if skeleton is not None:
        config = transfer.with_skeleton(config, skeleton, document)
    inert = transfer.require_tensors(content.get("state_dict"), document)
    tensors = {name: document.tensor(tensor, name) for name, tensor in inert.items()}
    net = transfer.filled_net(config, tensors, document, source_format)
    net.weights_licence = license_text if isinstance(license_text, str) else None
    return net


def read_extra(path: str | Path) -> dict[str, Any]:
    """The ``extra`` that ``save`` stored, such as the state of a training run. Raises CheckpointError."""
    read_document(path)  # refuses pickles on which torch.load would not end
    try:
        document = torch.load(Path(path), map_location="cpu", weights_only=True)
        extra = document["extra"] if recognizes(document) else None
    except Exception as error:  # torch raises many kinds for damaged files
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(extra, dict):
        raise CheckpointError(f"{path} is not a yolopose checkpoint")
    return extra


def save(net: PoseNet, path: str | Path, *, half: bool = False, **extra: Any) -> None:
    """Write ``net`` and ``extra`` to ``path``, completely or not at all; equal content gives equal bytes.

    half: store weights of convolutions as float16, half the size. Biases and batch norm stay float32, because its
    variances may exceed the range of float16. ``load`` gives float32 in either case.
    Raises ValueError for a fused network, which cannot be rebuilt or trained, and for an ``extra`` that PyTorch would
    not load safely; OutputError if the file cannot be written.
    """
    with torch.device("meta"):
        expected = build(net.config).state_dict()
    state = net.state_dict()
    if state.keys() != expected.keys():
        raise ValueError("only an unfused network can be saved; save the network before fuse_conv_bn")
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
            read_content(archive, path)  # as yolopose.load reads it, which allows fewer kinds of keys than PyTorch
    except Exception as error:
        raise ValueError(f"extra may hold plain values and tensors only: {error}") from error
    atomic_write(Path(path), buffer.getvalue())


def _stored(tensor: Tensor, half: bool) -> Tensor:
    """A contiguous copy on the CPU, in memory of its own."""
    kept = tensor.detach().cpu().contiguous().clone()
    return kept.half() if half and kept.ndim > 1 else kept


def demo_net() -> PoseNet:
    """The demo network in evaluation mode, float32."""
    net = read(read_document(DEMO_WEIGHTS), None)
    net.source_format = "demo"
    return net
