"""Plays what of cuda.bindings.driver the backend uses: which context is current in a thread."""

from __future__ import annotations

import enum
from typing import Any

from tests.played_gpu.device import machine


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709


def cuCtxGetCurrent() -> tuple[Any, ...]:
    return CUresult(0), machine.context


def cuCtxSetCurrent(context: int) -> tuple[Any, ...]:
    if context and context not in machine.contexts:
        return (CUresult(709),)
    machine.context = context
    return (CUresult(0),)
