"""Reads metadata and graph bytes of an ONNX file by a small protobuf walk; needs neither onnx nor an engine.

ModelProto (onnx/onnx.proto): 1 ir_version varint, 7 graph, 8 opset_import {1 domain, 2 version}, 14 metadata_props
{1 key, 2 value}, 25 functions. The hash covers the graph, and nothing beside it: what else could change what the graph
computes is refused here (functions) or given to the caller to judge (operator sets).

TensorRT plans as files: ours are pure, as trtexec and Triton read them; those of others may begin with metadata.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import ArtifactError

IR_VERSION, GRAPH, OPSET, METADATA, FUNCTIONS = 1, 7, 8, 14, 25
_HIGHEST_FIELD = 26  # of ModelProto today (25) and one to spare: anything above says that this is another kind of file
_MOST_FIELDS = 100_000  # of a file; real ones have a few dozen, and walking millions takes seconds
_MOST_ENTRY_FIELDS = 8  # of a metadata entry or an operator set, which have two
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Buffer = bytes | mmap.mmap


class Truncated(Exception):
    """A field reaches past the end of the buffer."""


@dataclass(frozen=True)
class OnnxParts:
    """metadata: all metadata_props; graph_sha256: hex digest over the serialised GraphProto, not over the file.

    opsets: (domain, version) of each operator set that the graph uses; the domain of the standard one is ""
    """

    metadata: dict[str, str]
    graph_sha256: str
    opsets: tuple[tuple[str, int], ...]


def read_onnx(path: str | Path) -> OnnxParts:
    """Parts of the ONNX file at `path`. Raises ArtifactError when it is absent, empty, truncated or not ONNX."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # opening a pipe would wait for its writer
            raise ArtifactError(f"cannot read the artifact {path}: it is a folder, a pipe or a device, not a file")
        with open(path, "rb") as file:
            if file.seek(0, 2) == 0:
                raise ArtifactError(f"{path} is empty; export it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                return parts_of(buffer, str(path))
    except OSError as error:
        raise ArtifactError(f"cannot read the artifact {path}: {error.strerror or error}") from error


def parts_of(buffer: Buffer, name: str = "the model") -> OnnxParts:
    """Parts of a serialised ModelProto; `name` stands in messages. Raises ArtifactError when it is not one whole."""
    metadata: dict[str, str] = {}
    opsets: list[tuple[str, int]] = []
    graph: tuple[int, int] | None = None
    ir_version = False
    try:
        for field, wire, start, end in _fields(buffer, 0, len(buffer), _MOST_FIELDS):
            if not 1 <= field <= _HIGHEST_FIELD:
                raise ValueError(f"unknown field {field}")
            if field == IR_VERSION and wire == _VARINT:
                ir_version = True
            elif field == GRAPH and wire == _BYTES:
                if graph is not None:
                    raise ValueError("two graphs")
                graph = (start, end)
            elif field == OPSET and wire == _BYTES:
                opsets.append(_opset(buffer, start, end))
            elif field == FUNCTIONS:
                raise ArtifactError(f"{name} has functions beside its graph, which no artifact has; export it again")
            elif field == METADATA and wire == _BYTES:
                key, value = _entry(buffer, start, end)
                if key in metadata:
                    raise ValueError(f"metadata key {key!r} stands in it twice")
                metadata[key] = value
    except Truncated as error:
        if ir_version:
            raise ArtifactError(
                f"{name} is truncated ({len(buffer)} bytes are there); copy or export it again"
            ) from error
        raise ArtifactError(f"{name} is not an ONNX file") from error
    except ValueError as error:
        raise ArtifactError(f"{name} is not an ONNX file: {error}") from error
    if not ir_version or graph is None:
        missing = "graph" if ir_version else "version"
        raise ArtifactError(f"{name} is not a whole ONNX file: it has no {missing}; copy or export it again")
    return OnnxParts(metadata, _sha256(buffer, *graph), tuple(opsets))


def _entry(buffer: Buffer, start: int, end: int) -> tuple[str, str]:
    texts = {1: "", 2: ""}
    for field, wire, first, last in _fields(buffer, start, end, _MOST_ENTRY_FIELDS):
        if field in texts and wire == _BYTES:
            texts[field] = buffer[first:last].decode("utf-8")  # a UnicodeDecodeError is a ValueError
    return texts[1], texts[2]


def _opset(buffer: Buffer, start: int, end: int) -> tuple[str, int]:
    domain, version = "", 0
    for field, wire, first, last in _fields(buffer, start, end, _MOST_ENTRY_FIELDS):
        if field == 1 and wire == _BYTES:
            domain = buffer[first:last].decode("utf-8")
        elif field == 2 and wire == _VARINT:
            version = _varint(buffer, first, last)[0]
    return domain, version


def _fields(buffer: Buffer, start: int, end: int, most: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end of the value) of each field in buffer[start:end]."""
    position = start
    for count in itertools.count(1):
        if position >= end:
            return
        if count > most:
            raise ValueError(f"more than {most} fields in one message")
        tag, position = _varint(buffer, position, end)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            first, position = position, _varint(buffer, position, end)[1]
        elif wire == _BYTES:
            length, first = _varint(buffer, position, end)
            position = first + length
        elif wire in (_FIXED64, _FIXED32):
            first, position = position, position + (8 if wire == _FIXED64 else 4)
        else:
            raise ValueError(f"field {field} has the unknown wire type {wire}")
        if position > end:
            raise Truncated
        yield field, wire, first, position


def _varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):  # ten bytes hold 64 bits
        if position >= end:
            raise Truncated
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has more than ten bytes")


def _sha256(buffer: Buffer, start: int, end: int) -> str:
    digest = hashlib.sha256()
    with memoryview(buffer) as view, view[start:end] as part:
        digest.update(part)
    return digest.hexdigest()


LONGEST_HEADER = 1 << 20  # bytes, far above what is written


def foreign_header(content: bytes) -> str | None:
    """What to say of a plan with metadata in front, as Ultralytics writes it: four bytes of length, then JSON."""
    (length,) = struct.unpack("<I", content[:4].ljust(4, b"\xff"))
    if length > LONGEST_HEADER or content[4:5] != b"{":
        return None
    try:
        told = json.loads(content[4 : 4 + length])
    except ValueError:
        return None
    what = str(told.get("description") or told.get("task") or "no description")[:80]
    return (
        f"begins with metadata, as Ultralytics writes it ({what}): it is no pure plan, and its outputs are not those "
        "of a yolopose artifact; export the weights with yolopose-export"
    )
