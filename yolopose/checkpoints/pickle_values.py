"""The values that reading a pickle gives, and the only names that a pickle may use (``ALLOWED``).

All values are *inert*: plain data without behavior. A tensor becomes an ``InertTensor``, which says where its values
are in the file. An object of a class that is not imported, such as ``models.yolo.Model``, becomes a *stand-in*
(``StandIn``): an object that only holds the attributes in the file.

The file is not trusted, so nothing here can be changed by it, and two rules hold. Values may share parts of each other,
so that a complete walk through them may never end: nothing here looks deeper than one level. A callable that copies or
joins its arguments without a limit lets a file of kilobytes fill gigabytes, by calling it repeatedly on its own
results: every callable checks types and lengths.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from yolopose.runtime.errors import UnsafeCheckpoint

# Larger sizes make arithmetic slow, and larger keys can be made to collide (Python hashes integers modulo 2^61 - 1).
MAX_INTEGER = 1 << 60
MAX_DIMENSIONS = 16  # of a tensor
MAX_NAME = 256  # characters of an imported name; the longest in real files has fewer than 100

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
    """Raises UnsafeCheckpoint for a pickle that would call or change ``name``."""
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
    """Metaclass of all stand-in classes, which can be neither called nor changed."""

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(cls.__qualname__)

    def __setattr__(cls, name: str, value: Any) -> NoReturn:
        refuse(f"setattr({cls.__qualname__}, {name!r})")


class StandIn(metaclass=StandInType):
    """An object of a class that is not imported; ``vars(x)`` gives its attributes."""

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        refuse(f"setattr({type(self).__qualname__}, {name!r})")


def brief(value: Any) -> str:
    """A value of the file for an error message. ``repr`` may never end for lists that share lists."""
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) < MAX_INTEGER else "a very large number"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else f"{value[:57]}...")
    if isinstance(value, list) and len(value) <= 8 and all(type(item) is int for item in value):
        return f"[{', '.join(brief(item) for item in value)}]"
    return f"a value of type {stand_in_name(value) or type(value).__name__}"


def check_keys(keys: Iterable[Any]) -> None:
    """Raises ValueError unless all are allowed as keys of a dictionary or members of a set: strings, integers, None.

    Hashing anything else can be made to take forever (tuples that share tuples), to overflow the C stack (nested
    tuples) or to collide, and no checkpoint needs it.
    """
    for key in keys:
        if not (key is None or type(key) in (str, bool) or (type(key) is int and abs(key) < MAX_INTEGER)):
            raise ValueError(f"{brief(key)} is used as a key; only strings, integers and None are supported")


def stand_in_name(value: Any) -> str:
    """Full name of the class of a stand-in, such as "models.yolo.Model"; "" for anything else."""
    return type(value).__qualname__ if isinstance(value, StandIn) else ""


class InertArray:
    """A NumPy array as its pickle describes it."""

    __slots__ = ("state",)

    def describe(self, state: Any) -> None:
        self.state = state

    def value(self) -> np.ndarray | None:
        """The array; None if it does not consist of numbers or its description is damaged."""
        try:
            _, shape, dtype, fortran, data = self.state
            if not isinstance(dtype, InertDtype):
                return None
            return np.frombuffer(data, dtype.value()).reshape(shape, order="F" if fortran else "C")
        except (AttributeError, OverflowError, TypeError, ValueError):
            return None


class InertDtype:
    """A NumPy dtype as its pickle describes it. Only numbers have a ``value``."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str):
            raise ValueError("a NumPy type without a name")
        self.code, self.order = code, "<"

    def describe(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self.order = state[1]

    def value(self) -> np.dtype:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.code):
            raise ValueError(f"NumPy type {brief(self.code)} is not a number")
        return np.dtype(self.order.replace("|", "=") + self.code)


class Name:
    """A name that the file may use as a value but not call, such as numpy.ndarray as an argument."""

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


