"""Pictures from files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .errors import SourceError
from .letterbox import Image
from .opencv import cv2

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


def read_image(path: str | Path) -> Image:
    """(H, W, 3) uint8 BGR, upright as its EXIF data says. Raises SourceError for an absent, empty or damaged file.

    A truncated JPEG or PNG is noticed. A JPEG whose bytes are damaged in mid-scan is not: OpenCV fills what it cannot
    decode, and libjpeg's warnings, the only trace of it, do not reach us.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the image {path}: {error.strerror or error}") from error
    if not data:
        raise SourceError(f"the image {path} is empty (0 bytes)")
    if _is_cut(data):
        raise SourceError(f"the image {path} is truncated ({len(data)} bytes are there)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"cannot decode the image {path}: {error}") from error
    if image is None or image.size == 0:
        raise SourceError(f"the image {path} is damaged or of an unknown format")
    return np.asarray(image, dtype=np.uint8)


def readable(name: str | Path) -> str:
    """A file name as text that can be printed and written; bytes of it that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def _is_cut(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which some versions of OpenCV fill with gray and do not report."""
    if data.startswith(_JPEG_START):
        # no end marker after the last scan began; inside a scan FF is always followed by 00 or a restart marker
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    return data.startswith(_PNG_START) and _PNG_END not in data[-64:]


def list_images(folder: str | Path) -> list[Path]:
    """Image files of `folder` (not of folders in it), sorted by name. Raises SourceError when there are none."""
    try:
        found = sorted(
            path
            for path in Path(folder).iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
    except OSError as error:
        raise SourceError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    if not found:
        raise SourceError(f"no images in {folder}; looked for {', '.join(IMAGE_SUFFIXES)}")
    return found


def evenly(count: int, limit: int | None) -> list[int]:
    """Rising indices of at most `limit` of `count` items, evenly spread from the first on; the same ones each time.

    Index i of them is floor(i * count / limit): each stands at the start of its share, so that the last item is left
    out as soon as any is. None or 0: all. Raises ValueError for a negative limit.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}; 0 or None takes all")
    if not limit or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]
