"""Average precision equals that of pycocotools, and of cases computed by hand; similarities of people."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.data.coco import CocoKeypoints, read_coco
from yolopose.data.synthetic import SyntheticScenes
from yolopose.evaluation import KeypointAP, evaluate, iou_matrix, oks_matrix, oks_to_reference
from yolopose.runtime.errors import BackendUnavailable, DataError
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

pytest.importorskip("pycocotools")


def result(keypoints: np.ndarray, scores: np.ndarray | None = None) -> PoseResult:
    """People at keypoints (P, K, 2)."""
    count = len(keypoints)
    scores = np.linspace(0.9, 0.5, count) if scores is None else scores
    boxes = np.concatenate([keypoints.min(1), keypoints.max(1)], axis=1) if count else np.zeros((0, 4))
    return PoseResult(boxes, scores, np.zeros(count), keypoints, np.ones(keypoints.shape[:2]))


def jittered(dataset: CocoKeypoints, seed: int, crowd: int = 0) -> dict[int, PoseResult]:
    """The labels with noise: some people missing, some false positives, ties among the scores."""
    random = np.random.default_rng(seed)
    results = {}
    for image_id, people in dataset.people.items():
        found = []
        for person in people:
            if random.random() < 0.85:
                spread = random.choice([0.0, 0.02, 0.06]) * np.sqrt(person.area)
                found.append(person.keypoints[:, :2] + random.normal(0, spread + 1e-6, (dataset.num_keypoints, 2)))
        size = dataset.images[image_id].size_wh
        for _ in range(random.integers(0, 3) + crowd):
            found.append(random.uniform(0, size, (dataset.num_keypoints, 2)))
        points = np.array(found).reshape(len(found), dataset.num_keypoints, 2)
        results[image_id] = result(points, np.sort(np.round(random.random(len(found)), 1))[::-1])
    return results


def plain_pycocotools(
    path: Path, results: dict[int, PoseResult], sigmas: Any = None, image_ids: Any = None
) -> np.ndarray:
    """COCOeval as its demo calls it: labels from the file, results as in a submission."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = [
        {
            "image_id": image_id,
            "category_id": 1,
            "score": float(score),
            "keypoints": np.c_[points, np.ones(len(points))].astype(float).ravel().tolist(),
        }
        for image_id, people in results.items()
        for score, points in zip(people.scores, people.keypoints, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        run = COCOeval(truth, truth.loadRes(rows), "keypoints")
        if sigmas is not None:
            run.params.kpt_oks_sigmas = np.array(sigmas)
        if image_ids is not None:
            run.params.imgIds = list(image_ids)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return np.asarray(run.stats)


def figures(ap: KeypointAP) -> list[float | None]:
    return [ap.ap, ap.ap50, ap.ap75, ap.ap_m, ap.ap_l, ap.ar]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("crowd", [0, 25])
def test_equals_pycocotools_on_coco(data_dir: Path, seed: int, crowd: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = data_dir / "coco-mini" / "person_keypoints.json"
    dataset = read_coco(path, data_dir / "coco-mini" / "images", COCO_17)
    results = jittered(dataset, seed, crowd)
    everywhere = evaluate(results, dataset, COCO_17)
    assert figures(everywhere) == plain_pycocotools(path, results)[:6].tolist()
    assert (everywhere.images, everywhere.people, everywhere.convention) == (125, 154, "all")
    with_people = evaluate(results, dataset, COCO_17, images="with-people")
    assert figures(with_people) == plain_pycocotools(path, results, image_ids=dataset.ids_with_people)[:6].tolist()
    assert (with_people.images, with_people.people, with_people.convention) == (60, 154, "with-people")
    assert everywhere.ap is not None
    assert with_people.ap is not None
    assert 0.05 < everywhere.ap < with_people.ap < 0.95
    assert capsys.readouterr().out == ""


def test_equals_pycocotools_on_leeds(data_dir: Path) -> None:
    path = data_dir / "lspet" / "val.json"
    dataset = read_coco(path, data_dir / "lspet" / "images", LSP_14)
    results = jittered(dataset, 3)
    assert figures(evaluate(results, dataset, LSP_14)) == plain_pycocotools(path, results, LSP_14.sigmas)[:6].tolist()
    some = list(dataset.images)[::7]
    chosen = evaluate(results, dataset, LSP_14, image_ids=some)
    assert figures(chosen) == plain_pycocotools(path, results, LSP_14.sigmas, some)[:6].tolist()
    assert chosen.images == len(some)


def test_equals_pycocotools_on_synthetic_scenes(tmp_path: Path) -> None:
    path = SyntheticScenes(12, size_wh=(160, 160), seed=8).save_coco(tmp_path)
    dataset = read_coco(path, tmp_path / "images", COCO_17)
    results = jittered(dataset, 4)
    found = [-1.0 if value is None else value for value in figures(evaluate(results, dataset, COCO_17))]
    assert found == plain_pycocotools(path, results)[:6].tolist()


def small_set(folder: Path, annotations: list[dict[str, Any]], skeleton: Skeleton, images: int = 1) -> CocoKeypoints:
    for number in range(images):
        (folder / f"{number}.png").touch()
    document = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "width": 100, "height": 100} for number in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(skeleton.names), "skeleton": []}],
    }
    (folder / "labels.json").write_text(json.dumps(document))
    return read_coco(folder / "labels.json", folder, skeleton)


