"""The simulated TensorRT as a module; the environment variable YOLOPOSE_SIMULATED_TENSORRT is its version."""

from __future__ import annotations

import os

from tests.simulated_gpu.tensorrt import simulated_tensorrt

globals().update(vars(simulated_tensorrt(os.environ.get("YOLOPOSE_SIMULATED_TENSORRT", "10.16.1.11"))))
