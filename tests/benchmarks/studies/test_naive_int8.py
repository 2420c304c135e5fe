"""Naive int8 files run, and their contract says that nothing about them was verified."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2

from yolopose.benchmarks.studies.naive_int8 import main
from yolopose.runtime import PoseEstimator, read_contract


def test_naive_and_ceiling_files_run(trained_artifact: Path, photographs: Path, tmp_path: Path) -> None:
    artifact = shutil.copy(trained_artifact, tmp_path / "net.onnx")
    assert main([str(artifact), "--images", str(photographs)]) == 0
    for kind in ("naive", "ceiling"):
        made = tmp_path / f"net-int8-{kind}.onnx"
        contract = read_contract(made)
        assert contract.parity is not None
        assert contract.parity.verdict == "unverified"
        assert contract.precision.weights == "int8"
        with PoseEstimator(made) as estimate:
            estimate(cv2.imread(str(photographs / "1.png")))
