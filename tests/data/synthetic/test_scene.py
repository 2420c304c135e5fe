"""Synthetic scenes: equal on all machines, valid labels that agree with the pixels, saved in COCO format."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolopose.data.coco import read_coco
from yolopose.data.synthetic import Scene, SyntheticScenes
from yolopose.runtime.errors import OutputError
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

DIGEST_CODE = """
import hashlib
from yolopose.data.synthetic import SyntheticScenes
digest = hashlib.sha256()
for scene in SyntheticScenes(4, size_wh=(200, 160), seed=11):
    digest.update(scene.image.tobytes() + scene.silhouettes.tobytes())
    for person in scene.people:
        digest.update(person["bbox"].tobytes() + person["keypoints"].tobytes() + repr(person["area"]).encode())
print(digest.hexdigest())
"""

# The same with numpy 1.24 and 2.4, OpenCV 4.8 and 4.14. A change of it changes the default calibration images.
DIGEST = "45af15d68f8454c8ae075b2e2b5c9029afeb9a63ba200233eb3385c40b6de0c0"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(SyntheticScenes(60, size_wh=(320, 320), seed=5))


def test_equal_in_other_processes_without_simd_and_in_any_order() -> None:
    extensions = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index,call-overload]
    plain = {"NPY_DISABLE_CPU_FEATURES": " ".join(extensions), "OPENCV_CPU_DISABLE": "AVX2", "OPENCV_IPP": "disabled"}
    digests = set()
    for change in ({"PYTHONHASHSEED": "1"}, {**plain, "PYTHONHASHSEED": "2"}):
        environment = {**os.environ, "OPENCV_LOG_LEVEL": "OFF", **change}
        run = subprocess.run(
            [sys.executable, "-c", DIGEST_CODE], capture_output=True, text=True, check=True, env=environment
        )
        digests.add(run.stdout.strip())
    assert digests == {DIGEST}
    source = SyntheticScenes(9, size_wh=(96, 96), seed=2)
    late = source[7].image
    np.testing.assert_array_equal(late, list(source)[7].image)
    np.testing.assert_array_equal(late, SyntheticScenes(1000, size_wh=(96, 96), seed=2)[7].image)
    assert not np.array_equal(late, SyntheticScenes(9, size_wh=(96, 96), seed=3)[7].image)


def test_arrays_are_as_documented(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (320, 320, 3)
        assert scene.image.dtype == np.uint8
        assert scene.silhouettes.shape == (320, 320)
        assert set(np.unique(scene.silhouettes)) - {0} == set(range(1, len(scene.people) + 1))
        for person in scene.people:
            assert person["keypoints"].shape == (17, 3)
            assert person["keypoints"].dtype == person["bbox"].dtype == np.float32
            assert np.isfinite(person["keypoints"]).all()


def test_boxes_and_areas_equal_those_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        for number, person in enumerate(scene.people, start=1):
            rows, columns = np.nonzero(scene.silhouettes == number)
            assert person["bbox"].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert person["area"] == len(rows) >= 12


def test_visible_keypoints_lie_on_their_person(scenes: list[Scene]) -> None:
    """Within 2 px of a visible pixel: the outline of the head leaves out the nose in profile."""
    for scene in scenes:
        for number, person in enumerate(scene.people, start=1):
            near = cv2.dilate((scene.silhouettes == number).astype(np.uint8), np.ones((5, 5), np.uint8))
            x, y, v = person["keypoints"].T
            on = near[y.astype(int), x.astype(int)] == 1
            assert on[v == 2].all(), (number, person["keypoints"][(v == 2) & ~on])


def test_keypoints_outside_the_image_are_not_labeled(scenes: list[Scene]) -> None:
    points = np.concatenate([person["keypoints"] for scene in scenes for person in scene.people])
    out = points[:, 2] == 0
    assert out.any()
    assert (points[out] == 0).all()
    assert ((points[~out, :2] >= 0) & (points[~out, :2] < 320)).all()


def test_scenes_vary(scenes: list[Scene]) -> None:
    people = [person for scene in scenes for person in scene.people]
    heights = np.array([person["bbox"][3] - person["bbox"][1] for person in people])
    visible = np.array([np.bincount(person["keypoints"][:, 2].astype(int), minlength=3) for person in people])
    assert 2 <= sum(not scene.people for scene in scenes) <= 20
    assert max(len(scene.people) for scene in scenes) >= 5
    assert (heights < 40).sum() >= 3
    assert (heights > 220).sum() >= 5
    assert (visible[:, 0] >= 4).sum() >= 5, "cut by the border"
    assert (visible[:, 1] >= 6).sum() >= 10, "hidden by other people, objects or themselves"
    assert (visible[:, 2] >= 14).sum() >= 15, "fully visible"
    assert any(
        _overlap(a["bbox"], b["bbox"]) > 0.3
        for scene in scenes
        for a in scene.people
        for b in scene.people
        if a is not b
    )


def test_people_seen_from_behind_have_hidden_faces(scenes: list[Scene]) -> None:
    people = [person["keypoints"] for scene in scenes for person in scene.people]
    body_seen = [points for points in people if (points[5:7, 2] == 2).all() and points[0, 2] > 0]
    nose_hidden = [points for points in body_seen if points[0, 2] == 1]
    assert 0.1 < len(nose_hidden) / len(body_seen) < 0.8
    facing = [points for points in body_seen if (points[:3, 2] == 2).all()]
    assert np.mean([points[5, 0] > points[6, 0] for points in facing]) > 0.8, (
        "the left side of a person who faces the camera is on the right of the image"
    )


def test_skeletons_agree_on_shared_keypoints() -> None:
    seventeen, fourteen = (
        SyntheticScenes(6, size_wh=(160, 160), seed=1, people=(2, 4), skeleton=s) for s in (COCO_17, LSP_14)
    )
    shared = [(COCO_17.names.index(name), k) for k, name in enumerate(LSP_14.names) if name in COCO_17.names]
    assert len(shared) == 12
    for a, b in zip(seventeen, fourteen, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        for one, other in zip(a.people, b.people, strict=True):
            assert other["keypoints"].shape == (14, 3)
            for i, k in shared:
                np.testing.assert_array_equal(one["keypoints"][i], other["keypoints"][k])


@pytest.mark.parametrize("people", [(0, 0), (1, 1), (8, 8)])
def test_number_of_people(people: tuple[int, int]) -> None:
    counts = [len(scene.people) for scene in SyntheticScenes(6, size_wh=(128, 128), people=people)]
    assert max(counts) <= people[1]
    assert sum(counts) >= people[0]  # hidden people are left out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": -1}, "count"),
        ({"count": 1, "seed": -1}, "seed"),
        ({"count": 1, "size_wh": (8, 640)}, "size_wh"),
        ({"count": 1, "people": (3, 2)}, "people"),
        ({"count": 1, "people": (0, 10_000)}, "people"),
        ({"count": 1, "skeleton": Skeleton("tail", ("nose", "tail"), (), (), (0.1, 0.1))}, "tail"),
    ],
)
def test_rejects_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SyntheticScenes(**arguments)  # type: ignore[arg-type]


def test_rejects_an_index_out_of_range() -> None:
    source = SyntheticScenes(2, size_wh=(64, 64))
    np.testing.assert_array_equal(source[-1].image, source[1].image)
    for index in (2, -3):
        with pytest.raises(IndexError):
            source[index]


@pytest.mark.parametrize(("skeleton", "image_format"), [(COCO_17, "png"), (LSP_14, "jpg")])
def test_saved_scenes_are_read_back(tmp_path: Path, skeleton: Skeleton, image_format: str) -> None:
    source = SyntheticScenes(5, size_wh=(160, 120), seed=4, skeleton=skeleton)
    path = source.save_coco(tmp_path / "set", image_format)
    dataset = read_coco(path, tmp_path / "set" / "images", skeleton)
    assert [image.size_wh for image in dataset.images.values()] == [(160, 120)] * 5
    for scene, image, people in zip(source, dataset.images.values(), dataset.people.values(), strict=True):
        stored = cv2.imread(str(image.path))
        if image_format == "png":
            np.testing.assert_array_equal(stored, scene.image)
        assert len(people) == len(scene.people)
        for person, label in zip(people, scene.people, strict=True):
            np.testing.assert_allclose(person.keypoints, label["keypoints"], atol=0.006)
            assert person.bbox_xyxy == tuple(label["bbox"])
            assert (person.area, person.is_crowd) == (label["area"], False)
    first = hashlib.sha256(path.read_bytes()).hexdigest()
    source.save_coco(tmp_path / "again", image_format)
    assert hashlib.sha256((tmp_path / "again" / path.name).read_bytes()).hexdigest() == first
    assert not [file for file in tmp_path.rglob("*.part")]


def test_pycocotools_reads_saved_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    path = SyntheticScenes(3, size_wh=(96, 96), people=(1, 3)).save_coco(tmp_path)
    loaded = coco.COCO(str(path))
    category = loaded.loadCats(loaded.getCatIds())[0]
    assert category["keypoints"] == list(COCO_17.names)
    assert min(min(pair) for pair in category["skeleton"]) == 1
    assert len(loaded.getImgIds()) == 3
    assert json.loads(path.read_text())["annotations"][0]["iscrowd"] == 0
    capsys.readouterr()


def test_saving_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SyntheticScenes(1, size_wh=(64, 64))
    with pytest.raises(ValueError, match="image_format"):
        source.save_coco(tmp_path, "gif")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)  # where a full disk may be noticed first
    with pytest.raises(OutputError, match="No space left"):
        source.save_coco(tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_needs_no_torch() -> None:
    modules = "yolopose.data.synthetic, yolopose.data.coco, yolopose.evaluation"
    code = f"import sys, {modules}; sys.exit(bool(sys.modules.keys() & {{'torch', 'pycocotools'}}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the smaller box that the other covers."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
    return float(np.prod(np.maximum(sides, 0)) / smaller)