class Call(ABC):
    """A callable for pickles. The interpreter calls instances of this class and nothing else."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, *args: Any) -> Any: ...


class _Tensor(Call):
    """torch._utils._rebuild_tensor and _v2."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_rest: Any) -> InertTensor:
        if not isinstance(storage, InertStorage) or not (isinstance(shape, tuple) and isinstance(stride, tuple)):
            raise ValueError("a tensor with a damaged description")
        numbers = (offset, *shape, *stride)
        if not all(type(number) is int and 0 <= number < MAX_INTEGER for number in numbers):
            raise ValueError("a tensor with a damaged description")
        if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"a tensor of {len(shape)} dimensions and {len(stride)} strides")
        return InertTensor(storage, offset, shape, stride)


class _First(Call):
    """torch._utils._rebuild_parameter: the tensor without gradient flag and hooks."""

    __slots__ = ()

    def __call__(self, value: Any, *_rest: Any) -> Any:
        return value


class _Tuple(Call):
    """torch.Size."""

    __slots__ = ()

    def __call__(self, values: Any = ()) -> tuple[Any, ...]:
        if not isinstance(values, list | tuple) or len(values) > MAX_DIMENSIONS:
            raise ValueError("a size with a damaged description")
        return tuple(values)


class _Device(Call):
    """torch.device: always the same string, because nothing here depends on the device."""

    __slots__ = ()

    def __call__(self, kind: Any, index: Any = 0) -> str:
        if type(kind) is not str or type(index) is not int:
            raise ValueError("a device with a damaged description")
        return "device"


class _Dict(Call):
    """collections.OrderedDict: a plain dictionary, which keeps its order too. Other opcodes fill it."""

    __slots__ = ()

    def __call__(self) -> dict[Any, Any]:
        return {}


class _Set(Call):
    """set and frozenset."""

    __slots__ = ()

    def __call__(self, values: Any = ()) -> set[Any]:
        if not isinstance(values, list | tuple | set):
            raise ValueError("a set with a damaged description")
        check_keys(values)
        return set(values)


class _Encode(Call):
    """_codecs.encode, as NumPy's pickles use it: string to bytes."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
            raise ValueError("bytes in an unknown encoding")
        return text.encode("latin1")


class _Array(Call):
    """NumPy's _reconstruct: an array without values; BUILD gives it its description."""

    __slots__ = ()

    def __call__(self, *_args: Any) -> InertArray:
        return InertArray()


class _Dtype(Call):
    """numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: Any, *_rest: Any) -> InertDtype:
        return InertDtype(code)


class _Scalar(Call):
    """NumPy's scalar: a Python number, None if it is not a number."""

    __slots__ = ()

    def __call__(self, dtype: Any, data: Any = b"") -> Any:
        if not isinstance(dtype, InertDtype) or not isinstance(data, bytes):
            return None
        try:
            return np.frombuffer(data, dtype.value(), count=1)[0].item()
        except (AttributeError, TypeError, ValueError, IndexError):
            return None


class _Path(Call):
    """Paths of pathlib: always the same string, because nothing here depends on them."""

    __slots__ = ()

    def __call__(self, *_parts: Any) -> str:
        return "path"


class _Attribute(Call):
    """getattr of a stand-in: only the name of the attribute.

    Training logs of mmengine use it for a method of one of their classes, and networks whose ``forward`` was replaced
    for a method of an object.
    """

    __slots__ = ()

    def __call__(self, owner: Any, name: Any) -> Name:
        if not isinstance(owner, StandInType | StandIn) or not isinstance(name, str):
            refuse("builtins.getattr")
        full = f"{owner.__qualname__ if isinstance(owner, StandInType) else type(owner).__qualname__}.{name}"
        if len(full) > MAX_NAME:
            refuse("builtins.getattr")
        return Name(full)


ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": _Dict(),
    "builtins.set": _Set(),
    "__builtin__.set": _Set(),
    "builtins.frozenset": _Set(),
    "__builtin__.frozenset": _Set(),
    "builtins.getattr": _Attribute(),
    "__builtin__.getattr": _Attribute(),
    "_codecs.encode": _Encode(),
    **{
        f"{module}.{kind}Path": _Path()
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
    "torch.Size": _Tuple(),
    "torch.device": _Device(),
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
