"""ImageSet: labeled images, photographs alone, synthetic scenes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolopose.data.image_set import open_image_set
from yolopose.runtime.errors import DataError, SourceError
from yolopose.runtime.images import evenly
from yolopose.runtime.skeleton import COCO_17, LSP_14


def test_photographs_without_labels(photographs: Path) -> None:
    images = open_image_set(None, photographs, None, 2)
    assert [path.name for path in images.paths] == ["0.png", "2.png"]
    assert images.labels is None
    assert images.description == f"{folder_of(photographs)}, without labels"


def test_synthetic_scenes(tmp_path: Path) -> None:
    images = open_image_set(None, None, None, 2, scenes_folder=tmp_path)
    assert len(images.paths) == 2
    assert all(path.is_file() for path in images.paths)
    assert images.description.startswith("synthetic scenes")


def test_labeled_images(photographs: Path, labels: Path) -> None:
    images = open_image_set(labels, photographs, COCO_17, 3)
    assert [path.name for path in images.paths] == ["0.png", "1.png", "3.png"]
    assert images.image_ids == (1, 2, 4)
    assert images.description == f"{folder_of(photographs)}, labeled by person_keypoints.json"
    with pytest.raises(DataError, match="skeleton 'lsp-14' has 14"):
        open_image_set(labels, photographs, LSP_14, None)


def test_yolo_pose_folder(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    shutil.copytree(photographs, tmp_path / "images" / "test")
    (tmp_path / "labels" / "test").mkdir(parents=True)
    row = " ".join(["0 0.5 0.5 0.4 0.4", *["0.5 0.5 2"] * 17])
    (tmp_path / "labels" / "test" / "1.txt").write_text(row + "\n", encoding="utf-8")
    data = tmp_path / "people.yaml"
    data.write_text("test: images/test\nkpt_shape: [17, 3]\nnames: [person]\n", encoding="utf-8")
    images = open_image_set(data, None, None, None, split="test")
    assert [path.name for path in images.paths] == [f"{i}.png" for i in range(5)]
    assert images.labels is not None
    assert images.labels.ids_with_people == (2,)
    assert images.description == "photographs of images/test, labeled by people.yaml (test)"


def test_labels_without_images_are_rejected(labels: Path, photographs: Path, tmp_path: Path) -> None:
    document = json.loads(labels.read_text(encoding="utf-8")) | {"images": [], "annotations": []}
    (tmp_path / "none.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=r"none\.json: no images"):
        open_image_set(tmp_path / "none.json", photographs, None, None)


def folder_of(path: Path) -> str:
    return f"photographs of {path.parent.name}/{path.name}"


@pytest.mark.parametrize("folder", ["empty", "absent"])
def test_missing_or_empty_folder_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=folder):
        open_image_set(None, tmp_path / folder, None, None)


def test_limit_takes_images_evenly(tmp_path: Path) -> None:
    for i in range(10):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((4, 4, 3), i, np.uint8))
    images = open_image_set(None, tmp_path, COCO_17, 4)
    assert images.names == tuple(f"{i}.png" for i in evenly(10, 4))
    assert images.read(1)[0, 0, 0] == evenly(10, 4)[1]
    assert len(open_image_set(None, tmp_path, COCO_17, 0).names) == 10
    assert open_image_set(None, None, COCO_17, 3).description == "synthetic scenes, seed 0"


def test_damaged_labels_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images"):
        open_image_set(None, tmp_path, COCO_17, 4)
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(DataError, match=r"labels\.json"):
        open_image_set(tmp_path / "labels.json", tmp_path, COCO_17, 4)
