"""A checkpoint file as a ``Document``: the two containers of ``torch.save``, and tensors read on demand.

The containers are the zip archive (since PyTorch 1.6) and the older plain stream. The pickle inside is read by
``pickle_machine``, which runs nothing of it.
"""

from __future__ import annotations

import hashlib
import io
import math
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint, YoloposeError

from . import file_kinds
from .pickle_machine import unpickle
from .pickle_values import MAX_INTEGER, InertStorage, InertTensor, StandIn

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PICKLE_BYTES = 1 << 28  # the pickle of the largest known network has less than a megabyte
MAX_TENSORS = 20_000  # of one network; the largest known one has 3,000
MAX_SHARING = 4  # limit of the bytes of all tensors, in file sizes; above 1 only where tensors share values

Spans = Mapping[str, tuple[int, int]]  # storage key -> position and length in the file, bytes


class Document:
    """A checkpoint file: its inert ``content`` (see ``pickle_values``) and, on request, its tensors."""

    def __init__(self, path: Path, content: Any, spans: Spans, sha256: str) -> None:
        self.path, self.content, self.sha256 = path, content, sha256
        self._spans = spans

    def check_count(self, tensors: int) -> None:
        """Raises CheckpointError for more tensors than any supported network has."""
        if tensors > MAX_TENSORS:
            raise CheckpointError(f"{self.path} has {tensors} tensors; {MAX_TENSORS} are supported")

    def check(self, tensors: Mapping[str, InertTensor]) -> None:
        """Raises CheckpointError unless the file holds all ``tensors``. Their shapes can be trusted afterwards."""
        self.check_count(len(tensors))
        size = sum(self._extent(inert, name) for name, inert in tensors.items())
        if size > MAX_SHARING * self.path.stat().st_size:
            raise CheckpointError(
                f"{self.path}: its tensors have {size} bytes together, more than {MAX_SHARING} times the file"
            )

    def tensor(self, inert: InertTensor, name: str) -> Tensor:
        """The values of a tensor in memory of its own. Raises CheckpointError if the file lacks some of them."""
        dtype, length = inert.storage.dtype, self._extent(inert, name)
        if length == 0:
            return torch.empty(inert.shape, dtype=dtype)
        with self.path.open("rb") as file:
            file.seek(self._spans[inert.storage.key][0] + inert.offset * dtype.itemsize)
            data = file.read(length)
        if len(data) != length:
            raise CheckpointError(f"{self.path}: the file ends within tensor {name!r}; download it again")
        flat = torch.frombuffer(bytearray(data), dtype=dtype)
        return flat.as_strided(inert.shape, inert.stride).clone(memory_format=torch.contiguous_format)

    def _extent(self, inert: InertTensor, name: str) -> int:
        """Bytes from the first to the last value of a tensor, 0 for an empty one. Raises CheckpointError."""
        storage = inert.storage
        if 0 in inert.shape:
            if math.prod(max(n, 1) for n in inert.shape) >= MAX_INTEGER:
                raise CheckpointError(f"{self.path}: tensor {name!r} has an impossible shape")
            return 0
        if self._spans.get(storage.key, (0, -1))[1] != storage.numel * storage.dtype.itemsize:
            raise CheckpointError(f"{self.path}: the values of tensor {name!r} are missing or cut short")
        count = 1 + sum((n - 1) * s for n, s in zip(inert.shape, inert.stride, strict=True))
        if inert.offset + count > storage.numel or math.prod(inert.shape) > count:
            raise CheckpointError(f"{self.path}: tensor {name!r} reaches past its {storage.numel} stored values")
        return count * storage.dtype.itemsize


