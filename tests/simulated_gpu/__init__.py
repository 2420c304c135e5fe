"""A simulated GPU with CUDA's Python bindings, PyCUDA and TensorRT, for machines that have none of them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

from .device import SimulatedGpu, gpu, reset

MODULES = Path(__file__).parent / "modules"
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("cuda", "pycuda", "tensorrt", "tensorrt_lean")
_MODULES = (
    "cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.bindings.runtime", "pycuda", "pycuda.driver", "tensorrt"
)  # fmt: skip

__all__ = ["MODULES", "ROOT", "SimulatedGpu", "gpu", "simulate_gpu"]


def simulate_gpu(monkeypatch: pytest.MonkeyPatch, **settings: object) -> SimulatedGpu:
    """Put the simulated modules before any real ones, here and in processes started during the test."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(MODULES))
    paths = [str(MODULES), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("YOLOPOSE_CUDA", raising=False)
    for name in _MODULES:
        import_module(name)
    for name in _MODULES:
        monkeypatch.setitem(sys.modules, name, sys.modules.pop(name))  # so that monkeypatch removes them afterwards
    return reset(**settings)
