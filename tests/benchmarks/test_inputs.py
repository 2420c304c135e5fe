from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from yolopose.benchmarks.inputs import gather_images
from yolopose.benchmarks.settings import BenchSettings
from yolopose.runtime.errors import DataError, SourceError
from yolopose.runtime.skeleton import COCO_17, LSP_14

FILES = (Path("a.onnx"),)


def test_photographs_without_labels(photographs: Path, tmp_path: Path) -> None:
    images = gather_images(BenchSettings(FILES, images=photographs, limit=2), tmp_path)
    assert [path.name for path in images.paths] == ["0.png", "2.png"]
    assert images.dataset is None
    assert images.description == f"{folder_of(photographs)}, without labels"


def test_synthetic_scenes_are_drawn_and_said_so(tmp_path: Path) -> None:
    images = gather_images(BenchSettings(FILES, limit=2), tmp_path)
    assert len(images.paths) == 2
    assert all(path.is_file() for path in images.paths)
    assert images.description.startswith("synthetic scenes")


def test_labels_bring_their_images(photographs: Path, labels: Path, tmp_path: Path) -> None:
    images = gather_images(BenchSettings(FILES, images=photographs, data=labels, limit=3), tmp_path, COCO_17)
    assert [path.name for path in images.paths] == ["0.png", "1.png", "3.png"]
    assert images.image_ids == (1, 2, 4)
    assert images.description == f"{folder_of(photographs)}, labelled by person_keypoints.json"
    with pytest.raises(DataError, match="skeleton 'lsp-14' has 14"):
        gather_images(BenchSettings(FILES, images=photographs, data=labels), tmp_path, LSP_14)


def test_a_yolo_folder_serves_as_well(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    shutil.copytree(photographs, tmp_path / "images" / "test")
    (tmp_path / "labels" / "test").mkdir(parents=True)
    row = " ".join(["0 0.5 0.5 0.4 0.4", *["0.5 0.5 2"] * 17])
    (tmp_path / "labels" / "test" / "1.txt").write_text(row + "\n", encoding="utf-8")
    data = tmp_path / "people.yaml"
    data.write_text("test: images/test\nkpt_shape: [17, 3]\nnames: [person]\n", encoding="utf-8")
    images = gather_images(BenchSettings(FILES, data=data, split="test"), tmp_path / "scratch")
    assert [path.name for path in images.paths] == [f"{i}.png" for i in range(5)]
    assert images.dataset is not None
    assert images.dataset.ids_with_people == (2,)
    assert images.description == "photographs of images/test, labelled by people.yaml (test)"


def test_labels_without_images_are_refused(labels: Path, tmp_path: Path) -> None:
    document = json.loads(labels.read_text(encoding="utf-8")) | {"images": [], "annotations": []}
    (tmp_path / "none.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=r"none\.json: no images"):
        gather_images(BenchSettings(FILES, data=tmp_path / "none.json"), tmp_path)


def folder_of(path: Path) -> str:
    return f"photographs of {path.parent.name}/{path.name}"


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_no_images_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=folder):
        gather_images(BenchSettings(FILES, images=tmp_path / folder), tmp_path)
