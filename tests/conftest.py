"""Fixtures shared by all tests: where the real data is, and artifacts that are expensive to make once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real images and reference checkpoints; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("YOLOPOSE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "checkpoints").is_dir():
        message = f"no data folder at {folder}; set YOLOPOSE_DATA to the folder with checkpoints/, coco-mini/, lspet/"
        if os.environ.get("YOLOPOSE_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def checkpoints(data_dir: Path) -> Path:
    return data_dir / "checkpoints"


@pytest.fixture(scope="session")
def photographs(data_dir: Path) -> list[Path]:
    """Real photographs: of ``lspet`` val, where the trained checkpoint finds people, then of ``coco-mini``."""
    lspet = json.loads((data_dir / "lspet" / "val.json").read_text(encoding="utf-8"))["images"]
    coco = sorted((data_dir / "coco-mini" / "images").iterdir())
    return [data_dir / "lspet" / "images" / image["file_name"] for image in lspet[:16]] + coco[:8]


@pytest.fixture(scope="session")
def trained_checkpoint(checkpoints: Path) -> Path:
    """YOLOX-Pose-nano, 14 keypoints, trained a little: it finds people in photographs of 256 x 256."""
    return checkpoints / "mmpose_yoloxpose_nano_lspet.pth"


@pytest.fixture(scope="session")
def trained_artifact(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint as a verified float32 artifact, made by the command itself."""
    return _export(trained_checkpoint, tmp_path_factory.mktemp("float32"), "--imgsz", "256")


@pytest.fixture(scope="session")
def trained_artifact_fp16(trained_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(trained_checkpoint, tmp_path_factory.mktemp("float16"), "--imgsz", "256", "256", "--fp16")


def _export(weights: Path, folder: Path, *flags: str) -> Path:
    from yolopose.export.command import main

    images = weights.parent.parent / "coco-mini" / "images"
    words = ["--weights", weights, "--output", folder, "--images", images, "--limit", "8", *flags]
    assert main([str(word) for word in words]) == 0
    (artifact,) = folder.glob("*.onnx")
    return artifact
