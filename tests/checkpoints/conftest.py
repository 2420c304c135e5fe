"""Fixtures of the checkpoint tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from .limited_process import LimitedProcess


@pytest.fixture(scope="package")
def limited_process() -> Iterator[LimitedProcess]:
    if sys.platform != "linux":
        pytest.skip("limits the memory of a process as Linux does")
    made = LimitedProcess()
    yield made
    made.close()
