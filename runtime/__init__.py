"""The lean runtime: runs an exported artifact on images. Needs numpy, OpenCV and one backend; never imports torch.

Importing this package loads neither a backend nor OpenCV: the names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import errors
    from .contract import Contract, read_contract
    from .draw import draw_people
    from .estimator import PoseEstimator
    from .images import read_image
    from .result import Person, PoseResult
    from .skeleton import Skeleton

_MODULES = {
    "Contract": ".contract",
    "Person": ".result",
    "PoseEstimator": ".estimator",
    "PoseResult": ".result",
    "Skeleton": ".skeleton",
    "draw_people": ".draw",
    "read_contract": ".contract",
    "read_image": ".images",
}
__all__ = [
    "Contract",
    "Person",
    "PoseEstimator",
    "PoseResult",
    "Skeleton",
    "draw_people",
    "errors",
    "read_contract",
    "read_image",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module(".errors", __name__)
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module, __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
