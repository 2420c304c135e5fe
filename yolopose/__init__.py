"""yolopose: multi-person pose estimation from a PyTorch checkpoint to an application on the edge.

Importing this package loads neither numpy nor torch: the names below are imported when they are first used. The names
of the runtime never need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolopose.runtime import Person, PoseEstimator, PoseResult, Skeleton

    from .checkpoints import load, save
    from .model.config import NetConfig
    from .model.pose_net import PoseNet, Predictions
    from .model.sizes import SIZES, build

__version__ = "0.1.0"  # the only place that names the version: pyproject.toml and `--version` read it

_MODULES = {
    "NetConfig": ".model.config",
    "Person": ".runtime",
    "PoseEstimator": ".runtime",
    "PoseNet": ".model.pose_net",
    "PoseResult": ".runtime",
    "Predictions": ".model.pose_net",
    "SIZES": ".model.sizes",
    "Skeleton": ".runtime",
    "build": ".model.sizes",
    "load": ".checkpoints",
    "save": ".checkpoints",
}
__all__ = [
    "SIZES",
    "NetConfig",
    "Person",
    "PoseEstimator",
    "PoseNet",
    "PoseResult",
    "Predictions",
    "Skeleton",
    "__version__",
    "build",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module, __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
