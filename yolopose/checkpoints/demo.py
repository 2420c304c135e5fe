"""The demo network: weights that ship with the package, trained by us (docs/train.md has the commands and figures).

YOLOX-Pose-nano, 14 keypoints, 256 px; float16 weights of convolutions. Learnt from Leeds Sports Pose Extended, whose
photographs are for research, and synthetic scenes: for trying things out and for tests. Products train their own.
"""

from __future__ import annotations

from pathlib import Path

from ..model.pose_net import PoseNet
from . import own
from .archive import read_document

WEIGHTS = Path(__file__).with_name("demo.pt")


def demo_net() -> PoseNet:
    """In evaluation mode, float32."""
    net = own.read(read_document(WEIGHTS), None)
    net.source_format = "demo"
    return net
