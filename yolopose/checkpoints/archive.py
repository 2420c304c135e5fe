"""The two containers of ``torch.save``: the zip archive (since PyTorch 1.6) and the older plain stream."""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

from .allowed import InertStorage, InertTensor, StandIn
from .inert import unpickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
SIGNATURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x08": "an ONNX file? yolopose runs those, yolopose-export reads weights",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"<": "a web page; was the download refused?",
    b"{": "JSON text",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` to get the weights",
}
MAX_PICKLE_BYTES = 1 << 28  # the pickle of the largest network here has under a megabyte
MAX_DEPTH = 64


class Document:
    """A checkpoint file: its inert ``content`` and, on request, its tensors."""

    def __init__(self, path: Path, content: Any, spans: Mapping[str, tuple[int, int]], sha256: str) -> None:
        self.path, self.content, self.sha256 = path, content, sha256
        self._spans = spans  # storage key -> position and length in the file, bytes

    def tensor(self, inert: InertTensor, name: str) -> Tensor:
        """A tensor of its own memory. Raises CheckpointError when the file does not hold all of it."""
        storage = inert.storage
        last = inert.offset + sum((n - 1) * s for n, s in zip(inert.shape, inert.stride, strict=True))
        if 0 in inert.shape:
            return torch.empty(inert.shape, dtype=storage.dtype)
        data = self._bytes(storage, name)
        if last >= storage.numel or math.prod(inert.shape) > storage.numel:
            raise CheckpointError(f"{self.path}: tensor {name!r} reaches past its {storage.numel} stored values")
        flat = torch.frombuffer(bytearray(data), dtype=storage.dtype)
        return flat.as_strided(inert.shape, inert.stride, inert.offset).clone(memory_format=torch.contiguous_format)

    def _bytes(self, storage: InertStorage, name: str) -> bytes:
        position, length = self._spans.get(storage.key, (0, -1))
        if length != storage.numel * storage.dtype.itemsize:
            raise CheckpointError(f"{self.path}: the values of tensor {name!r} are missing or cut short")
        with self.path.open("rb") as file:
            file.seek(position)
            data = file.read(length)
        if len(data) != length:
            raise CheckpointError(f"{self.path}: the file ends within tensor {name!r}; download it again")
        return data


def read_document(path: str | Path) -> Document:
    """Open a ``torch.save`` file without running its pickle.

    Raises CheckpointError (missing, empty, truncated), UnknownCheckpoint (not such a file), UnsafeCheckpoint.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes)")
    if head.startswith(b"PK"):
        content, spans = _read_zip(path)
    elif head.startswith(b"\x80"):
        content, spans = _read_legacy(path)
    else:
        known = next((text for magic, text in SIGNATURES.items() if head.startswith(magic)), None)
        guess = f"it looks like {known}" if known else f"it begins with {head[:8]!r}"
        raise UnknownCheckpoint(f"{path} is not a PyTorch checkpoint: {guess}")
    return Document(path, content, spans, digest.hexdigest())


def _read_zip(path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    with _zip_errors(path), zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") <= 1]
        if len(pickles) != 1:
            raise UnknownCheckpoint(f"{path} is a zip archive, but not one that torch.save writes")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in entries:
            raise UnknownCheckpoint(f"{path} is a TorchScript program; give the checkpoint it was made from")
        info = entries[pickles[0]]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path} is not as torch.save writes it (its pickle is compressed or enormous)")
        order = entries.get(f"{root}byteorder")
        if order is not None and order.file_size < 16 and archive.read(order) != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
        with archive.open(info) as file:
            content = unpickle(file, str(path))
        prefix = f"{root}data/"
        stored = [i for i in entries.values() if i.filename.startswith(prefix) and not i.compress_type]
    with path.open("rb") as raw:
        return content, {i.filename.removeprefix(prefix): (_data_position(raw, i), i.file_size) for i in stored}


def _data_position(raw: Any, info: zipfile.ZipInfo) -> int:
    """Where an uncompressed entry's bytes begin: past the local header, whose extra field pads to an alignment."""
    raw.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", raw.read(4).ljust(4, b"\0"))
    return int(info.header_offset + 30 + name_length + extra_length)


@contextmanager
def _zip_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is a damaged or truncated archive ({error}); download it again") from error


def _read_legacy(path: Path) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Magic number, protocol, system facts, content, storage keys: five pickles; then each storage with its length."""
    where = str(path)
    with path.open("rb") as file:
        if unpickle(file, where) != LEGACY_MAGIC:
            raise UnknownCheckpoint(f"{path} is a pickle, but not one that torch.save writes")
        if unpickle(file, where) != LEGACY_PROTOCOL:
            raise UnknownCheckpoint(f"{path} was written by a PyTorch that is too old or too new")
        facts = unpickle(file, where)
        if not isinstance(facts, dict) or facts.get("little_endian") is not True:
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
        content = unpickle(file, where)
        keys = unpickle(file, where)
        sizes = {s.key: s.dtype.itemsize for s in _storages(content)}
        spans: dict[str, tuple[int, int]] = {}
        for key in keys if isinstance(keys, list) else []:
            header = file.read(8)
            if len(header) < 8:
                raise CheckpointError(f"{path} ends before its tensors do; download it again")
            length = max(struct.unpack("<q", header)[0], 0) * sizes.get(str(key), 1)
            spans[str(key)] = (file.tell(), length)
            file.seek(length, 1)
    return content, spans


def _storages(content: Any) -> Iterator[InertStorage]:
    """Every storage that ``content`` mentions, in containers and stand-in objects alike."""
    waiting, seen = [content], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, InertTensor):
            yield value.storage
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend(value)
        elif isinstance(value, StandIn):
            waiting.append(vars(value))


def named_tensors(module: Any, prefix: str = "", depth: int = 0) -> dict[str, InertTensor]:
    """State dict of a stand-in ``torch.nn.Module``: parameters and persistent buffers by dotted name."""
    if not isinstance(module, StandIn) or depth > MAX_DEPTH:
        raise CheckpointError(f"the pickled network is damaged at {prefix!r}")
    state = vars(module)
    skipped = state.get("_non_persistent_buffers_set", ())
    found: dict[str, InertTensor] = {}
    for name, value in {**state.get("_parameters", {}), **state.get("_buffers", {})}.items():
        if isinstance(value, InertTensor) and name not in skipped:
            found[f"{prefix}{name}"] = value
    for name, child in state.get("_modules", {}).items():
        if child is not None:
            found.update(named_tensors(child, f"{prefix}{name}.", depth + 1))
    return found
