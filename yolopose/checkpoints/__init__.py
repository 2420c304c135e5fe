"""Reading and writing network weights in every supported format. Nothing in a file is executed.

To add a format:

1. ``yolopose/checkpoints/<name>.py``: a module with the members of ``Reader``. For a state dict follow ``mmpose``, for
   a pickled network ``edgeai_yolov5``. ``transfer`` renames tensors and fills the network.
2. This file: add the module to READERS. The first reader that recognizes the content reads the file.
3. Only for a pickled network: its package must be among ``pickle_machine.STAND_IN_PACKAGES``.

Its test, ``tests/checkpoints/test_<name>.py``, compares outputs with those of the reference code, and docs/weights.md
lists the format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint, YoloposeError
from yolopose.runtime.skeleton import Skeleton

from ..model.pose_net import PoseNet
from . import edgeai_yolov5, edgeai_yolox, mmpose, own, ultralytics, yolov7
from .archive import Document, read_document
from .own import demo_net, read_extra, save
from .pickled import kind_of
from .transfer import SkeletonMismatch

__all__ = ["DEMO", "load", "read_extra", "save"]

DEMO = "demo"  # name of the demo network, used instead of a path
MAX_QUOTE = 200  # characters of the file's own text in a message


class Reader(Protocol):
    """A module that reads one format."""

    @property
    def FORMAT(self) -> str:
        """Name of the format, in messages and in ``PoseNet.source_format``."""

    def recognizes(self, content: Any) -> bool:
        """Whether ``read`` is for a file with this content; must not raise."""

    def read(self, document: Document, skeleton: Skeleton | None) -> PoseNet:
        """The network. Raises CheckpointError for what it does not support; any other exception becomes one."""


READERS: tuple[Reader, ...] = (own, mmpose, edgeai_yolox, edgeai_yolov5, yolov7, ultralytics)


def load(path: str | Path, *, skeleton: Skeleton | None = None) -> PoseNet:
    """The network in a checkpoint file: evaluation mode, float32, CPU, with ``weights_sha256`` of the file.

    ``"demo"`` instead of a path gives the demo network. The content decides the format, not the name of the file.

    ``skeleton`` gives the meaning of the keypoints where the file does not: without it 17 keypoints are COCO's, 14
    those of Leeds Sports Pose, and any other number gets unnamed points.

    Raises CheckpointError (missing or damaged), UnknownCheckpoint (not a supported pose network), UnsafeCheckpoint (its
    pickle would run code; nothing of it was run), ValueError (a skeleton with another number of keypoints).
    """
    if str(path) == DEMO:
        return demo_net()
    document = read_document(path)
    for reader in READERS:
        if reader.recognizes(document.content):
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
        f"{document.path} is a PyTorch file, but not a supported pose network: it holds {_summary(document.content)}. "
        f"Supported formats: {', '.join(reader.FORMAT for reader in READERS)}; see docs/weights.md"
    )


def _summary(content: Any) -> str:
    """What the file holds, in a few words."""
    if isinstance(content, dict):
        keys = [str(key)[:MAX_QUOTE] for key in list(content)[:5]]
        network = next((kind_of(content[key]) for key in ("model", "ema") if kind_of(content.get(key))), "")
        return f"a dictionary of {', '.join(keys) or 'nothing'}" + (f" with a {network} network" if network else "")
    return f"an object of type {kind_of(content) or type(content).__name__}"
