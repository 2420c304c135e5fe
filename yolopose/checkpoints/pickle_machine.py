"""An interpreter of pickles that runs nothing of the file.

A pickle is a program: it may import and call whatever it names. Checkpoints of edgeai-yolov5, yolov7 and Ultralytics
are pickled networks, which PyTorch loads only by running that program, with their repository importable. Here an
interpreter reads the same bytes. It knows a short list of names (``pickle_values.ALLOWED``); classes of the packages in
STAND_IN_PACKAGES become stand-ins, and every other name is refused with ``UnsafeCheckpoint`` before anything is called.

``pickle.Unpickler`` with its own ``find_class`` would keep other names out as well. But a file could still make it hash
a dictionary key that takes forever, overflow the C stack with such a key, or allocate gigabytes for one memo index,
and no hook prevents that. Here ``pickletools.genops`` of the standard library splits the bytes into opcodes, and each
opcode does only what is written below: only plain containers are filled, keys are strings or integers, memory grows
with the bytes read, and MAX_STEPS limits the total work. The largest pickle in the test data takes 0.2 seconds.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

from yolopose.runtime.errors import CheckpointError, UnsafeCheckpoint

from .pickle_values import (
    ALLOWED,
    MAX_INTEGER,
    MAX_NAME,
    Call,
    InertArray,
    InertDtype,
    InertStorage,
    Name,
    StandIn,
    StandInType,
    check_keys,
    refuse,
)

# Objects of classes in these packages are read as data: networks and training logs. Their code is never imported.
STAND_IN_PACKAGES = ("models", "utils", "torch.nn", "mmengine", "mmpose", "mmdet", "mmcv", "ultralytics")
MAX_STEPS = 4_000_000  # opcodes, and items that calls copy; a pickled network has about 0.1 million
MAX_STAND_INS = 1_000  # classes; a pickled network has about 20

# Opcodes whose argument is the value.
VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
})  # fmt: skip


class Interpreter:
    """Interprets one pickle. Raises UnsafeCheckpoint for a name not allowed; other exceptions mean a damaged file."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        self._stand_ins: dict[str, StandInType] = {}
        self._steps = 0

    def run(self, file: io.BytesIO) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            self._spend(1)
            if opcode.name in VALUES:
                self.stack.append(argument)
            elif opcode.name in OPCODES:
                OPCODES[opcode.name](self, argument)
            else:
                raise ValueError(f"opcode {opcode.name}, which no supported checkpoint needs")
        return self.stack.pop()

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps; no supported checkpoint needs so many")

    def items(self) -> list[Any]:
        """Remove and return everything above the last mark, and the mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, count: int) -> list[Any]:
        """Remove and return the last ``count`` values."""
        if len(self.stack) < count:
            raise ValueError("the stack lacks a value")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def drop(self) -> None:
        self.items()

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def find(self, module: Any, name: Any) -> Any:
        """The value of a global name: from ALLOWED, or a stand-in class. Raises UnsafeCheckpoint."""
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            raise ValueError("an invalid name")
        full = f"{module}.{name}"
        if full in ALLOWED:
            return ALLOWED[full]
        if not any(module == package or module.startswith(f"{package}.") for package in STAND_IN_PACKAGES):
            refuse(full)
        if full not in self._stand_ins:
            if len(self._stand_ins) == MAX_STAND_INS:
                raise ValueError(f"more than {MAX_STAND_INS} classes")
            self._stand_ins[full] = StandInType(name, (StandIn,), {"__qualname__": full})
        return self._stand_ins[full]

    def call(self, function: Any, args: Any) -> Any:
        if isinstance(function, StandInType):
            return self.create(function, args)  # a SimpleNamespace is pickled this way
        if isinstance(function, Name):
            refuse(function.name)
        if not isinstance(function, Call) or not isinstance(args, tuple):
            raise ValueError("a call of a value that is not callable")
        self._spend(len(args))
        for argument in args:
            self._spend(_size(argument))
        return function(*args)

    def create(self, kind: Any, args: Any) -> Any:
        """A new stand-in without attributes. Raises UnsafeCheckpoint for arguments, which would go to its code."""
        if isinstance(kind, StandInType) and args != ():
            refuse(kind.__qualname__)
        if isinstance(kind, type) and issubclass(kind, StandIn):
            return object.__new__(kind)
        return self.call(kind, args)

    def build(self, target: Any, state: Any) -> None:
        """Set the state of ``target``: the attributes of a stand-in, the description of an array."""
        if isinstance(target, StandInType):
            refuse(f"setattr({target.__qualname__})")
        if isinstance(target, Name):
            refuse(f"setattr({target.name})")
        if isinstance(target, InertArray | InertDtype):
            target.describe(state)
        elif isinstance(target, StandIn):
            if isinstance(state, tuple) and len(state) == 2 and state[1]:  # the second part is for setattr
                refuse(f"setattr({type(target).__qualname__})")
            state = state[0] if isinstance(state, tuple) and len(state) == 2 else state
            if not isinstance(state, dict) or not all(type(key) is str for key in state):
                raise ValueError("an object whose attributes are no dictionary of strings")
            self._spend(len(state))
            vars(target).update(state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict (a state dict's versions) are dropped
            raise ValueError("attributes of a value that has none")

    def storage(self, pid: Any) -> InertStorage | StandInType:
        """The two kinds of persistent ID that torch.save writes.

        ("storage", type, key, device, numel[, view]), and in its older stream ("module", class, file, source code).
        """
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], StandInType):
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("a persistent ID that is not a tensor's storage")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, Name) or kind.dtype is None or type(key) is not str:
            raise ValueError("a tensor's storage with a damaged description")
        if type(numel) is not int or not 0 <= numel < MAX_INTEGER:
            raise ValueError("a tensor's storage with a damaged description")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a tensor's storage that is a part of another one, as PyTorch before 0.4 wrote it")
        return InertStorage(key, kind.dtype, numel)

    def extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise ValueError("items for a value that is not a list")
        target.extend(items)

    def update(self, target: Any, items: list[Any]) -> dict[Any, Any]:
        """``target`` after adding ``items``: key, value, key, value ..."""
        if type(target) is not dict or len(items) % 2:
            raise ValueError("keys for a value that is not a dictionary")
        check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))
        return target

    def add(self, target: Any, items: list[Any]) -> set[Any]:
        if type(target) is not set:
            raise ValueError("members for a value that is not a set")
        check_keys(items)
        target.update(items)
        return target


def _size(value: Any) -> int:
    """Number of steps that a call may need to copy ``value``."""
    if isinstance(value, str | bytes):
        return len(value) >> 8
    return len(value) if isinstance(value, list | tuple | dict | set) else 0


def _pushes(make: Callable[[Interpreter, Any], Any]) -> Callable[[Interpreter, Any], None]:
    """An opcode that pushes its result on the stack."""
    return lambda m, argument: m.stack.append(make(m, argument))


def _put(m: Interpreter, index: Any) -> None:
    m.memo[len(m.memo) if index is None else index] = m.stack[-1]


def _appends(m: Interpreter, _: Any) -> None:
    items = m.items()
    m.extend(m.stack[-1], items)


def _setitems(m: Interpreter, _: Any) -> None:
    items = m.items()
    m.update(m.stack[-1], items)


def _additems(m: Interpreter, _: Any) -> None:
    items = m.items()
    m.add(m.stack[-1], items)


def _object(m: Interpreter, _: Any) -> Any:
    kind, *args = m.items()
    return m.create(kind, tuple(args))


def _object_with_keywords(m: Interpreter, _: Any) -> Any:
    kind, args, keywords = m.top(3)
    return m.create(kind, args if keywords == {} else (keywords,))


OPCODES: dict[str, Callable[[Interpreter, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda m, _: None),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.drop(),
    "DUP": _pushes(lambda m, _: m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _pushes(lambda m, index: m.memo[index])),
    "NONE": _pushes(lambda m, _: None),
    "NEWTRUE": _pushes(lambda m, _: True),
    "NEWFALSE": _pushes(lambda m, _: False),
    "EMPTY_LIST": _pushes(lambda m, _: []),
    "EMPTY_TUPLE": _pushes(lambda m, _: ()),
    "EMPTY_DICT": _pushes(lambda m, _: {}),
    "EMPTY_SET": _pushes(lambda m, _: set()),
    "TUPLE1": _pushes(lambda m, _: tuple(m.top(1))),
    "TUPLE2": _pushes(lambda m, _: tuple(m.top(2))),
    "TUPLE3": _pushes(lambda m, _: tuple(m.top(3))),
    "TUPLE": _pushes(lambda m, _: tuple(m.items())),
    "LIST": _pushes(lambda m, _: m.items()),
    "DICT": _pushes(lambda m, _: m.update({}, m.items())),
    "FROZENSET": _pushes(lambda m, _: m.add(set(), m.items())),
    "APPEND": lambda m, _: m.extend(m.stack[-2], m.top(1)),
    "APPENDS": _appends,
    "SETITEM": _pushes(lambda m, _: m.update(m.stack.pop(-3), m.top(2))),
    "SETITEMS": _setitems,
    "ADDITEMS": _additems,
    "BUILD": lambda m, _: m.build(m.stack[-2], m.top(1)[0]),
    "GLOBAL": _pushes(lambda m, names: m.find(*names.split(" ", 1))),
    "STACK_GLOBAL": _pushes(lambda m, _: m.find(*m.top(2))),
    "REDUCE": _pushes(lambda m, _: m.call(*m.top(2))),
    "NEWOBJ": _pushes(lambda m, _: m.create(*m.top(2))),
    "NEWOBJ_EX": _pushes(_object_with_keywords),
    "OBJ": _pushes(_object),
    "INST": _pushes(lambda m, names: m.create(m.find(*names.split(" ", 1)), tuple(m.items()))),
    "PERSID": _pushes(lambda m, text: m.storage(text)),
    "BINPERSID": _pushes(lambda m, _: m.storage(m.stack.pop())),
}


def unpickle(file: io.BytesIO, where: str) -> Any:
    """The inert content of the pickle at the position of ``file``.

    Raises UnsafeCheckpoint or CheckpointError, with a message that begins with ``where``.
    """
    try:
        return Interpreter().run(file)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{where}: {error}") from None
    except MemoryError:  # memory grows with the file only, so this machine lacks it and the file is not at fault
        raise
    except Exception as error:  # a damaged pickle may raise anything, from EOFError to UnicodeDecodeError
        raise CheckpointError(f"{where} is damaged or truncated: {type(error).__name__}: {error}") from error
