"""Ultralytics' own files and what it finds with them, made by ``benchmarks/ultralytics_results.py FOLDER yolov8n-pose
yolo11n-pose yolo26n-pose --width 0.0625 --round`` from four photographs, random weights; CI needs no Ultralytics."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

from yolopose.benchmarks.studies.ultralytics_parity import people_of_rows
from yolopose.runtime import PoseResult

GOLDEN = Path(__file__).parent / "ultralytics_golden"


def unpacked(name: str, folder: Path) -> Path:
    """The file of that name, in ``folder``."""
    path = folder / name
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def frames() -> np.ndarray:
    """(4, 96, 96, 3) uint8 BGR, letterboxed."""
    found: np.ndarray = np.load(GOLDEN / "frames.npz")["frames"]
    return found


def raw_of(name: str) -> np.ndarray:
    """Ultralytics' forward pass of NAME.pt for the first frame."""
    found: np.ndarray = np.load(GOLDEN / f"{name}.npz")["raw"]
    return found


def people_of(file: str) -> list[PoseResult]:
    """What Ultralytics finds in each frame with that file."""
    name = file.removesuffix(".pt") if file.endswith(".pt") else f"{file.rpartition('-')[0]}-onnx"
    stored = np.load(GOLDEN / f"{name}.npz")
    return people_of_rows(stored["rows"], stored["counts"])
