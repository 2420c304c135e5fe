"""Sources: labels fitted to images, damaged images, both label formats, synthetic scenes, mixtures."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.coco import CocoCategory, CocoImage, CocoKeypoints, CocoPerson, read_coco
from yolopose.data.sample import DamagedImage, Sample
from yolopose.data.sources import LabeledImages, Mixed, SyntheticSource, open_labels, open_sources
from yolopose.data.synthetic import SyntheticScenes
from yolopose.data.yolo_txt import read_yolo
from yolopose.evaluation import AREA_OF_BOX
from yolopose.runtime.errors import DataError, UsageError
from yolopose.runtime.images import read_image
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

PAIR = Skeleton("pair", ("left_ear", "right_ear"), ((0, 1),), (), (0.1, 0.1))
NAMED = {"id": 1, "name": "person", "keypoints": list(PAIR.names)}
Box = tuple[float, float, float, float]


def person(number: int, box: Box, keypoints: Any = ((10, 10, 2), (0, 0, 0)), crowd: bool = False) -> CocoPerson:
    points = np.array(keypoints, np.float64)
    return CocoPerson(number, 1, 1, box, 50.0, points, int(np.count_nonzero(points[:, 2])), crowd)


def dataset(path: Path, *people: CocoPerson, size_wh: tuple[int, int] = (40, 20)) -> CocoKeypoints:
    image = CocoImage(1, path, size_wh)
    return CocoKeypoints(Path("labels.json"), {1: image}, {1: people}, (CocoCategory(1, "person"),), 2, None)


@pytest.fixture
def image_path(tmp_path: Path) -> Path:
    """40 x 20 pixels of noise."""
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8))
    return path


def assert_equal(a: Sample, b: Sample) -> None:
    for field in ("image", "boxes", "keypoints", "areas", "labels", "crowd"):
        ours, theirs = getattr(a, field), getattr(b, field)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=field)


def test_samples_are_as_documented(image_path: Path) -> None:
    source = LabeledImages(dataset(image_path, person(1, (5, 5, 10, 10)), person(2, (0, 0, 9, 9), crowd=True)), PAIR)
    assert (len(source), source.classes, source.skeleton, source.problems) == (1, ("person",), PAIR, [])
    sample = source[0]
    np.testing.assert_array_equal(sample.image, read_image(image_path))
    np.testing.assert_array_equal(sample.boxes, [[5, 5, 15, 15], [0, 0, 9, 9]])
    np.testing.assert_array_equal(sample.keypoints[0], [[10, 10, 2], [0, 0, 0]])
    assert (sample.areas.tolist(), sample.labels.tolist(), sample.crowd.tolist()) == ([50, 50], [0, 0], [False, True])
    assert sample.name == str(image_path)
    arrays = (sample.image, sample.boxes, sample.keypoints, sample.areas, sample.labels, sample.crowd)
    assert [array.dtype.name for array in arrays] == ["uint8", "float32", "float32", "float32", "int64", "bool"]
    assert not any(array.flags.writeable for array in arrays)


def test_images_without_people_are_used(image_path: Path) -> None:
    labels = dataset(image_path, person(1, (5, 5, 10, 10)))
    labels.images[2], labels.people[2] = CocoImage(2, image_path, (40, 20)), ()
    sample = LabeledImages(labels, PAIR)[1]
    assert (sample.boxes.shape, sample.keypoints.shape, len(sample)) == ((0, 4), (0, 2, 3), 0)


@pytest.mark.parametrize(
    ("box", "keypoints", "problem", "left"),
    [
        ((50, 5, 10, 10), None, r"annotation 7: box \(50, 5, 60, 15\) lies outside the image of 40 x 20; person", 0),
        ((-9, 5, 9, 10), None, "lies outside the image", 0),
        ((5, 5, 0, 10), None, "box .* has no width or height; person skipped", 0),
        ((5, 5, 1e-9, 10), None, "person skipped", 0),
        ((-2, 5, 60, 10), None, r"box \(-2, 5, 58, 15\) reaches beyond the image of 40 x 20; clipped", 1),
        ((-1, 5, 42, 10), None, None, 1),
        ((5, 5, 9, 9), [(-1, 5, 2), (41, 5, 1)], "2 keypoints outside the image, taken as not labeled", 1),
        ((5, 5, 9, 9), [(0, 0, 2), (40, 20, 1)], None, 1),
        ((5, 5, 9, 9), [(-1, 99, 0), (3, 3, 2)], None, 1),
    ],
)
def test_labels_that_do_not_fit_the_image(
    image_path: Path, box: Box, keypoints: Any, problem: str | None, left: int
) -> None:
    odd = person(7, box, keypoints or [(10, 10, 2), (12, 12, 1)])
    source = LabeledImages(dataset(image_path, person(1, (5, 5, 10, 10)), odd), PAIR)
    sample = source[0]
    assert len(sample) == 1 + left
    assert sample.boxes.min() >= 0
    assert (sample.boxes[:, 2:] <= (40, 20)).all()
    assert (sample.keypoints[sample.keypoints[..., 2] == 0] == 0).all()
    if problem is None:
        assert source.problems == []
    else:
        assert len(source.problems) == 1
        assert re.search(problem, source.problems[0])
        assert source.problems[0].startswith(f"{image_path}: annotation 7: ")


finite = st.floats(-1e4, 1e4)


@given(
    st.lists(st.tuples(finite, finite, st.floats(0, 1e4), st.floats(0, 1e4)), max_size=4),
    st.lists(st.tuples(finite, finite, st.integers(0, 2)), min_size=2, max_size=2),
    st.none() | st.integers(1, 60),
)
def test_prepared_labels_always_fit_the_image(boxes: list[Box], points: Any, max_side: int | None) -> None:
    people = [person(n, box, points) for n, box in enumerate(boxes)]
    labels = dataset(Path("none.png"), *people, person(99, (0, 0, 40, 20)))
    source = LabeledImages(labels, PAIR, max_side)
    width, height = source._size(labels.images[1])
    assert max(width, height) == min(max_side or 40, 40)
    made = source._labels[0]
    assert (made.boxes[:, :2] >= 0).all()
    assert (made.boxes[:, :2] < made.boxes[:, 2:]).all()
    assert (made.boxes[:, 2:] <= (width, height)).all()
    assert (made.keypoints[..., :2] >= 0).all()
    assert (made.keypoints[..., :2] <= (width, height)).all()
    skipped = sum("skipped" in problem for problem in source.problems)
    assert len(made.boxes) == len(boxes) + 1 - skipped


@pytest.mark.parametrize("max_side", [10, 39, 40, 400])
def test_images_are_reduced_with_their_labels(image_path: Path, max_side: int) -> None:
    labels = dataset(image_path, person(1, (4, 4, 20, 10), [(8, 12, 2), (0, 0, 0)]))
    source = LabeledImages(labels, PAIR, max_side)
    scale = min(1, max_side / 40)
    sample = source[0]
    assert sample.image.shape == (round(20 * scale), round(40 * scale), 3)
    sx, sy = sample.image.shape[1] / 40, sample.image.shape[0] / 20
    np.testing.assert_allclose(sample.boxes[0], [4 * sx, 4 * sy, 24 * sx, 14 * sy], rtol=1e-6)
    np.testing.assert_allclose(sample.keypoints[0], [[8 * sx, 12 * sy, 2], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(sample.areas, [50 * sx * sy], rtol=1e-6)
    source.preload()
    assert_equal(source[0], sample)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "damaged or of an unknown format"),
        (None, "cannot read the image"),
        (cv2.imencode(".png", np.zeros((40, 20, 3), np.uint8))[1].tobytes(), "is 20 x 40 px, .* for 40 x 20; rotated"),
        (cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes(), "is 9 x 9 px, its labels are for 40 x 20$"),
    ],
)
@pytest.mark.parametrize("preload", [False, True])
def test_damaged_images_raise(image_path: Path, content: bytes | None, reason: str, preload: bool) -> None:
    good = image_path.with_name("b.png")
    good.write_bytes(image_path.read_bytes())
    labels = dataset(good, person(1, (5, 5, 10, 10)))
    labels.images[2], labels.people[2] = CocoImage(2, image_path, (40, 20)), ()
    if content is None:
        image_path.unlink()
    else:
        image_path.write_bytes(content)
    source = LabeledImages(labels, PAIR)
    if preload:
        source.preload()
        good.unlink()
    for _ in range(2):
        with pytest.raises(DamagedImage, match=reason) as caught:
            source[1]
        assert caught.value.name == str(image_path)
    assert source[0].image.shape == (20, 40, 3)


def test_preloading_shows_progress_and_can_be_pickled(image_path: Path) -> None:
    source, seen = LabeledImages(dataset(image_path, person(1, (5, 5, 10, 10))), PAIR), []

    def progress(items: Iterable[Any], total: int, label: str) -> Iterable[Any]:
        for item in items:
            seen.append((total, label))
            yield item

    source.preload(progress)
    source.preload(progress)
    assert seen == [(1, "reading images")]
    assert_equal(pickle.loads(pickle.dumps(source))[0], source[0])


def test_rejects_data_sets_without_labeled_people(image_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels.json: no images"):
        LabeledImages(CocoKeypoints(Path("labels.json"), {}, {}, (CocoCategory(1, "person"),), 2, None), PAIR)
    unlabeled = person(1, (5, 5, 10, 10), [(0, 0, 0)] * 2)
    for people in ((), (unlabeled,), (person(1, (5, 5, 9, 9), crowd=True),), (person(1, (90, 5, 9, 9)),)):
        with pytest.raises(DataError, match="nobody in 1 images has a labeled keypoint"):
            LabeledImages(dataset(image_path, *people), PAIR)
    with pytest.raises(DataError, match="2 keypoints a person, but skeleton 'coco-17' has 17"):
        LabeledImages(dataset(image_path, person(1, (5, 5, 9, 9))), COCO_17)
    with pytest.raises(ValueError, match="max_side must be"):
        LabeledImages(dataset(image_path, person(1, (5, 5, 9, 9))), PAIR, 0)


# Both label formats


def coco_file(folder: Path, **category: Any) -> Path:
    """Labels of images/a.png; they name keypoints only if ``category`` does."""
    entry = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [4, 4, 20, 10], "area": 0.53 * 200}
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}],
        "annotations": [{**entry, "keypoints": [10, 5, 2, 20, 15, 1]}],
        "categories": [{"id": 1, "name": "person", **category}],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(document))
    return path


def yolo_file(folder: Path, **changes: Any) -> Path:
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "a.txt").write_text("0 0.35 0.45 0.5 0.5 0.25 0.25 2 0.5 0.75 1\n")
    path = folder / "data.yaml"
    split = {"train": "images", "val": "images"}
    path.write_text(yaml.safe_dump({"kpt_shape": [2, 3], "names": ["person"], **split, **changes}))
    return path


def test_both_formats_give_equal_samples(image_path: Path, tmp_path: Path) -> None:
    names = {"kpt_names": list(PAIR.names)}
    source, problems = open_sources([str(coco_file(tmp_path, keypoints=PAIR.names)), str(yolo_file(tmp_path, **names))])
    assert (len(source), problems, source.classes) == (2, [], ("person",))
    assert source.skeleton.names == PAIR.names
    assert source.skeleton.flip_pairs == PAIR.flip_pairs
    assert_equal(source[0], source[1])
    with pytest.raises(IndexError, match="sample 2 of 2"):
        source[2]


@given(st.data())
def test_yolo_and_coco_agree_on_any_people(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Coordinates in 64ths are exact in both formats."""
    part = st.integers(0, 64).map(lambda n: n / 64)
    people = data.draw(st.lists(st.tuples(*[part] * 8, st.integers(1, 2)), min_size=1, max_size=4))
    folder = tmp_path_factory.mktemp("both")
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "a.png"), np.zeros((20, 40, 3), np.uint8))
    yolo_file(folder)
    rows = [[0, *row[:4], *row[4:6], row[8], *row[6:8], 0] for row in people]
    rows.append([0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 2, 0, 0, 0])
    (folder / "labels" / "a.txt").write_text("\n".join(" ".join(map(str, row)) for row in rows))
    annotations = []
    for number, (_, x, y, w, h, kx, ky, v, *_rest) in enumerate(rows, 1):
        box = [40 * (x - w / 2), 20 * (y - h / 2), 40 * w, 20 * h]
        entry = {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": AREA_OF_BOX * box[2] * box[3]}
        annotations.append({**entry, "area": entry["area"] or 1, "keypoints": [40 * kx, 20 * ky, v, 7, 7, 0]})
    document = json.loads(coco_file(folder).read_text())
    (folder / "labels.json").write_text(json.dumps({**document, "annotations": annotations}))
    source, problems = open_sources([str(folder / "labels.json"), str(folder / "data.yaml")])
    assert_equal(source[0], source[1])
    assert problems[: len(problems) // 2] == problems[len(problems) // 2 :]


def test_keypoint_names_are_compared_in_a_plain_form(image_path: Path, tmp_path: Path) -> None:
    spelled = str(yolo_file(tmp_path, kpt_names=["Left ear", "right-ear"]))
    assert open_sources([str(coco_file(tmp_path, keypoints=PAIR.names)), spelled]).source.skeleton.flip_pairs == (
        (0, 1),
    )


def test_skeleton_of_labels(image_path: Path, tmp_path: Path) -> None:
    labels = str(coco_file(tmp_path))
    assert open_labels(labels).skeleton.names == ("keypoint_0", "keypoint_1")
    assert open_labels(labels, skeleton=PAIR).skeleton is PAIR
    assert open_labels(str(yolo_file(tmp_path, flip_idx=[1, 0])), skeleton=PAIR).skeleton is PAIR
    with pytest.raises(DataError, match="2 keypoints a person, but skeleton 'lsp-14' has 14"):
        open_labels(labels, skeleton=LSP_14)
    with pytest.raises(DataError, match="2 keypoints a person, but skeleton 'lsp-14' has 14"):
        open_labels(str(yolo_file(tmp_path)), skeleton=LSP_14)


def test_folder_of_the_images(image_path: Path, tmp_path: Path) -> None:
    labels = str(coco_file(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    moved = other / "a.png"
    moved.write_bytes(image_path.read_bytes())
    for spec, images, expected in (
        (labels, None, image_path),
        (labels, other, moved),
        (f"{labels}:{other}", None, moved),
        (f"{labels}:{other}", image_path.parent, moved),
        (str(coco_file(other)), None, moved),
    ):
        assert open_labels(spec, images).dataset.images[1].path == expected
    with pytest.raises(DataError, match="1 of 1 images are missing"):
        open_labels(f"{labels}:{tmp_path / 'none'}")


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        path = coco_file(folder)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))
        return str(path)

    return make


def _annotation(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], str]:
    return _edited(lambda document: change(document["annotations"][0]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_edited(lambda d: d.update(images=[], annotations=[], categories=[])), "no category with keypoints"),
        (_edited(lambda d: d.update(images=[], annotations=[], categories=[NAMED])), "no images"),
        (_edited(lambda d: d["annotations"].append(d["annotations"][0])), "id 1 is used twice"),
        (_annotation(lambda a: a.pop("keypoints")), "no category with keypoints"),
        (_annotation(lambda a: a["keypoints"].__setitem__(0, float("nan"))), "keypoints that are not finite"),
        (_annotation(lambda a: a.update(bbox=[90, 4, 20, 10])), "nobody in 1 images has a labeled keypoint"),
        (_annotation(lambda a: a.update(bbox=[float("nan"), 4, 20, 10])), "bbox must be finite"),
        (lambda folder: str(folder / "none.json"), "no such file"),
        (lambda folder: str(folder / "none.yaml"), "cannot be read"),
        (lambda folder: str(folder), "cannot be read"),
    ],
)
def test_rejects_bad_labels(image_path: Path, tmp_path: Path, make: Callable[[Path], str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_sources([make(tmp_path)])


# Synthetic scenes and mixtures


def test_synthetic_scenes_preloaded_or_drawn_at_each_access() -> None:
    scenes = SyntheticScenes(5, (64, 48), seed=3, skeleton=LSP_14)
    source, loaded = SyntheticSource(scenes), SyntheticSource(scenes)
    loaded.preload(processes=2)
    loaded.preload()
    assert (len(source), source.skeleton, source.classes) == (5, LSP_14, ("person",))
    for index in range(5):
        assert_equal(source[index], loaded[index])
        assert len(source[index]) == len(scenes[index].people)
    assert not loaded[0].image.flags.writeable
    assert source[1].name == "synthetic:5:3[1]"


def test_synthetic_scenes_take_the_skeleton_of_the_labels(image_path: Path, tmp_path: Path) -> None:
    labels = coco_file(tmp_path, keypoints=["left_ear", "right_ear"])
    source, _ = open_sources(["synthetic:3", str(labels), "synthetic:2:9"], size_wh=(64, 48))
    assert len(source) == 6
    assert source.skeleton.names == PAIR.names
    assert [source[i].name.split("[")[0] for i in (0, 2, 4, 5)] == ["synthetic:3:0"] * 2 + ["synthetic:2:9"] * 2
    assert source[3].name == str(image_path)
    assert open_sources(["synthetic:1"]).source.skeleton is COCO_17
    assert open_sources(["synthetic:1"], skeleton=LSP_14).source.skeleton is LSP_14


@pytest.mark.parametrize(
    "spec", ["synthetic:", "synthetic:0", "synthetic:x", "synthetic:1:2:3", "synthetic:-1", "synthetic:1:"]
)
def test_rejects_wrong_synthetic_specs(spec: str) -> None:
    with pytest.raises(UsageError, match="expected synthetic:COUNT"):
        open_sources([spec])


def test_rejects_no_data() -> None:
    with pytest.raises(UsageError, match="no data"):
        open_sources([])
    with pytest.raises(ValueError, match="a name for each"):
        Mixed([], [])


def test_rejects_mixtures_of_different_sources(image_path: Path) -> None:
    scenes = SyntheticSource(SyntheticScenes(1, (64, 48)))
    leeds = SyntheticSource(SyntheticScenes(1, (64, 48), skeleton=LSP_14))
    with pytest.raises(DataError, match="b has the keypoints of skeleton 'lsp-14', a those of 'coco-17'"):
        Mixed([scenes, leeds], ["a", "b"])
    labels = dataset(image_path, person(1, (5, 5, 10, 10)))
    riders = LabeledImages(
        CocoKeypoints(Path("l"), labels.images, labels.people, (CocoCategory(1, "rider"),), 2, None), PAIR
    )
    with pytest.raises(DataError, match=r"b has classes \['rider'\], a has \['person'\]"):
        Mixed([LabeledImages(labels, PAIR), riders], ["a", "b"])


def test_real_data(data_dir: Path, tmp_path: Path) -> None:
    coco, leeds = data_dir / "coco-mini" / "person_keypoints.json", data_dir / "lspet" / "val.json"
    mixed, problems = open_sources([f"{leeds}", "synthetic:2"], size_wh=(64, 64), max_side=128)
    assert (len(mixed), mixed.skeleton, problems) == (495, LSP_14, [])
    assert max(mixed[0].image.shape) <= 128
    source, problems = open_sources([str(coco)])
    assert (len(source), source.skeleton, problems) == (125, COCO_17, [])
    samples = [source[i] for i in range(len(source))]
    assert sum(len(sample) for sample in samples) == 290
    assert sum(int(sample.crowd.sum()) for sample in samples) == 6
    source.preload()
    assert_equal(source[7], samples[7])


def test_real_data_as_yolo(data_dir: Path, tmp_path: Path) -> None:
    labels = read_coco(data_dir / "lspet" / "val.json", data_dir / "lspet" / "images")
    (tmp_path / "labels").mkdir()
    (tmp_path / "images").symlink_to(data_dir / "lspet" / "images")
    for image in labels.images.values():
        size, rows = np.array(image.size_wh), []
        for one in labels.people[image.id]:
            x, y, w, h = one.bbox_xywh
            points = np.hstack([one.keypoints[:, :2] / size, one.keypoints[:, 2:]])
            box = [(x + w / 2) / size[0], (y + h / 2) / size[1], w / size[0], h / size[1]]
            rows.append(" ".join(str(float(value)) for value in (0, *box, *points.reshape(-1))))
        (tmp_path / "labels" / f"{image.path.stem}.txt").write_text("\n".join(rows))
    (tmp_path / "val.txt").write_text("\n".join(f"images/{image.path.name}" for image in labels.images.values()))
    flip = list(LSP_14.flip_index)
    (tmp_path / "d.yaml").write_text(
        yaml.safe_dump({"val": "val.txt", "kpt_shape": [14, 3], "flip_idx": flip, "names": ["person"]})
    )
    yolo = LabeledImages(read_yolo(tmp_path / "d.yaml", "val"), LSP_14)
    coco = LabeledImages(labels, LSP_14)
    by_name = {Path(coco[i].name).name: coco[i] for i in range(0, len(coco), 25)}
    found = [yolo[i] for i in range(len(yolo)) if Path(yolo._images[i].path).name in by_name]
    assert len(found) == len(by_name) == 20
    for sample in found:
        same = by_name[Path(sample.name).name]
        np.testing.assert_array_equal(sample.image, same.image)
        np.testing.assert_allclose(sample.boxes, same.boxes, atol=1e-3)
        np.testing.assert_allclose(sample.keypoints, same.keypoints, atol=1e-3)
