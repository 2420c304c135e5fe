"""The letterbox: images into the network's frame and coordinates back. Training, parity and applications share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .contract import PAD_SIDES
from .images import Image, cv2


@dataclass(frozen=True)
class Placement:
    """Position of an image in its letterbox: x' = x * scale_x + left, y' = y * scale_y + top.

    scale_x and scale_y are the factors of the actual resize; they differ by the rounding of the size. Coordinates are
    continuous: pixel i covers i..i+1. Arrays are converted to float32.
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

    def lengths_to_image(self, lengths: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Lengths of any shape in letterboxed pixels -> pixels of the original image, of any direction."""
        return np.asarray(lengths, dtype=np.float32) / np.float32(math.sqrt(self.scale_x * self.scale_y))

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

    The same factor is used for x and y and may enlarge; the resulting size is rounded, and at least one pixel.
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
