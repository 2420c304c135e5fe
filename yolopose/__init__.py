"""yolopose: multi-person pose estimation from a PyTorch checkpoint to an application on the edge.

Importing this package (or ``yolopose.runtime`` through it) loads neither torch nor onnx: the names below are resolved
when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checkpoints import load, save
    from .model.config import NetConfig
    from .model.pose_net import PoseNet, Predictions
    from .model.sizes import SIZES, build

__version__ = "0.1.0"

_HOMES = {
    "load": ".checkpoints",
    "save": ".checkpoints",
    "PoseNet": ".model.pose_net",
    "Predictions": ".model.pose_net",
    "NetConfig": ".model.net_config",
    "SIZES": ".model.sizes",
    "build": ".model.sizes",
}
__all__ = ["SIZES", "NetConfig", "PoseNet", "Predictions", "__version__", "build", "load", "save"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
