"""Any image into the network's frame, and coordinates back out: one letterbox for training, parity and application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .contract_parts import PAD_SIDES
from .opencv import cv2

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Placement:
    """Where an image lies in its letterbox: x' = x * scale_x + left, y' = y * scale_y + top.

    The two factors are those by which the pixels were really resized: they differ by the rounding of the size.
    Coordinates are continuous: pixel i covers i..i+1. Arrays in and out are float32.
    """

    scale_x: float
    scale_y: float
    left: int
    top: int

    def to_image(self, xy: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(..., 2) letterboxed pixels -> pixels of the original image."""
        return self._inverse(xy, (self.left, self.top))

    def boxes_to_image(self, xyxy: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(..., 4) letterboxed pixels -> pixels of the original image."""
        return self._inverse(xyxy, (self.left, self.top, self.left, self.top))

    def to_letterboxed(self, xy: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """(..., 2) pixels of the original image -> letterboxed pixels."""
        points = np.asarray(xy, dtype=np.float32)
        return points * self._scales() + np.array((self.left, self.top), dtype=np.float32)

    def _inverse(self, coordinates: npt.ArrayLike, offset: tuple[int, ...]) -> npt.NDArray[np.float32]:
        points = np.asarray(coordinates, dtype=np.float32) - np.array(offset, dtype=np.float32)
        points /= np.tile(self._scales(), len(offset) // 2)
        return points

    def _scales(self) -> npt.NDArray[np.float32]:
        return np.array((self.scale_x, self.scale_y), dtype=np.float32)


def place(image_hw: tuple[int, int], shape_hw: tuple[int, int], pad_side: str) -> tuple[Placement, tuple[int, int]]:
    """Placement of an image of `image_hw` in a frame of `shape_hw`, and the (height, width) it is resized to.

    One factor is wanted for x and y, enlarging allowed; the size is rounded and at least one pixel.
    """
    if pad_side not in PAD_SIDES:
        raise ValueError(f"pad_side must be one of {', '.join(PAD_SIDES)}, got {pad_side!r}")
    height, width = shape_hw
    scale = min(height / image_hw[0], width / image_hw[1])
    new_height = min(height, max(1, round(image_hw[0] * scale)))
    new_width = min(width, max(1, round(image_hw[1] * scale)))
    centered = pad_side == "center"
    left = (width - new_width) // 2 if centered else 0
    top = (height - new_height) // 2 if centered else 0
    placement = Placement(new_width / image_hw[1], new_height / image_hw[0], left, top)
    return placement, (new_height, new_width)


def letterbox(
    image: Image,
    shape_hw: tuple[int, int],
    *,
    pad_value: int = 114,
    pad_side: str = "center",
    out: Image | None = None,
) -> tuple[Image, Placement]:
    """Fit `image` (H, W, 3) uint8 into (h, w, 3) uint8, padding with `pad_value`; `out` (h, w, 3) is filled if given.

    Interpolation is INTER_LINEAR_EXACT: integer arithmetic, hence the same bytes on every CPU.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"letterbox takes (H, W, 3) uint8, got {image.shape} {image.dtype}; as_bgr_image() converts")
    height, width = shape_hw
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    elif out.shape != (height, width, 3) or out.dtype != np.uint8:
        raise ValueError(f"out must be ({height}, {width}, 3) uint8, got {out.shape} {out.dtype}")
    placement, (new_height, new_width) = place(image.shape[:2], shape_hw, pad_side)
    left, top = placement.left, placement.top
    bottom, right = top + new_height, left + new_width
    if (new_height, new_width) == image.shape[:2]:
        out[top:bottom, left:right] = image
    else:
        out[top:bottom, left:right] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR_EXACT)
    out[:top] = pad_value
    out[bottom:] = pad_value
    out[top:bottom, :left] = pad_value
    out[top:bottom, right:] = pad_value
    return out, placement


def as_bgr_image(array: Any, color: str = "bgr") -> Image:
    """`array` as contiguous (H, W, 3) uint8 BGR; the very array when it is one already.

    Channels: (H, W) and (H, W, 1) are gray, (H, W, 3) and (H, W, 4) in the order of `color`; alpha is dropped.
    Values: uint8 as they are; uint16 with any value above 255 is 16 bits deep (>> 8); other integers when all lie in
    0..255; floats 0..1 (times 255) or 0..255, told apart by their maximum, both rounded.
    Raises ValueError for everything else: what is not clear is not guessed.
    """
    if color not in ("bgr", "rgb"):
        raise ValueError(f"color must be 'bgr' or 'rgb', got {color!r}")
    if not isinstance(array, np.ndarray):
        raise ValueError(f"an image is a numpy array (H, W, 3), got {type(array).__name__}; read_image() reads files")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"an image is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape} {array.dtype}; "
            "pass several images as a list and move channels last"
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
    what = f"{array.shape} {array.dtype}"
    if array.dtype.kind not in "uif":
        raise ValueError(f"cannot tell what the values of an image of type {what} mean; convert it to uint8 0..255")
    low, high = float(array.min()), float(array.max())  # NaN anywhere makes both NaN
    if not (low >= 0 and np.isfinite(high)):
        raise ValueError(
            f"image {what} has values below 0 or NaN (min {low:g}, max {high:g}); convert it to uint8 0..255"
        )
    if array.dtype.kind == "f":
        if high <= 1:
            return np.rint(array.astype(np.float32) * 255).astype(np.uint8)
        if 2 <= high <= 255:  # between 1 and 2: a 0..1 image that overshoots, or an almost black 0..255 one
            return np.rint(array).astype(np.uint8)
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
