"""Pickles written opcode by opcode, and files that contain them."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

START = b"\x80\x02"  # protocol 2


class Invented(ModuleType):
    """A module with a class for every name: enough to unpickle, change and pickle a network in a test."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (nn.Module,), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(shape: tuple[int, ...], stride: tuple[int, ...], stored: int = 1) -> bytes:
    """A tensor of any declared shape in the storage "0" of ``stored`` float32 values."""
    storage = b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(stored) + b"tQ"
    description = storage + number(0) + numbers(*shape) + numbers(*stride) + b"\x89N"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + description + b"tR"


def dictionary(items: Mapping[str, bytes]) -> bytes:
    return b"}" + b"".join(text(key) + value + b"s" for key, value in items.items())


def zipped(payload: bytes, path: Path, storage: bytes = bytes(4)) -> Path:
    """An archive as torch.save writes it, with one storage."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", payload)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/data/0", storage)
    return path


def streamed(payload: bytes, path: Path, rest: bytes = pickle.dumps([])) -> Path:
    """A stream as PyTorch before 1.6 wrote it; ``rest``: the list of storages, then their values."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in parts) + payload + rest)
    return path


def containers(payload: bytes, folder: Path) -> list[Path]:
    """The payload as a plain pickle file, in the zip archive, and in the older stream."""
    plain = folder / "plain.pt"
    plain.write_bytes(payload if payload.startswith(b"\x80") else START + payload)
    return [plain, zipped(payload, folder / "zip.pt"), streamed(payload, folder / "stream.pt")]
