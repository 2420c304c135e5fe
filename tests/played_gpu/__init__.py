"""A GPU, CUDA's Python modules, PyCUDA and TensorRT, played in host memory for machines that have none of them."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import pytest

from .device import Machine, machine, reset

MODULES = Path(__file__).parent / "modules"
ROOT = Path(__file__).resolve().parents[2]
_PLAYED = ("cuda", "pycuda", "tensorrt", "tensorrt_lean")
_MODULES = (
    "cuda", "cuda.bindings", "cuda.bindings.driver", "cuda.bindings.runtime", "pycuda", "pycuda.driver", "tensorrt"
)  # fmt: skip

__all__ = ["MODULES", "ROOT", "Machine", "machine", "play"]


def play(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Machine:
    """Put the played modules before any real ones, here and in processes that are started meanwhile."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _PLAYED]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(MODULES))
    paths = [str(MODULES), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("YOLOPOSE_CUDA", raising=False)
    for name in _MODULES:
        import_module(name)
    for name in _MODULES:
        monkeypatch.setitem(sys.modules, name, sys.modules.pop(name))  # so that they are gone afterwards
    return reset(**settings)
