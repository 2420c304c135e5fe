"""Plays TensorRT; YOLOPOSE_PLAYED_TENSORRT is its version."""

from __future__ import annotations

import os

from tests.export.fake_tensorrt import fake_tensorrt

globals().update(vars(fake_tensorrt(os.environ.get("YOLOPOSE_PLAYED_TENSORRT", "10.16.1.11"))))
