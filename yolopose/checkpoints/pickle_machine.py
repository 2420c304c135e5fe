"""Reading a pickle without running anything of it.

``torch.save`` writes pickles, and a pickle is a program: it may import and call whatever it names. Checkpoints of
edgeai-yolov5 and yolov7 hold whole pickled networks, which PyTorch loads only by running that program with their
repository importable. Here the same bytes are read by an interpreter of our own that knows a short list of names
(allowed.py). Tensors become descriptions (``InertTensor``), objects of classes such as ``models.yolo.Model`` become
empty ``StandIn`` objects that hold their attributes, and every other name is refused with ``UnsafeCheckpoint`` before
anything is called.

Why not ``pickle.Unpickler`` with a ``find_class`` of our own: it keeps foreign names out, but a file can still make it
hash a dictionary key for ever, overflow the C stack with one, or allocate gigabytes for one memo index, and none of
that can be intercepted. Here ``pickletools.genops``, part of the standard library, cuts the bytes into opcodes, and
each opcode does what is written below: only plain containers are filled, keys are text or numbers, memory is asked for
in step with the file, and ``MAX_STEPS`` bounds the whole. The largest pickle here takes a fifth of a second.
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

# Classes under these packages are data to us: networks and training logs. Their code is never imported.
STAND_IN_PACKAGES = ("models", "utils", "torch.nn", "mmengine", "mmpose", "mmdet", "mmcv", "ultralytics")
MAX_STEPS = 4_000_000  # opcodes, and items that calls copy; a pickled network here has 0.1 million
MAX_STAND_INS = 1_000  # classes; a pickled network here has 20

# Opcodes whose argument is the value.
VALUES = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8",
})  # fmt: skip


class InertMachine:
    """Interprets one pickle. Raises UnsafeCheckpoint for a name off the list; other errors mean a damaged file."""

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
                raise ValueError(f"the opcode {opcode.name}, which no supported checkpoint needs")
        return self.stack.pop()

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise ValueError(f"more than {MAX_STEPS} steps; no supported checkpoint needs as many")

    def items(self) -> list[Any]:
        """Everything above the last mark, taken off the stack together with the mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def top(self, count: int) -> list[Any]:
        """The last ``count`` values, taken off the stack."""
        if len(self.stack) < count:
            raise ValueError("a value is missing")
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
        """What a name stands for."""
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            raise ValueError("a name that is none")
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
            return self.create(function, args)  # as a SimpleNamespace is pickled
        if isinstance(function, Name):
            refuse(function.name)
        if not isinstance(function, Call) or not isinstance(args, tuple):
            raise ValueError("a call of something that cannot be called")
        self._spend(len(args))
        for argument in args:
            self._spend(_size(argument))
        return function(*args)

    def create(self, kind: Any, args: Any) -> Any:
        """A new object without attributes; with arguments it would be a call."""
        if isinstance(kind, StandInType) and args != ():
            refuse(kind.__qualname__)
        if isinstance(kind, type) and issubclass(kind, StandIn):
            return object.__new__(kind)
        return self.call(kind, args)

    def build(self, target: Any, state: Any) -> None:
        """Give ``target`` what the file says of it."""
        if isinstance(target, StandInType):
            refuse(f"setattr({target.__qualname__})")
        if isinstance(target, Name):
            refuse(f"setattr({target.name})")
        if isinstance(target, InertArray | InertDtype):
            target.describe(state)
        elif isinstance(target, StandIn):
            if isinstance(state, tuple) and len(state) == 2 and state[1]:  # the second is for setattr
                refuse(f"setattr({type(target).__qualname__})")
            state = state[0] if isinstance(state, tuple) and len(state) == 2 else state
            if not isinstance(state, dict) or not all(type(key) is str for key in state):
                raise ValueError("attributes of an object that are none")
            self._spend(len(state))
            vars(target).update(state)
        elif not isinstance(target, dict):  # attributes of an OrderedDict, such as a state dict's version, are not kept
            raise ValueError("attributes of something that has none")

    def storage(self, pid: Any) -> InertStorage | StandInType:
        """The two kinds of outside reference that torch.save writes.

        ("storage", type, key, device, numel[, view]), and in its older stream ("module", class, file, source text).
        """
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], StandInType):
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("an outside reference that is not a tensor's storage")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, Name) or kind.dtype is None or type(key) is not str:
            raise ValueError("a tensor's storage with a damaged description")
        if type(numel) is not int or not 0 <= numel < MAX_INTEGER:
            raise ValueError("a tensor's storage with a damaged description")
        if len(pid) == 6 and pid[5] is not None:
            raise ValueError("a tensor's storage that is a part of another, as PyTorch before 0.4 wrote it")
        return InertStorage(key, kind.dtype, numel)

    def extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise ValueError("items for something that is no list")
        target.extend(items)

    def update(self, target: Any, items: list[Any]) -> dict[Any, Any]:
        """``target`` with ``items``, which are key, value, key, value ..."""
        if type(target) is not dict or len(items) % 2:
            raise ValueError("keys for something that is no dictionary")
        check_keys(items[::2])
        target.update(zip(items[::2], items[1::2], strict=True))
        return target

    def add(self, target: Any, items: list[Any]) -> set[Any]:
        if type(target) is not set:
            raise ValueError("members for something that is no set")
        check_keys(items)
        target.update(items)
        return target


def _size(value: Any) -> int:
    """Steps that a call may take to copy ``value``."""
    if isinstance(value, str | bytes):
        return len(value) >> 8
    return len(value) if isinstance(value, list | tuple | dict | set) else 0


def _pushes(make: Callable[[InertMachine, Any], Any]) -> Callable[[InertMachine, Any], None]:
    """An opcode whose result goes on the stack."""
    return lambda m, argument: m.stack.append(make(m, argument))


def _put(m: InertMachine, index: Any) -> None:
    m.memo[len(m.memo) if index is None else index] = m.stack[-1]


def _appends(m: InertMachine, _: Any) -> None:
    items = m.items()
    m.extend(m.stack[-1], items)


def _setitems(m: InertMachine, _: Any) -> None:
    items = m.items()
    m.update(m.stack[-1], items)


def _additems(m: InertMachine, _: Any) -> None:
    items = m.items()
    m.add(m.stack[-1], items)


def _object(m: InertMachine, _: Any) -> Any:
    kind, *args = m.items()
    return m.create(kind, tuple(args))


def _object_with_keywords(m: InertMachine, _: Any) -> Any:
    kind, args, keywords = m.top(3)
    return m.create(kind, args if keywords == {} else (keywords,))


OPCODES: dict[str, Callable[[InertMachine, Any], None]] = {
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
    """The inert content of the pickle at the position of ``file``. Raises CheckpointError naming ``where``."""
    try:
        return InertMachine().run(file)
    except UnsafeCheckpoint as error:
        raise UnsafeCheckpoint(f"{where}: {error}") from None
    except MemoryError:  # no more is asked for than the file is long, so this machine is short of it
        raise
    except Exception as error:  # a damaged pickle may raise anything, from EOFError to UnicodeDecodeError
        raise CheckpointError(f"{where} is damaged or truncated: {type(error).__name__}: {error}") from error
