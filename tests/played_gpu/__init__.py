"""A GPU, CUDA's Python modules, PyCUDA and TensorRT, played in host memory for machines that have none of them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .device import Machine, machine, reset

MODULES = Path(__file__).parent / "modules"
ROOT = Path(__file__).resolve().parents[2]
_PLAYED = ("cuda", "pycuda", "tensorrt", "tensorrt_lean")

__all__ = ["MODULES", "ROOT", "Machine", "machine", "play"]


def play(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Machine:
    """Put the played modules before any real ones, here and in processes that are started meanwhile."""
    for name in [name for name in sys.modules if name.partition(".")[0] in _PLAYED]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(MODULES))
    paths = [str(MODULES), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("YOLOPOSE_CUDA", raising=False)
    return reset(**settings)