POINT = Skeleton("point", ("middle",), (), (), (0.1,))


def person(number: int, x: float, image_id: int = 0, area: float = 2500.0, v: int = 2) -> dict[str, Any]:
    keypoints = [x, 50, v] if v else [0, 0, 0]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x - 25, 25, 50, 50],
        "area": area,
        "keypoints": keypoints,
    }


def at(*xs: float) -> PoseResult:
    return result(np.array([[[x, 50.0]] for x in xs]).reshape(len(xs), 1, 2))


def test_ap_by_hand(tmp_path: Path) -> None:
    """sigma .1, area 50^2: OKS = exp(-d^2 / (2 (2 x .1)^2 50^2)) = exp(-d^2 / 200). At 8.2 px it is .714, so the person
    is found at 5 of 10 thresholds, .50 to .70. Annotation 0 is found too, although COCOeval takes id 0 for no match."""
    dataset = small_set(tmp_path, [person(0, 50.0)], POINT)
    assert oks_matrix(np.array([[[58.2, 50.0]]]), np.array([[[50.0, 50.0, 2]]]), np.array([2500.0]), (0.1,))[
        0, 0
    ] == pytest.approx(np.exp(-(8.2**2) / 200))
    ap = evaluate({0: at(58.2)}, dataset, POINT)
    assert figures(ap) == pytest.approx([0.5, 1.0, 0.0, 0.5, None, 0.5])
    assert evaluate({0: at(50.0)}, dataset, POINT).ap == pytest.approx(1.0)
    second_best = evaluate({0: at(90.0, 50.0)}, dataset, POINT)  # a false positive first: precision 1/2 at every recall
    assert second_best.ap == pytest.approx(0.5)
    assert second_best.ar == pytest.approx(1.0)


def test_ap_of_one_found_of_two(tmp_path: Path) -> None:
    dataset = small_set(tmp_path, [person(1, 20.0), person(2, 80.0)], POINT)
    ap = evaluate({0: at(20.0)}, dataset, POINT)
    assert ap.ar == pytest.approx(0.5)
    assert ap.ap == pytest.approx(51 / 101)  # precision 1 at the recalls 0, .01 ... .50 of 101


def test_people_beyond_the_twentieth_do_not_count(tmp_path: Path) -> None:
    dataset = small_set(tmp_path, [person(1, 50.0)], POINT)
    false_positives = [5.0] * 19
    assert evaluate({0: at(*false_positives, 50.0)}, dataset, POINT).ap50 == pytest.approx(1 / 20)
    assert evaluate({0: at(*false_positives, 5.0, 50.0)}, dataset, POINT).ap50 == 0.0


def test_ap_of_empty_results(tmp_path: Path) -> None:
    dataset = small_set(tmp_path, [person(1, 50.0), person(2, 0.0, image_id=1, v=0)], POINT, images=3)
    nobody = {image_id: PoseResult.empty(1) for image_id in range(3)}
    ap = evaluate(nobody, dataset, POINT)
    assert figures(ap) == [0.0, 0.0, 0.0, 0.0, None, 0.0]
    assert ap.people == 1
    undefined = evaluate(nobody, dataset, POINT, image_ids=[1, 2])
    assert figures(undefined) == [None] * 6
    assert undefined.to_dict() == {
        "ap": None,
        "ap50": None,
        "ap75": None,
        "ap_m": None,
        "ap_l": None,
        "ar": None,
        "images": 2,
        "people": 0,
        "convention": "all",
    }
    assert evaluate(nobody, dataset, POINT, image_ids=[1], images="with-people").images == 0


def test_false_positives_in_empty_images_count_by_convention(tmp_path: Path) -> None:
    dataset = small_set(tmp_path, [person(1, 50.0)], POINT, images=2)
    found = PoseResult(np.zeros((1, 4)), [0.4], [0], [[[50.0, 50.0]]], [[1.0]])
    results = {0: found, 1: at(30.0)}
    assert evaluate(results, dataset, POINT).ap == pytest.approx(0.5)
    assert evaluate(results, dataset, POINT, images="with-people").ap == pytest.approx(1.0)


