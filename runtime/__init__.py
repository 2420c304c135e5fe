"""The lean runtime: an exported artifact in, people out. numpy, OpenCV and one inference engine; never torch.

Importing this package loads none of the engines and not OpenCV: the names below are resolved when first asked for.
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
    from .result import PoseResult
    from .skeleton import Skeleton

_HOMES = {
    "Contract": ".contract",
    "PoseEstimator": ".estimator",
    "PoseResult": ".result",
    "Skeleton": ".skeleton",
    "draw_people": ".draw",
    "read_contract": ".contract",
    "read_image": ".images",
}
__all__ = [
    "Contract",
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
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home, __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
