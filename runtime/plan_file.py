"""TensorRT plans as files: ours are pure, as trtexec and Triton read them; those of others may begin with metadata."""

from __future__ import annotations

import json
import struct

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