def test_rejects_wrong_input(tmp_path: Path) -> None:
    dataset = small_set(tmp_path, [person(1, 50.0)], POINT, images=2)
    good = {0: at(50.0), 1: at()}
    nan = PoseResult(np.zeros((1, 4)), [0.5], [0], [[[np.nan, 0.0]]], [[1.0]])
    labels = PoseResult(np.zeros((1, 4)), [0.5], [1], [[[1.0, 0.0]]], [[1.0]])
    for results, options, message in (
        ({0: at(50.0)}, {}, "no result for 1 of 2 images, first id 1"),
        ({**good, 5: at()}, {}, "results for 1 images that the data set does not have, first id 5"),
        ({**good, 0: PoseResult.empty(17)}, {}, "image 0: 17 keypoints per person"),
        ({**good, 0: nan}, {}, "image 0: keypoints or scores that are not finite"),
        (good, {"image_ids": [0, 9]}, "image_ids: 1 ids .* first 9"),
        (good, {"images": "some"}, "images must be"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(results, dataset, POINT, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"image 0: the network found classes \[1\], but .* has only \['person'\]"):
        evaluate({**good, 0: labels}, dataset, POINT)
    with pytest.raises(DataError, match="skeleton 'coco-17' has 17"):
        evaluate(good, dataset, COCO_17)


def test_missing_pycocotools_is_backend_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = small_set(tmp_path, [person(1, 50.0)], POINT)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "yolopose\[bench\]"'):
        evaluate({0: at(50.0)}, dataset, POINT)


@given(st.integers(0, 10**6), st.integers(0, 4), st.integers(0, 4))
def test_oks_matrix_equals_cocoeval(seed: int, found: int, labeled: int) -> None:
    random = np.random.default_rng(seed)
    keypoints = random.uniform(0, 100, (found, 17, 2))
    labels = np.concatenate([random.uniform(0, 100, (labeled, 17, 2)), random.integers(0, 3, (labeled, 17, 1))], axis=2)
    labels[:, 0, 2] = 2
    areas = random.uniform(10, 9000, labeled)
    matrix = oks_matrix(keypoints, labels, areas, COCO_17.sigmas)
    assert matrix.shape == (found, labeled)
    if found and labeled:
        np.testing.assert_allclose(matrix, _cocoeval_oks(keypoints, labels, areas), rtol=1e-12)
        assert (oks_matrix(labels[:, :, :2], labels, areas, COCO_17.sigmas).diagonal() == 1).all()


def _cocoeval_oks(keypoints: np.ndarray, labels: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """(P, Q) by ``COCOeval.computeOks``."""
    from pycocotools.cocoeval import COCOeval

    run = COCOeval(iouType="keypoints")
    run._gts[0, 1] = [
        {"keypoints": label.ravel().tolist(), "bbox": [0, 0, 1, 1], "area": area}
        for label, area in zip(labels, areas, strict=True)
    ]
    run._dts[0, 1] = [
        {"keypoints": np.c_[points, np.ones(17)].ravel().tolist(), "score": -float(row)}
        for row, points in enumerate(keypoints)
    ]
    return np.asarray(run.computeOks(0, 1))


def test_oks_matrix_without_labeled_keypoints_and_wrong_shapes() -> None:
    assert np.isnan(oks_matrix(np.zeros((1, 1, 2)), np.zeros((1, 1, 3)), np.ones(1), (0.1,))).all()
    with pytest.raises(ValueError, match="expected keypoints"):
        oks_matrix(np.zeros((1, 2, 2)), np.zeros((1, 1, 3)), np.ones(1), (0.1,))
    with pytest.raises(ValueError, match="expected areas"):
        oks_matrix(np.zeros((1, 1, 2)), np.zeros((1, 1, 3)), np.ones(2), (0.1,))


def test_oks_to_reference_by_hand() -> None:
    """Keypoints 8 px off, box 50 x 50: exp(-8^2 / (2 (2 x .1)^2 x .53 x 50^2)); a box without area counts as 1 px^2."""
    reference = PoseResult([[0, 0, 50, 50], [9, 9, 9, 9]], [0.9, 0.8], [0, 0], [[[20.0, 20.0]]] * 2, [[1.0]] * 2)
    people = PoseResult([[0, 0, 50, 50]], [0.9], [0], [[[28.0, 20.0]]], [[1.0]])
    matrix = oks_to_reference(people, reference, POINT)
    assert matrix == pytest.approx(np.exp([[-64 / (0.08 * 0.53 * 2500), -64 / (0.08 * 0.53)]]))
    assert oks_to_reference(reference, reference, POINT).tolist() == [[1, 1], [1, 1]]


def test_iou_matrix_by_hand() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]], np.float32)
    assert iou_matrix(boxes[:2], boxes).tolist() == [[1, pytest.approx(1 / 3), 0], [pytest.approx(1 / 3), 1, 0]]
    assert iou_matrix(boxes[2:], boxes[2:]).tolist() == [[0]]
