"""Reading and writing network weights, whichever of the supported formats a file is in."""

from __future__ import annotations

from pathlib import Path

from yolopose.model.pose_net import PoseNet
from yolopose.runtime.errors import UnknownCheckpoint
from yolopose.runtime.skeleton import Skeleton

from . import mmpose
from .archive import read_document

__all__ = ["load"]


def load(path: str | Path, *, skeleton: Skeleton | None = None) -> PoseNet:
    document = read_document(path)
    for reader in (mmpose,):
        if reader.recognises(document.content):
            return reader.read(document, skeleton)
    raise UnknownCheckpoint(f"{path}")
