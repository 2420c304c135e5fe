"""The names that a checkpoint's pickle may use, and the inert things that stand in for them.

Nothing handed to the unpickler can be changed by the file: a pickle may set attributes on any object that it reaches,
so the callables here have no attributes and the stand-in classes refuse new ones.
"""

from __future__ import annotations

import collections
import re
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from yolopose.runtime.errors import UnsafeCheckpoint

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


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


def stand_in_name(value: Any) -> str:
    """Full name of the class that ``value`` stands for, such as "models.yolo.Model"; "" for anything else."""
    return type(value).__qualname__ if isinstance(value, StandIn) else ""


class InertArray:
    """A numpy array as its pickle describes it."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def value(self) -> np.ndarray | None:
        """The array; None when it is not made of numbers or its description is damaged."""
        try:
            _, shape, dtype, fortran, data = self.state
            return np.frombuffer(data, dtype.value()).reshape(shape, order="F" if fortran else "C")
        except (AttributeError, TypeError, ValueError):
            return None


class InertDtype:
    """A numpy dtype as its pickle describes it; kinds other than numbers have no value."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code, self.order = str(code), "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self.order = state[1]

    def value(self) -> np.dtype:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.code):
            raise ValueError(f"numpy type {self.code!r} is not a number")
        return np.dtype(self.order.replace("|", "=") + self.code)


class _Tensor:
    """torch._utils._rebuild_tensor and _v2."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> InertTensor:
        numbers = (offset, *tuple(shape), *tuple(stride))
        if not isinstance(storage, InertStorage) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a tensor with a damaged description")
        return InertTensor(storage, offset, tuple(shape), tuple(stride))


class _First:
    """torch._utils._rebuild_parameter: the tensor, without its gradient flags and hooks."""

    __slots__ = ()

    def __call__(self, value: Any, *_rest: Any) -> Any:
        return value


class _Tuple:
    """torch.Size."""

    __slots__ = ()

    def __call__(self, values: Any = ()) -> tuple[Any, ...]:
        return tuple(values)


class _Text:
    """torch.device: its text."""

    __slots__ = ()

    def __call__(self, *values: Any) -> str:
        return ":".join(str(value) for value in values)


class _Encode:
    """_codecs.encode, as numpy's pickles use it: text to bytes."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise ValueError("bytes in an unknown encoding")
        return text.encode("latin1")


class _Array:
    """numpy's _reconstruct: an empty array, described by the state that follows."""

    __slots__ = ()

    def __call__(self, *_args: Any) -> InertArray:
        return InertArray()


class _Dtype:
    """numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: Any, *_rest: Any) -> InertDtype:
        return InertDtype(code)


class _Scalar:
    """numpy's scalar: a Python number, None when it is not one."""

    __slots__ = ()

    def __call__(self, dtype: Any, data: Any = b"") -> Any:
        try:
            return np.frombuffer(data, dtype.value())[0].item()
        except (AttributeError, TypeError, ValueError, IndexError):
            return None


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


class _Attribute:
    """getattr as mmengine's training logs use it, to name a method of one of their classes: a name, nothing else."""

    __slots__ = ()

    def __call__(self, owner: Any, name: Any) -> Name:
        if not isinstance(owner, StandInType) or not isinstance(name, str):
            refuse("builtins.getattr")
        return Name(f"{owner.__qualname__}.{name}")


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.frozenset": frozenset,
    "builtins.getattr": _Attribute(),
    "__builtin__.getattr": _Attribute(),
    "_codecs.encode": _Encode(),
    "torch.Size": _Tuple(),
    "torch.device": _Text(),
    "torch._utils._rebuild_tensor": _Tensor(),
    "torch._utils._rebuild_tensor_v2": _Tensor(),
    "torch._utils._rebuild_parameter": _First(),
    "torch._utils._rebuild_parameter_with_state": _First(),
    "numpy.ndarray": Name("numpy.ndarray"),
    "numpy.dtype": _Dtype(),
    "numpy.core.multiarray._reconstruct": _Array(),
    "numpy._core.multiarray._reconstruct": _Array(),
    "numpy.core.multiarray.scalar": _Scalar(),
    "numpy._core.multiarray.scalar": _Scalar(),
    "torch.storage.UntypedStorage": Name("torch.storage.UntypedStorage", torch.uint8),
    **{f"torch.{name}": Name(f"torch.{name}", dtype) for name, dtype in STORAGE_DTYPES.items()},
    **{f"torch.{name}": getattr(torch, name) for name in DTYPES},
}
