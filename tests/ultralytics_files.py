"""Files of Ultralytics (random weights) and the people that it finds with them, so that tests need no Ultralytics.

Made from four photographs by
``benchmarks/studies/ultralytics_results.py FOLDER yolov8n-pose yolo11n-pose yolo26n-pose --width 0.0625 --round``.
"""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

from yolopose.benchmarks.studies.ultralytics_parity import people_of_rows
from yolopose.runtime import PoseResult

GOLDEN = Path(__file__).parent / "ultralytics_golden"


def unpacked(name: str, folder: Path) -> Path:
    """The uncompressed file ``name``, written into ``folder``."""
    path = folder / name
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def frames() -> np.ndarray:
    """(4, 96, 96, 3) uint8 BGR, letterboxed."""
    found: np.ndarray = np.load(GOLDEN / "frames.npz")["frames"]
    return found


def raw_of(name: str) -> np.ndarray:
    """Output of Ultralytics' forward pass of NAME.pt for the first frame."""
    found: np.ndarray = np.load(GOLDEN / f"{name}.npz")["raw"]
    return found


def people_of(file: str) -> list[PoseResult]:
    """The people that Ultralytics finds in each frame with that file."""
    name = file.removesuffix(".pt") if file.endswith(".pt") else f"{file.rpartition('-')[0]}-onnx"
    stored = np.load(GOLDEN / f"{name}.npz")
    return people_of_rows(stored["rows"], stored["counts"])
