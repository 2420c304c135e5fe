"""Reading a pickle without running anything of it.

``torch.save`` writes pickles, and a pickle is a program: it may import and call whatever it names. Checkpoints of
edgeai-yolov5 and yolov7 hold whole pickled networks, which PyTorch loads only by running that program with their
repository importable. Here the same bytes are read by an unpickler that knows a short list of names. Tensors become
descriptions (``InertTensor``), objects of classes such as ``models.yolo.Model`` become empty ``StandIn`` objects that
hold their attributes, and every other name is refused with ``UnsafeCheckpoint`` before anything is called.

Nothing handed to the unpickler can be changed by the file: a pickle may set attributes on any object that it reaches, so
the callables below have no attributes and the stand-in classes refuse new ones.
"""

from __future__ import annotations

import collections
import pickle
import re
from dataclasses import dataclass
from typing import IO, Any, NoReturn

import numpy as np
import torch

from yolopose.runtime.errors import CheckpointError, UnsafeCheckpoint

# Classes under these packages are data to us: networks and training logs. Their code is never imported.
STAND_IN_PACKAGES = ("models", "utils", "torch.nn", "mmengine", "mmpose", "mmdet", "mmcv")

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


@dataclass(frozen=True)
class InertStorage:
    """The bytes behind tensors: ``numel`` elements of ``dtype`` under the name ``key`` of the archive."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class InertTensor:
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


class _Name:
    """A name that the file may mention and not call, such as numpy.ndarray as an argument."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: torch.dtype | None = None) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "dtype", dtype)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        refuse(f"setattr({self.name}, {name!r})")

    def __call__(self, *_args: Any) -> NoReturn:
        refuse(self.name)


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.frozenset": frozenset,
    "_codecs.encode": _Encode(),
    "torch.Size": _Tuple(),
    "torch.device": _Text(),
    "torch._utils._rebuild_tensor": _Tensor(),
    "torch._utils._rebuild_tensor_v2": _Tensor(),
    "torch._utils._rebuild_parameter": _First(),
    "torch._utils._rebuild_parameter_with_state": _First(),
    "numpy.ndarray": _Name("numpy.ndarray"),
    "numpy.dtype": _Dtype(),
    "numpy.core.multiarray._reconstruct": _Array(),
    "numpy._core.multiarray._reconstruct": _Array(),
    "numpy.core.multiarray.scalar": _Scalar(),
    "numpy._core.multiarray.scalar": _Scalar(),
    "torch.storage.UntypedStorage": _Name("torch.storage.UntypedStorage", torch.uint8),
    **{f"torch.{name}": _Name(f"torch.{name}", dtype) for name, dtype in STORAGE_DTYPES.items()},
    **{f"torch.{name}": getattr(torch, name) for name in DTYPES},
}


class InertUnpickler(pickle.Unpickler):
    """Reads one pickle. Raises UnsafeCheckpoint for a name off the list; other errors mean a damaged file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._stand_ins: dict[str, StandInType] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        if not any(module == package or module.startswith(f"{package}.") for package in STAND_IN_PACKAGES):
            refuse(full)
        if full not in self._stand_ins:
            self._stand_ins[full] = StandInType(name, (StandIn,), {"__qualname__": full})
        return self._stand_ins[full]

    def persistent_load(self, pid: Any) -> InertStorage:
        """The one kind of outside reference that torch.save writes: ("storage", type, key, device, numel[, view])."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("an outside reference that is not a tensor's storage")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, _Name) or kind.dtype is None or type(numel) is not int or numel < 0:
            raise ValueError("a tensor's storage with a damaged description")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a tensor's storage that is a part of another, as PyTorch before 0.4 wrote it")
        return InertStorage(str(key), kind.dtype, numel)


def unpickle(file: IO[bytes], where: str) -> Any:
    """The inert content of the pickle at the position of ``file``. Raises CheckpointError naming ``where``."""
    try:
        return InertUnpickler(file).load()
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{where}: {error}") from None
    except Exception as error:  # a damaged pickle may raise anything, from EOFError to MemoryError
        raise CheckpointError(f"{where} is damaged or truncated: {type(error).__name__}: {error}") from error
