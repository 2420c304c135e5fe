"""Reads the metadata and the graph bytes of an ONNX file by walking its protobuf fields; needs no onnx package.

ModelProto (onnx/onnx.proto): 1 ir_version varint, 7 graph, 8 opset_import {1 domain, 2 version}, 14 metadata_props
{1 key, 2 value}, 25 functions. The hash covers the graph only. Anything else in the file that could change what the
graph computes is either refused here (functions) or returned for the caller to check (operator sets).

Also recognizes TensorRT plans that start with metadata. yolopose writes pure plans, as trtexec and Triton expect.
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

MAX_HEADER_BYTES = 1 << 20  # of the metadata in front of a plan, far above real ones

_IR_VERSION, _GRAPH, _OPSET, _METADATA, _FUNCTIONS = 1, 7, 8, 14, 25
_MAX_FIELD = 26  # ModelProto's highest field today is 25; a number above 26 means another kind of file
_MAX_FIELDS = 100_000  # in a file: real ones have a few dozen, and walking millions takes seconds
_MAX_ENTRY_FIELDS = 8  # in a metadata entry or an operator set, which have two
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Buffer = bytes | mmap.mmap


@dataclass(frozen=True)
class OnnxParts:
    """metadata: all metadata_props; graph_sha256: hex digest of the serialized GraphProto, not of the file.

    opsets: (domain, version) of each operator set that the graph uses; the standard domain is ""
    """

    metadata: dict[str, str]
    graph_sha256: str
    opsets: tuple[tuple[str, int], ...]


class _Truncated(Exception):
    """A field extends past the end of the buffer."""


def read_onnx(path: str | Path) -> OnnxParts:
    """Parts of the ONNX file at `path`. Raises ArtifactError when it is absent, empty, truncated or not ONNX."""
    try:
        if Path(path).exists() and not Path(path).is_file():  # opening a pipe would block until somebody writes
            raise ArtifactError(f"cannot read the artifact {path}: it is a folder, a pipe or a device, not a file")
        with open(path, "rb") as file:
            if file.seek(0, 2) == 0:
                raise ArtifactError(f"{path} is empty; export it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                return parts_of(buffer, str(path))
    except OSError as error:
        raise ArtifactError(f"cannot read the artifact {path}: {error.strerror or error}") from error


def parts_of(buffer: Buffer, name: str = "the model") -> OnnxParts:
    """Parts of a serialized ModelProto; messages call it `name`. Raises ArtifactError when it is damaged."""
    metadata: dict[str, str] = {}
    opsets: list[tuple[str, int]] = []
    graph: tuple[int, int] | None = None
    has_version = False
    try:
        for field, wire, start, end in _fields(buffer, 0, len(buffer), _MAX_FIELDS):
            if not 1 <= field <= _MAX_FIELD:
                raise ValueError(f"unknown field {field}")
            if field == _IR_VERSION and wire == _VARINT:
                has_version = True
            elif field == _GRAPH and wire == _BYTES:
                if graph is not None:
                    raise ValueError("two graphs")
                graph = (start, end)
            elif field == _OPSET and wire == _BYTES:
                opsets.append(_opset(buffer, start, end))
            elif field == _FUNCTIONS:
                raise ArtifactError(f"{name} contains functions, which no artifact has; export it again")
            elif field == _METADATA and wire == _BYTES:
                key, value = _entry(buffer, start, end)
                if key in metadata:
                    raise ValueError(f"metadata key {key!r} occurs twice")
                metadata[key] = value
    except _Truncated as error:
        if has_version:
            raise ArtifactError(f"{name} is truncated ({len(buffer)} bytes); copy or export it again") from error
        raise ArtifactError(f"{name} is not an ONNX file") from error
    except ValueError as error:
        raise ArtifactError(f"{name} is not an ONNX file: {error}") from error
    if not has_version or graph is None:
        missing = "graph" if has_version else "version"
        raise ArtifactError(f"{name} is not a complete ONNX file: it has no {missing}; copy or export it again")
    return OnnxParts(metadata, _sha256(buffer, *graph), tuple(opsets))


def plan_metadata(content: bytes) -> str | None:
    """Describes the metadata in front of a plan as Ultralytics writes it (a length in four bytes, then JSON), or None.

    The description completes a message that starts with the file name.
    """
    (length,) = struct.unpack("<I", content[:4].ljust(4, b"\xff"))
    if length > MAX_HEADER_BYTES or content[4:5] != b"{":
        return None
    try:
        header = json.loads(content[4 : 4 + length])
    except ValueError:
        return None
    description = str(header.get("description") or header.get("task") or "no description")[:80]
    return (
        f"begins with metadata, as Ultralytics writes it ({description}): it is no pure plan, and its outputs are not "
        "those of a yolopose artifact; export the weights with yolopose-export"
    )


def _entry(buffer: Buffer, start: int, end: int) -> tuple[str, str]:
    """(key, value) of a metadata entry."""
    strings = {1: "", 2: ""}
    for field, wire, first, last in _fields(buffer, start, end, _MAX_ENTRY_FIELDS):
        if field in strings and wire == _BYTES:
            strings[field] = buffer[first:last].decode("utf-8")  # a UnicodeDecodeError is a ValueError
    return strings[1], strings[2]


def _opset(buffer: Buffer, start: int, end: int) -> tuple[str, int]:
    """(domain, version) of an operator set."""
    domain, version = "", 0
    for field, wire, first, last in _fields(buffer, start, end, _MAX_ENTRY_FIELDS):
        if field == 1 and wire == _BYTES:
            domain = buffer[first:last].decode("utf-8")
        elif field == 2 and wire == _VARINT:
            version = _varint(buffer, first, last)[0]
    return domain, version


def _fields(buffer: Buffer, start: int, end: int, limit: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start and end of the value) of each field in buffer[start:end]."""
    position = start
    for count in itertools.count(1):
        if position >= end:
            return
        if count > limit:
            raise ValueError(f"more than {limit} fields in one message")
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
            raise _Truncated
        yield field, wire, first, position


def _varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """(value, position after it)."""
    value = 0
    for shift in range(0, 70, 7):  # ten bytes hold 64 bits
        if position >= end:
            raise _Truncated
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
