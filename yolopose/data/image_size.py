"""Sizes of pictures, from the file's head where that is certain: decoding a large data set for them takes minutes."""

from __future__ import annotations

from pathlib import Path

from yolopose.runtime.errors import SourceError
from yolopose.runtime.images import read_image

_HEAD = 1 << 16  # bytes that are looked at
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive JPEG: what libjpeg decodes everywhere
_NO_LENGTH = {0x01, *range(0xD0, 0xD8), 0xFF}  # and fill bytes


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) that `read_image` will give, None for a picture that it cannot read.

    Only a JPEG without EXIF data is judged by its head, and one that is damaged further on is not noticed. Everything
    else is decoded: EXIF may turn the picture.
    """
    try:
        with path.open("rb") as file:
            size = _jpeg_size(file.read(_HEAD))
        if size is None:
            height, width = read_image(path).shape[:2]
            size = width, height
    except (OSError, SourceError):
        return None
    return size


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Size in the frame header of a JPEG (ITU T.81, B.2.2); None for EXIF data or anything that is not plain."""
    if not head.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            height, width = (int.from_bytes(head[at + i : at + i + 2], "big") for i in (5, 7))
            return (width, height) if width and height else None
        if marker in _NO_LENGTH or head[at + 4 : at + 8] == b"Exif":
            return None
        at += 2 + length
    return None
