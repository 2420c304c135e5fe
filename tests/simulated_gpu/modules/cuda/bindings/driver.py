"""The part of cuda.bindings.driver that the backend uses: which context is current in a thread."""

from __future__ import annotations

import enum
from typing import Any

from tests.simulated_gpu.device import gpu


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709


def cuCtxGetCurrent() -> tuple[Any, ...]:
    return CUresult(0), gpu.context


def cuCtxSetCurrent(context: int) -> tuple[Any, ...]:
    if context and context not in gpu.contexts:
        return (CUresult(709),)
    gpu.context = context
    return (CUresult(0),)
