"""Writes letterbox.npz: images of a fixed pattern and their letterboxed bytes. Run once; the file is the standard.

python tests/runtime/golden/make_letterbox.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yolopose.runtime.letterbox import letterbox

# image (height, width), frame (height, width), pad value, pad side
CASES = [
    ((48, 64), (64, 64), 114, "center"),
    ((33, 47), (64, 64), 114, "bottom-right"),
    ((97, 31), (64, 32), 0, "center"),
    ((1, 1), (32, 32), 114, "center"),
    ((3, 101), (32, 64), 114, "center"),
    ((75, 106), (32, 64), 114, "center"),
]


def pattern(height: int, width: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8: waves, edges and noise-like detail from integer arithmetic alone."""
    y, x, c = np.mgrid[:height, :width, :3].astype(np.int64)
    return ((x * x * (3 + c) + y * y * (5 - c) + x * y * 7 + (x // 5 + y // 3) % 2 * 90 + seed * 31) % 256).astype(
        np.uint8
    )


if __name__ == "__main__":
    arrays = {}
    for index, (image_hw, frame_hw, pad_value, pad_side) in enumerate(CASES):
        image = pattern(*image_hw, index)
        out, placement = letterbox(image, frame_hw, pad_value=pad_value, pad_side=pad_side)
        arrays |= {
            f"{index}_image": image,
            f"{index}_letterboxed": out,
            f"{index}_pad_value": np.array(pad_value),
            f"{index}_pad_side": np.array(pad_side),
            f"{index}_placement": np.array([placement.scale_x, placement.scale_y, placement.left, placement.top]),
        }
    np.savez_compressed(Path(__file__).with_name("letterbox.npz"), **arrays)
