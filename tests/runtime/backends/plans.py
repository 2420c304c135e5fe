"""What the tests of the backends share: batches of images with bright dots, and plans built for the simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.runtime.conftest import dots
from tests.simulated_gpu.tensorrt import simulated_tensorrt
from yolopose.export.tensorrt import build_engine
from yolopose.export.tensorrt_options import EngineConfig, usual_profile
from yolopose.runtime.backends.base import RawPeople
from yolopose.runtime.backends.cuda import find_gpu
from yolopose.runtime.backends.tensorrt import TensorRtBackend
from yolopose.runtime.contract import read_contract

HW = (64, 96)


def built(artifact: Path, path: Path, version: str = "10.16.1.11", **more: Any) -> Path:
    profiles = more.pop("profiles", None) or (usual_profile(read_contract(artifact).input, 4),)
    trt = simulated_tensorrt(version)
    build_engine(artifact, path, EngineConfig(profiles, **more), trt, find_gpu(), lambda text: None)
    return path


def opened(path: Path, **more: Any) -> TensorRtBackend:
    return TensorRtBackend(path, read_contract(path), more.pop("shape_hw", HW), **more)


def batch_of(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([dots(HW, (int(rng.integers(3)), *rng.uniform(10, 50, 2))) for _ in range(rows)])


def thresholds(rows: int, score: float = 0.25, iou: float = 0.65) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, 1), score, np.float32), np.full((rows, 1), iou, np.float32)


def arrays(raw: RawPeople) -> list[np.ndarray]:
    """The outputs that the artifact has."""
    return [array for array in raw if array is not None]


def assert_equal(found: RawPeople, expected: RawPeople) -> None:
    for name, one, other in zip(RawPeople._fields, found, expected, strict=True):
        if other is None:
            assert one is None, name
            continue
        np.testing.assert_array_equal(one, other, err_msg=name)
        assert one.dtype == other.dtype
