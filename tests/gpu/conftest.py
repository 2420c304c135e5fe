"""Tests that need a GPU, run by ``make gpu-proof``. Without one they are skipped, with the reason."""

from __future__ import annotations

import pytest

from yolopose.runtime.backends.cuda import Cuda, open_cuda
from yolopose.runtime.errors import BackendUnavailable


@pytest.fixture(params=["cuda-python", "pycuda"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    try:
        return open_cuda(0, request.param)
    except BackendUnavailable as error:
        pytest.skip(str(error))
