"""The inert things that stand in for what a checkpoint's pickle holds, and the rules for its plain values.

Nothing here can be changed by the file or looks deeper into its values than one level: those may share parts of each
other, so that a walk through them never ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from yolopose.runtime.errors import UnsafeCheckpoint

MAX_INTEGER = (
    1 << 60
)  # sizes above make arithmetic slow, keys above can be made to collide (Python hashes mod 2^61 - 1)


def refuse(name: str) -> NoReturn:
    raise UnsafeCheckpoint(
        f"the file's pickle would call {name!r}, which no supported checkpoint needs; nothing of it was run. "
        "Do not load this file with torch.load either unless you trust its author"
    )


class InertStorage(NamedTuple):
    """The bytes behind tensors: ``numel`` elements of ``dtype`` under the name ``key`` of the archive."""

    key: str
    dtype: torch.dtype
    numel: int


class InertTensor(NamedTuple):
    """A view of a storage; offset and stride count elements."""

    storage: InertStorage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class StandInType(type):
    """Type of all stand-in classes: they can be neither called nor changed."""

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(cls.__qualname__)

    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        refuse(f"setattr({cls.__qualname__}, {name!r})")


class StandIn(metaclass=StandInType):
    """An object of a class that is not imported; ``vars(x)`` are the attributes that the file gives it."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        refuse(f"setattr({type(self).__qualname__}, {name!r})")


def brief(value: Any) -> str:
    """A value of the file for an error message. Never ``repr``: of lists that share lists it may be without end."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) < MAX_INTEGER else "an enormous number"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(value, list) and len(value) <= 8 and all(type(item) is int for item in value):
        return f"[{', '.join(brief(item) for item in value)}]"
    return f"a value of type {stand_in_name(value) or type(value).__name__}"


def check_keys(keys: Iterable[Any]) -> None:
    """ValueError unless all may be keys of a dictionary or members of a set: text, whole numbers and None.

    Hashing anything else can be made to last for ever (tuples that share tuples), to overflow the C stack (tuples in
    tuples) or to collide at will, and no checkpoint needs it.
    """
    for key in keys:
        if not (key is None or type(key) in (str, bool) or (type(key) is int and abs(key) < MAX_INTEGER)):
            raise ValueError(f"{brief(key)} as a key; text and whole numbers can be one")


def stand_in_name(value: Any) -> str:
    """Full name of the class that ``value`` stands for, such as "models.yolo.Model"; "" for anything else."""
    return type(value).__qualname__ if isinstance(value, StandIn) else ""


class InertArray:
    """A numpy array as its pickle describes it."""

    __slots__ = ("state",)

    def describe(self, state: Any) -> None:
        self.state = state

    def value(self) -> np.ndarray | None:
        """The array; None when it is not made of numbers or its description is damaged."""
        try:
            _, shape, dtype, fortran, data = self.state
            if not isinstance(dtype, InertDtype):
                return None
            return np.frombuffer(data, dtype.value()).reshape(shape, order="F" if fortran else "C")
        except (AttributeError, OverflowError, TypeError, ValueError):
            return None


class InertDtype:
    """A numpy dtype as its pickle describes it; kinds other than numbers have no value."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str):
            raise ValueError("a numpy type without a name")
        self.code, self.order = code, "<"

    def describe(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self.order = state[1]

    def value(self) -> np.dtype:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.code):
            raise ValueError(f"numpy type {brief(self.code)} is not a number")
        return np.dtype(self.order.replace("|", "=") + self.code)


class Name:
    """A name that the file may mention and not call, such as numpy.ndarray as an argument."""

    __slots__ = ("dtype", "name")
    dtype: torch.dtype | None  # of a storage type
    name: str

    def __init__(self, name: str, dtype: torch.dtype | None = None) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "dtype", dtype)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        refuse(f"setattr({self.name}, {name!r})")

    def __call__(self, *_args: Any) -> NoReturn:
        refuse(self.name)
