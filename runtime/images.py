"""Images from files and arrays, as (H, W, 3) uint8 BGR.

The only module that imports OpenCV (others take `cv2` from here), so that its absence has one clear message. The base
install does not require OpenCV: a Jetson brings its own cv2 from apt, which pip's would shadow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BackendUnavailable, SourceError

try:
    import cv2 as cv2  # other modules import it from here
except ImportError as error:
    raise BackendUnavailable(
        f'OpenCV cannot be imported ({error}): pip install "yolopose[opencv]", on a Jetson apt install python3-opencv'
    ) from error

Image = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"


def read_image(path: str | Path) -> Image:
    """(H, W, 3) uint8 BGR, upright as its EXIF data says. Raises SourceError for an absent, empty or damaged file.

    Truncated JPEG and PNG files are detected. A JPEG with damaged bytes inside a scan is not: OpenCV fills what it
    cannot decode, and libjpeg reports it only by warnings that OpenCV does not pass on.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"cannot read the image {path}: {error.strerror or error}") from error
    if not data:
        raise SourceError(f"the image {path} is empty (0 bytes)")
    if _is_truncated(data):
        raise SourceError(f"the image {path} is truncated ({len(data)} bytes)")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise SourceError(f"cannot decode the image {path}: {error}") from error
    if image is None or image.size == 0:
        raise SourceError(f"the image {path} is damaged or of an unknown format")
    return np.asarray(image, dtype=np.uint8)


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
    """Ascending indices of at most `limit` of `count` items, evenly spaced from the first on; None or 0 means all.

    Index i is floor(i * count / limit), so the last item is left out as soon as any is. Raises ValueError for a
    negative limit.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"limit must not be negative, got {limit}; 0 or None takes all")
    if not limit or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def readable(name: str | Path) -> str:
    """A file name as text that can be printed and written: bytes that are not UTF-8 become U+FFFD."""
    return os.fsencode(name).decode("utf-8", "replace")


def as_bgr_image(array: Any, color: str = "bgr") -> Image:
    """`array` as contiguous (H, W, 3) uint8 BGR; the same array when it is one already.

    Channels: (H, W) and (H, W, 1) are gray, (H, W, 3) and (H, W, 4) in the order of `color`; alpha is dropped.
    Values: uint8 as they are; uint16 with any value above 255 is 16 bits deep (>> 8); other integers if all lie in
    0..255; floats in 0..1 (times 255) or 0..255, distinguished by their maximum, both rounded.
    Raises ValueError for everything else; ambiguous values are not guessed.
    """
    if color not in ("bgr", "rgb"):
        raise ValueError(f"color must be 'bgr' or 'rgb', got {color!r}")
    if not isinstance(array, np.ndarray):
        raise ValueError(f"an image is a numpy array (H, W, 3), got {type(array).__name__}; read_image() reads files")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"an image is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape} {array.dtype}; "
            "pass several images as a list, and move channels last"
        )
    if array.size == 0:
        raise ValueError(f"the image is empty: {array.shape} {array.dtype}")
    pixels = np.ascontiguousarray(array if array.dtype == np.uint8 else _as_uint8(array))
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR))
    if channels == 3 and color == "bgr":
        return pixels
    code = {(3, "rgb"): cv2.COLOR_RGB2BGR, (4, "bgr"): cv2.COLOR_BGRA2BGR, (4, "rgb"): cv2.COLOR_RGBA2BGR}
    return np.asarray(cv2.cvtColor(pixels, code[channels, color]))


def _as_uint8(array: npt.NDArray[Any]) -> Image:
    """Values converted as as_bgr_image() says."""
    what = f"{array.shape} {array.dtype}"
    if array.dtype.kind not in "uif":
        raise ValueError(f"the values of an image of type {what} are undefined; convert it to uint8 0..255")
    low, high = float(array.min()), float(array.max())  # NaN anywhere makes both NaN
    if not (low >= 0 and np.isfinite(high)):
        raise ValueError(
            f"image {what} has values below 0 or NaN (min {low:g}, max {high:g}); convert it to uint8 0..255"
        )
    if array.dtype.kind == "f":
        # a maximum between 1 and 2 is ambiguous: a 0..1 image that overshoots, or an almost black 0..255 one
        if high <= 1 or 2 <= high <= 255:
            rounded: Image = np.rint(array.astype(np.float32) * 255 if high <= 1 else array).astype(np.uint8)
            return rounded
    elif array.dtype == np.uint16:
        if high > 255:
            return (array >> 8).astype(np.uint8)
        if high == 0:
            return array.astype(np.uint8)
    elif high <= 255:
        return array.astype(np.uint8)
    raise ValueError(
        f"image {what} with values {low:g}..{high:g} is not clearly 0..1, 0..255 or 16-bit; convert it to uint8 0..255"
    )


def _is_truncated(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which some versions of OpenCV fill with gray and do not report."""
    if data.startswith(_JPEG_START):
        # no end marker after the start of the last scan; inside a scan FF is followed by 00 or a restart marker
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN)
    return data.startswith(_PNG_START) and _PNG_END not in data[-64:]
