"""The reader of COCO keypoint labels."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from yolopose.data.coco import read_coco
from yolopose.runtime.errors import DataError
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

PAIR = Skeleton("pair", ("a", "b"), (), (), (0.1, 0.1))


def document() -> dict[str, Any]:
    person = {"category_id": 1, "iscrowd": 0, "area": 50.0}
    return {
        "images": [
            {"id": 7, "file_name": "b.jpg", "width": 20, "height": 10},
            {"id": 3, "file_name": "a.jpg", "width": 30, "height": 40},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 3,
                "bbox": [1, 2, 10, 5],
                "num_keypoints": 2,
                "keypoints": [1, 2, 2, 5, 6, 1],
                **person,
            },
            {"id": 2, "image_id": 3, "bbox": [0, 0, 4, 4], "num_keypoints": 0, "keypoints": [0] * 6, **person},
            {
                "id": 3,
                "image_id": 3,
                "bbox": [0, 0, 9, 9],
                "num_keypoints": 0,
                "keypoints": [0] * 6,
                **person,
                "iscrowd": 1,
            },
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": ["a", "b"], "skeleton": []}],
    }


def written(folder: Path, labels: object) -> Path:
    for name in ("a.jpg", "b.jpg"):
        (folder / name).touch()
    path = folder / "labels.json"
    path.write_text(labels if isinstance(labels, str) else json.dumps(labels))
    return path


def test_reads_people_crowds_and_images_without_people(tmp_path: Path) -> None:
    dataset = read_coco(written(tmp_path, document()), tmp_path, PAIR)
    assert list(dataset.images) == [3, 7]
    assert dataset.images[3].size_wh == (30, 40)
    assert dataset.images[7].path == tmp_path / "b.jpg"
    assert dataset.people[7] == ()
    assert dataset.ids_with_people == (3,)
    person, unlabeled, crowd = dataset.people[3]
    assert person.bbox_xyxy == (1, 2, 11, 7)
    np.testing.assert_array_equal(person.keypoints, [[1, 2, 2], [5, 6, 1]])
    assert [entry.is_labeled for entry in (person, unlabeled, crowd)] == [True, False, False]
    assert crowd.is_crowd
    assert (dataset.num_keypoints, dataset.keypoint_names) == (2, ("a", "b"))


def test_box_only_people_and_other_categories(tmp_path: Path) -> None:
    labels = document()
    del labels["annotations"][1]["keypoints"], labels["annotations"][1]["num_keypoints"]
    labels["categories"].append({"id": 2, "name": "dog"})
    labels["annotations"].append(
        {"id": 4, "image_id": 7, "category_id": 2, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
    )
    dataset = read_coco(written(tmp_path, labels), tmp_path)
    assert [category.name for category in dataset.categories] == ["person"]
    assert dataset.people[3][1].num_keypoints == 0
    assert dataset.people[7] == ()


def test_categories_without_keypoint_names(tmp_path: Path) -> None:
    labels = document()
    del labels["categories"][0]["keypoints"]
    dataset = read_coco(written(tmp_path, labels), tmp_path, PAIR)
    assert dataset.keypoint_names is None
    assert dataset.num_keypoints == 2


def _no_keypoints(labels: dict[str, Any]) -> None:
    del labels["categories"][0]["keypoints"]
    for entry in labels["annotations"]:
        del entry["keypoints"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("annotations"), "'annotations' must be a list"),
        (lambda d: d.update(images={}), "'images' must be a list"),
        (_no_keypoints, "no category with keypoints"),
        (
            lambda d: d["annotations"][0].update(keypoints=[1, 2, 2]),
            r"annotations\[0\] \(id 1\): 3 numbers in keypoints, expected 2 x 3",
        ),
        (lambda d: d["annotations"][0].update(keypoints=[1, float("nan"), 2, 5, 6, 1]), "id 1.*not finite"),
        (lambda d: d["annotations"][0].update(keypoints=[1, 1, 3, 5, 6, 1]), "id 1.*visibilities"),
        (lambda d: d["annotations"][0].update(keypoints=[1, "x", 2, 5, 6, 1]), "id 1"),
        (lambda d: d["annotations"][0].update(num_keypoints=1), "num_keypoints is 1, but 2"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "bbox must be"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("inf"), 3]), "bbox must be"),
        (lambda d: d["annotations"][0].update(area=0), "area must be"),
        (lambda d: d["annotations"][0].update(area=float("nan")), "area must be"),
        (lambda d: d["annotations"][0].pop("area"), "no 'area'"),
        (lambda d: d["annotations"][1].update(id=1), r"annotations\[1\].*id 1 is used twice"),
        (lambda d: d["annotations"][1].update(image_id=99), "image_id 99 is not an image of the file"),
        (lambda d: d["images"][1].update(id=7), r"images\[1\].*id 7 is used twice"),
        (lambda d: d["images"][1].update(id="three"), "id must be an integer, got 'three'"),
        (lambda d: d["images"][1].update(width=0), r"images\[1\].*size 0 x 40"),
        (lambda d: d["images"][1].pop("file_name"), "no 'file_name'"),
        (lambda d: d["images"][1].update(file_name="gone.jpg"), "1 of 2 images are missing: .*gone.jpg"),
        (lambda d: d["categories"].append({"id": 2, "name": "x", "keypoints": ["b", "a"]}), "different keypoints"),
        (lambda d: d["categories"].append(copy.copy(d["categories"][0])), "categories: an id is used twice"),
    ],
)
def test_rejects_damaged_labels(tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str) -> None:
    labels = document()
    damage(labels)
    path = written(tmp_path, labels)
    with pytest.raises(DataError, match=message) as caught:
        read_coco(path, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("", "not JSON"), ("{", "not JSON"), ("[]", "expected an object"), ("\x00\x01", "not JSON")]
)
def test_rejects_files_that_are_not_coco(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_coco(written(tmp_path, text), tmp_path)


def test_rejects_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path, tmp_path)


def test_many_problems_are_counted(tmp_path: Path) -> None:
    labels = document()
    labels["annotations"] = [{**labels["annotations"][0], "id": k, "area": -1} for k in range(50)]
    with pytest.raises(DataError, match="50 damaged entries") as caught:
        read_coco(written(tmp_path, labels), tmp_path)
    assert "and 42 more" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12


def test_rejects_another_skeleton(tmp_path: Path) -> None:
    path = written(tmp_path, document())
    with pytest.raises(DataError, match="2 keypoints a person, but skeleton 'coco-17' has 17"):
        read_coco(path, tmp_path, COCO_17)
    with pytest.raises(DataError, match="keypoint 0 is 'a', in skeleton 'swapped' it is 'b'"):
        read_coco(path, tmp_path, Skeleton("swapped", ("b", "a"), (), (), (0.1, 0.1)))


def test_real_data(data_dir: Path) -> None:
    coco = read_coco(data_dir / "coco-mini" / "person_keypoints.json", data_dir / "coco-mini" / "images", COCO_17)
    assert (len(coco.images), len(coco.ids_with_people)) == (125, 60)
    assert sum(person.is_labeled for people in coco.people.values() for person in people) == 154
    assert sum(person.is_crowd for people in coco.people.values() for person in people) == 6
    leeds = read_coco(data_dir / "lspet" / "val.json", data_dir / "lspet" / "images", LSP_14)
    assert len(leeds.ids_with_people) == 493
