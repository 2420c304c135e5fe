"""Reading a pickle without running anything of it.

``torch.save`` writes pickles, and a pickle is a program: it may import and call whatever it names. Checkpoints of
edgeai-yolov5 and yolov7 hold whole pickled networks, which PyTorch loads only by running that program with their
repository importable. Here the same bytes are read by an unpickler that knows a short list of names (allowed.py).
Tensors become descriptions (``InertTensor``), objects of classes such as ``models.yolo.Model`` become empty
``StandIn`` objects that hold their attributes, and every other name is refused with ``UnsafeCheckpoint`` before
anything is called.
"""

from __future__ import annotations

import pickle
from typing import IO, Any

from yolopose.runtime.errors import CheckpointError, UnsafeCheckpoint

from .allowed import ALLOWED, InertStorage, Name, StandIn, StandInType, refuse

# Classes under these packages are data to us: networks and training logs. Their code is never imported.
STAND_IN_PACKAGES = ("models", "utils", "torch.nn", "mmengine", "mmpose", "mmdet", "mmcv", "ultralytics")


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

    def persistent_load(self, pid: Any) -> InertStorage | StandInType:
        """The two kinds of outside reference that torch.save writes.

        ("storage", type, key, device, numel[, view]), and in its older stream ("module", class, file, source text).
        """
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], StandInType):
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise ValueError("an outside reference that is not a tensor's storage")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(kind, Name) or kind.dtype is None or type(numel) is not int or numel < 0:
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
