"""The reader of the YOLO-pose format: labels, YAML file, damaged rows, image sizes."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.yolo_txt import image_size, read_yolo, read_yolo_folder
from yolopose.evaluation import AREA_OF_BOX
from yolopose.runtime.errors import BackendUnavailable, DataError
from yolopose.runtime.images import read_image
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

ROW = "0 0.5 0.5 0.5 0.5 0.25 0.5 2 0.5 0.75 1"


def folder(root: Path, labels: dict[str, str | None], **changes: Any) -> Path:
    """A data set of 40 x 20 images with one .txt file each, unless None; returns the path of the YAML file."""
    for name, text in labels.items():
        for kind in ("images", "labels"):
            (root / kind / "train").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / "images" / "train" / f"{name}.jpg"), np.zeros((20, 40, 3), np.uint8))
        if text is not None:
            (root / "labels" / "train" / f"{name}.txt").write_text(text)
    document = {"path": ".", "train": "images/train", "kpt_shape": [2, 3], "names": {0: "person"}, **changes}
    path = root / "data.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in document.items() if value is not None}))
    return path


def test_reads_people_and_images_without_people(tmp_path: Path) -> None:
    dataset = read_yolo(folder(tmp_path, {"b": f"{ROW}\n\n{ROW}\n", "a": None, "c": ""}))
    assert [image.path.name for image in dataset.images.values()] == ["a.jpg", "b.jpg", "c.jpg"]
    assert dataset.images[1].size_wh == (40, 20)
    assert [len(people) for people in dataset.people.values()] == [0, 2, 0]
    assert dataset.ids_with_people == (2,)
    first, second = dataset.people[2]
    assert (first.id, second.id, first.image_id, first.category_id, first.num_keypoints) == (1, 2, 2, 1, 2)
    assert first.bbox_xyxy == (10, 5, 30, 15)
    assert first.area == pytest.approx(AREA_OF_BOX * 200)
    np.testing.assert_array_equal(first.keypoints, [[10, 10, 2], [20, 15, 1]])
    assert [category.name for category in dataset.categories] == ["person"]


def test_points_without_visibility(tmp_path: Path) -> None:
    path = folder(tmp_path, {"a": "0 0.5 0.5 0.5 0.5 0 0 0.5 0"}, kpt_shape=[2, 2])
    (person,) = read_yolo(path).people[1]
    np.testing.assert_array_equal(person.keypoints, [[0, 0, 0], [20, 0, 2]])
    assert person.num_keypoints == 1


@given(st.data())
def test_written_labels_are_read(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    part = st.floats(0, 1)
    count, columns = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([2, 3]))
    point = st.tuples(part, part, st.integers(0, 2)) if columns == 3 else st.tuples(part, part)
    person = st.tuples(st.integers(0, 1), *[part] * 4, *[point] * count)
    people = data.draw(st.lists(person, min_size=1, max_size=3))
    rows = [[*row[:5], *(value for points in row[5:] for value in points)] for row in people]
    text = "\n".join(" ".join(map(repr, row)) for row in rows)
    path = folder(tmp_path_factory.mktemp("set"), {"a": text}, kpt_shape=[count, columns], names=["person", "rider"])
    found = read_yolo(path).people[1]
    assert len(found) == len(rows)
    for row, one in zip(rows, found, strict=True):
        x, y, width, height = one.bbox_xywh
        assert one.category_id == row[0] + 1
        np.testing.assert_allclose(
            [x + width / 2, y + height / 2, width, height], np.multiply(row[1:5], [40, 20, 40, 20]), atol=1e-12
        )
        points = np.reshape(row[5:], (count, columns))
        np.testing.assert_array_equal(one.keypoints[:, :2], points[:, :2] * [40, 20])
        visible = points[:, 2] if columns == 3 else 2 * (points[:, :2] != 0).any(1)
        np.testing.assert_array_equal(one.keypoints[:, 2], visible)


def test_splits_by_list_and_by_several_folders(tmp_path: Path) -> None:
    path = folder(tmp_path, {"a": ROW, "b": ROW}, val="val.txt", test=["images/train", "val.txt"])
    (tmp_path / "val.txt").write_text("./images/train/b.jpg\n\n")
    assert [image.path.name for image in read_yolo(path, "val").images.values()] == ["b.jpg"]
    assert len(read_yolo(path, "test").images) == 2
    (tmp_path / "val.txt").write_text("images/train/gone.jpg\n")
    with pytest.raises(DataError, match=r"1 of 1 val images are missing: .*gone.jpg"):
        read_yolo(path, "val")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kpt_shape": [17, 3], "flip_idx": list(COCO_17.flip_index)}, COCO_17),
        ({"kpt_shape": [14, 3]}, LSP_14),
        ({"kpt_names": ["left_ear", "right_ear"]}, ((0, 1),)),
        ({"kpt_names": {0: ["left_ear", "right_ear"]}, "flip_idx": [1, 0]}, ((0, 1),)),
        ({"kpt_names": ["up", "down"]}, ()),
        ({"flip_idx": [1, 0]}, ((0, 1),)),
        ({"flip_idx": [0, 1]}, ()),
    ],
)
def test_skeleton(tmp_path: Path, changes: dict[str, Any], expected: object) -> None:
    skeleton = read_yolo_folder(folder(tmp_path, {"a": ROW}, **changes)).skeleton
    assert expected == (skeleton if isinstance(expected, Skeleton) else skeleton.flip_pairs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kpt_shape": None}, "kpt_shape must be"),
        ({"kpt_shape": [2, 4]}, "kpt_shape must be"),
        ({"kpt_shape": [True, 3]}, "kpt_shape must be"),
        ({"names": None}, "names must list"),
        ({"names": {1: "person"}}, "names must list"),
        ({"names": ["person", "person"]}, "names must list"),
        ({"kpt_names": ["a"]}, "kpt_names must be 2 names"),
        ({"kpt_names": {0: ["a", "b"], 1: ["b", "a"]}}, "kpt_names must be 2 names"),
        ({"kpt_names": ["a", "a"]}, "do not make a skeleton"),
        ({"flip_idx": [0, 1, 2]}, "mirror partner of each of 2"),
        ({"flip_idx": [1, 1]}, "mirror partner"),
        ({"flip_idx": "x"}, "flip_idx must be a list"),
        ({"kpt_names": ["left_ear", "right_ear"], "flip_idx": [0, 1]}, r"flip_idx is \[0, 1\], but skeleton"),
        ({"kpt_shape": [14, 3], "flip_idx": [1, 0, *range(2, 14)]}, "skeleton 'lsp-14' is mirrored"),
        ({"train": None}, "'train' must be a folder"),
        ({"train": "images/none"}, "which does not exist"),
        ({"train": "labels"}, "no images in train"),
        ({"path": "elsewhere"}, "which does not exist"),
    ],
)
def test_rejects_damaged_yaml(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = folder(tmp_path, {"a": ROW}, **changes)
    with pytest.raises(DataError, match=message) as caught:
        read_yolo(path)
    assert str(path) in str(caught.value)


def test_rejects_files_that_are_not_yaml(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    with pytest.raises(DataError, match="cannot be read"):
        read_yolo(path)
    for text, message in (("a: [", "not YAML"), ("\x00", "not YAML"), ("a", "expected path"), ("", "expected path")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_yolo(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.5 0.5", r"a.txt:2: 5 columns, expected 5 \+ 2 x 3"),
        (ROW + " 1", "a.txt:2: 12 columns"),
        (ROW.replace("0.75", "nan"), "a.txt:2: numbers that are not finite"),
        (ROW.replace("0.75", "inf"), "a.txt:2: numbers that are not finite"),
        (ROW.replace("0.75", "x"), "a.txt:2: could not convert"),
        (ROW.replace("0 0.5", "1 0.5", 1), r"a.txt:2: class 1, expected 0\.\.0"),
        (ROW.replace("0 0.5", "0.5 0.5", 1), "a.txt:2: class 0.5"),
        (ROW.replace("0.5", "1.002", 1), "a.txt:2: box 1.002 .*not within"),
        (ROW.replace("0.5", "-0.002", 1), "a.txt:2: box -0.002 .*not within"),
        (ROW[:-1] + "3", "a.txt:2: visibilities"),
    ],
)
def test_rejects_damaged_rows(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_yolo(folder(tmp_path, {"a": f"{ROW}\n{row}\n"}))


def test_damaged_rows_are_counted_and_rounding_is_tolerated(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="50 damaged entries") as caught:
        read_yolo(folder(tmp_path, {"a": "1\n" * 50}))
    assert len(str(caught.value).splitlines()) == 10
    assert len(read_yolo(folder(tmp_path, {"a": ROW.replace("0.5", "1.0009", 1)})).people[1]) == 1
    (tmp_path / "labels" / "train" / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a.txt: cannot be read"):
        read_yolo(tmp_path / "data.yaml")


def test_rejects_no_labels_and_another_skeleton(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no labels for any of 1 train images; looked for .*labels/train/a.txt"):
        read_yolo(folder(tmp_path, {"a": None}))
    with pytest.raises(DataError, match="2 keypoints a person, but skeleton 'coco-17' has 17"):
        read_yolo(folder(tmp_path, {"a": ROW}), skeleton=COCO_17)


def test_without_pyyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = folder(tmp_path, {"a": ROW}), builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "yaml":
            raise ImportError("No module named 'yaml'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(BackendUnavailable, match=r"needs PyYAML .*pip install pyyaml"):
        read_yolo(path)


def _with_exif(data: bytes, orientation: int) -> bytes:
    """A JPEG with an EXIF segment of one entry, orientation (0x0112)."""
    tiff = b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation]) + bytes(6)
    segment = b"Exif\x00\x00" + tiff
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
@pytest.mark.parametrize("orientation", range(9))
def test_sizes_equal_those_of_read_image(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 50, 3), np.uint8)
    parameters = [cv2.IMWRITE_JPEG_PROGRESSIVE, orientation % 2] if suffix == ".jpg" else []
    data = cv2.imencode(suffix, image, parameters)[1].tobytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(_with_exif(data, orientation) if suffix == ".jpg" and orientation else data)
    height, width = read_image(path).shape[:2]
    assert image_size(path) == (width, height)
    assert suffix != ".jpg" or (width < height) == (orientation >= 5)


def test_sizes_of_real_photographs(photographs: list[Path]) -> None:
    for path in photographs:
        height, width = read_image(path).shape[:2]
        assert image_size(path) == (width, height)


@pytest.mark.parametrize(
    "damage",
    [lambda d: b"", lambda d: b"text", lambda d: d[:8], lambda d: d[:2] + b"\xff\xda" + d[2:], lambda d: d[4:]],
)
def test_size_of_damaged_images_is_unknown(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder(tmp_path, {"a": ROW})
    image = tmp_path / "images" / "train" / "a.jpg"
    image.write_bytes(damage(image.read_bytes()))
    assert image_size(image) is None
    assert read_yolo(path).images[1].size_wh == (1, 1)
    assert image_size(tmp_path / "none.jpg") is None
