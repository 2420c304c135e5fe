"""Weights that several tests of the export start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import yolopose


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network in yolopose's own format."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    yolopose.save(yolopose.build(replace(yolopose.SIZES["yolox-pose-nano"], width=0.125)).eval(), path)
    return path
