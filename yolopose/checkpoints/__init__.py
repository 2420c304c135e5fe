"""Reading and writing network weights, in whichever supported format a file is. Nothing in a file is executed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint, YoloposeError
from yolopose.runtime.skeleton import Skeleton

from ..model.pose_net import PoseNet
from . import edgeai_yolov5, edgeai_yolox, mmpose, own, ultralytics, yolov7
from .archive import Document, read_document
from .own import read_extra, save
from .pickled import kind_of
from .transfer import SkeletonMismatch

__all__ = ["DEMO", "load", "read_extra", "save"]

DEMO = "demo"  # the name of the demo network, which comes from no file
MAX_QUOTE = 200  # characters of a file's own text in a message
READERS = (own, mmpose, edgeai_yolox, edgeai_yolov5, yolov7, ultralytics)


def load(path: str | Path, *, skeleton: Skeleton | None = None) -> PoseNet:
    """The network in a checkpoint file: evaluation mode, float32, CPU, with ``weights_sha256`` of the file.

    ``"demo"`` instead of a path is the demo network.

    The format is recognised by content. ``skeleton`` says what the keypoints mean where the file does not: 17 are
    taken for COCO's, 14 for Leeds Sports Pose, any other number gets nameless points without it.
    Raises CheckpointError (damaged), UnknownCheckpoint (not a pose network that we read), UnsafeCheckpoint (its pickle
    would run code; nothing of it was run), ValueError (a skeleton of another number of keypoints).
    """
    if str(path) == DEMO:
        from .own import demo_net

        return demo_net()
    document = read_document(path)
    for reader in READERS:
        if reader.recognises(document.content):
            try:
                return reader.read(document, skeleton)
            except (YoloposeError, MemoryError, SkeletonMismatch):
                raise
            except Exception as error:  # a file may be wrong in more ways than can be foreseen
                raise CheckpointError(
                    f"{document.path} looks like {reader.FORMAT}, but is damaged "
                    f"({type(error).__name__}: {str(error)[:MAX_QUOTE]})"
                ) from error
    raise UnknownCheckpoint(
        f"{document.path} is a PyTorch file, but no pose network that yolopose reads: it holds {_summary(document)}. "
        f"Read are: {', '.join(reader.FORMAT for reader in READERS)}; see docs/weights.md"
    )


def _summary(document: Document) -> str:
    """What is inside, in a few words, to help whoever gave the wrong file."""
    content: Any = document.content
    if isinstance(content, dict):
        keys = [str(key)[:MAX_QUOTE] for key in list(content)[:5]]
        network = next((kind_of(content[key]) for key in ("model", "ema") if kind_of(content.get(key))), "")
        return f"a dictionary of {', '.join(keys) or 'nothing'}" + (f" with a {network} network" if network else "")
    return f"an object of type {kind_of(content) or type(content).__name__}"
