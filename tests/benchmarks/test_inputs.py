from __future__ import annotations

from pathlib import Path

import pytest

from yolopose.benchmarks.inputs import gather_images
from yolopose.benchmarks.settings import BenchSettings
from yolopose.runtime.errors import SourceError

ARTIFACTS = (Path("a.onnx"),)


def test_photographs_without_labels(photographs: Path, tmp_path: Path) -> None:
    images = gather_images(BenchSettings(ARTIFACTS, images=photographs, limit=2), tmp_path)
    assert [path.name for path in images.paths] == ["0.png", "2.png"]
    assert images.dataset is None
    assert images.description == f"photographs of {photographs.parent.name}/{photographs.name}, without labels"


def test_synthetic_scenes_are_drawn_and_said_so(tmp_path: Path) -> None:
    images = gather_images(BenchSettings(ARTIFACTS, limit=2), tmp_path)
    assert len(images.paths) == 2
    assert all(path.is_file() for path in images.paths)
    assert images.description.startswith("synthetic scenes")


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_no_images_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=folder):
        gather_images(BenchSettings(ARTIFACTS, images=tmp_path / folder), tmp_path)