def read_document(path: str | Path) -> Document:
    """Open a ``torch.save`` file without running its pickle.

    Raises CheckpointError (missing, empty, truncated), UnknownCheckpoint (another kind of file; the message names it),
    UnsafeCheckpoint.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may have no end
            kind = file_kinds.of_folder(path) if path.is_dir() else None
            if kind is not None:
                raise UnknownCheckpoint(f"{path} is {kind}")
            raise CheckpointError(f"cannot read the weights {path}: not a file")
        with path.open("rb") as file:
            head = file.read(file_kinds.HEAD_BYTES)
            kind = file_kinds.by_content(head)
            if kind is not None:
                raise UnknownCheckpoint(f"{path} is {kind}")
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror or error}") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes)")
    if head.startswith(b"PK"):
        with _damage(path, "archive"):
            content, spans = _read_zip(path)
    elif head.startswith(b"\x80"):
        with _damage(path, "stream"):
            content, spans = _read_legacy(path)
    else:
        kind = file_kinds.by_name(path)
        reason = f"by its name it is {kind}" if kind else f"it begins with {head[:8]!r}"
        raise UnknownCheckpoint(f"{path} is not a PyTorch checkpoint: {reason}")
    return Document(path, content, spans, digest.hexdigest())


@contextmanager
def _damage(path: Path, container: str) -> Iterator[None]:
    """Turns every error of a damaged container into CheckpointError; zipfile alone raises a dozen kinds."""
    try:
        yield
    except (YoloposeError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"{path} is a damaged or truncated {container} ({error}); download it again") from error


def _read_zip(path: Path) -> tuple[Any, Spans]:
    with zipfile.ZipFile(path) as archive:
        root, content = read_content(archive, path)
        prefix = f"{root}data/"
        stored = [i for i in archive.infolist() if i.filename.startswith(prefix) and not i.compress_type]
    with path.open("rb") as raw:
        return content, {i.filename.removeprefix(prefix): (_data_position(raw, i), i.file_size) for i in stored}


def read_content(archive: zipfile.ZipFile, path: str | Path) -> tuple[str, Any]:
    """The folder inside the archive that holds everything, and the inert content; ``path`` is for messages."""
    kind = file_kinds.of_archive(archive)
    if kind is not None:
        raise UnknownCheckpoint(f"{path} is {kind}")
    entries = {info.filename: info for info in archive.infolist()}
    pickles = [name for name in entries if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(pickles) != 1:
        raise UnknownCheckpoint(f"{path} is a zip archive, but not one that torch.save writes")
    root = pickles[0].removesuffix("data.pkl")
    info = entries[pickles[0]]
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: torch.save does not write such a pickle (compressed, or larger than 256 MiB)")
    order = entries.get(f"{root}byteorder")
    if order is not None and order.file_size < 16 and archive.read(order) != b"little":
        raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
    return root, unpickle(io.BytesIO(archive.read(info)), str(path))


def _data_position(raw: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Where the bytes of an uncompressed entry begin: after the local header with its name and extra field."""
    raw.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", raw.read(4).ljust(4, b"\0"))
    return int(info.header_offset + 30 + name_length + extra_length)


def _read_legacy(path: Path) -> tuple[Any, Spans]:
    """Five pickles (magic number, protocol, system facts, content, storage keys), then each storage with its length."""
    where = str(path)
    with path.open("rb") as file:
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        if unpickle(head, where) != LEGACY_MAGIC:
            raise UnknownCheckpoint(f"{path} is a pickle, but not one that torch.save writes")
        if unpickle(head, where) != LEGACY_PROTOCOL:
            raise UnknownCheckpoint(f"{path} was written by a PyTorch version that is too old or too new")
        facts = unpickle(head, where)
        if not isinstance(facts, dict) or facts.get("little_endian") is not True:
            raise CheckpointError(f"{path} was written on a big-endian machine, which is not supported")
        content = unpickle(head, where)
        keys = unpickle(head, where)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise CheckpointError(f"{path}: its list of tensors is damaged")
        itemsizes = {s.key: s.dtype.itemsize for s in _storages(content)}
        return content, _legacy_spans(file, head.tell(), {key: itemsizes.get(key, 1) for key in keys}, path)


def _storages(content: Any) -> Iterator[InertStorage]:
    """Every storage that ``content`` uses, in containers and in stand-ins."""
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


def _legacy_spans(file: IO[bytes], position: int, itemsizes: Mapping[str, int], path: Path) -> Spans:
    """The storages follow each other from ``position``, each after its number of values."""
    size = file.seek(0, io.SEEK_END)
    spans: dict[str, tuple[int, int]] = {}
    for key, itemsize in itemsizes.items():
        file.seek(position)
        header = file.read(8)
        length = struct.unpack("<q", header)[0] * itemsize if len(header) == 8 else -1
        if not 0 <= length <= size - position - 8:
            raise CheckpointError(f"{path} ends before its tensors do; download it again")
        spans[key] = (position + 8, length)
        position += 8 + length
    return spans
