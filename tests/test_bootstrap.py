"""AP of matched people equals COCOeval, and the interval equals plain resampling."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.bootstrap import APDifference, ap_difference, match_people
from yolopose.data.coco import CocoCategory, CocoImage, CocoKeypoints, CocoPerson
from yolopose.evaluation import evaluate
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

pytest.importorskip("pycocotools")

TWO = Skeleton("two", ("left", "right"), ((0, 1),), (), (0.1, 0.1))
SIZE = 100.0


def random_people(random: np.random.Generator, image_id: int, categories: int, most: int) -> tuple[CocoPerson, ...]:
    """Some are crowds, some have no keypoints, some keypoints are not labeled."""
    people = []
    for _ in range(random.integers(0, most + 1)):
        visible = random.choice([0, 1, 2], 2) if random.random() < 0.7 else np.zeros(2, np.int64)
        keypoints = np.c_[random.uniform(0, SIZE, (2, 2)), visible]
        people.append(
            CocoPerson(
                id=len(people),
                image_id=image_id,
                category_id=int(random.integers(1, categories + 1)),
                bbox_xywh=(0.0, 0.0, 50.0, 50.0),
                area=float(random.choice([400.0, 2500.0, 10_000.0])),
                keypoints=keypoints,
                num_keypoints=int((visible > 0).sum()),
                is_crowd=bool(random.random() < 0.15),
            )
        )
    return tuple(people)


def data_set(people: dict[int, tuple[CocoPerson, ...]], categories: int = 1) -> CocoKeypoints:
    path = Path("labels.json")
    images = {image_id: CocoImage(image_id, Path(f"{image_id}.png"), (100, 100)) for image_id in people}
    named = tuple(CocoCategory(i + 1, f"person {i + 1}") for i in range(categories))
    return CocoKeypoints(path, images, people, named, 2, TWO.names)


def random_set(seed: int, images: int, categories: int = 1, most: int = 4) -> CocoKeypoints:
    random = np.random.default_rng(seed)
    return data_set({i: random_people(random, i, categories, most) for i in range(images)}, categories)


def found(dataset: CocoKeypoints, seed: int, spread: float = 6.0, ties: bool = True) -> dict[int, PoseResult]:
    """The labels with noise: some people missing, some false positives. ties: scores of one digit."""
    random = np.random.default_rng(seed)
    results = {}
    for image_id, people in dataset.people.items():
        points = [person.keypoints[:, :2] + random.normal(0, spread, (2, 2)) for person in people]
        labels = [person.category_id - 1 for person in people]
        kept = [i for i in range(len(people)) if random.random() < 0.8]
        false_positives = int(random.choice([0, 1, 3, 22], p=[0.4, 0.3, 0.25, 0.05]))
        points = [points[i] for i in kept] + list(random.uniform(0, SIZE, (false_positives, 2, 2)))
        labels = [labels[i] for i in kept] + random.integers(0, len(dataset.categories), false_positives).tolist()
        scores = random.random(len(points))
        order = random.permutation(len(points))
        results[image_id] = PoseResult(
            np.zeros((len(points), 4)),
            np.round(scores, 1) if ties else scores,
            np.array(labels, np.int32)[order] if labels else np.zeros(0, np.int32),
            np.array(points).reshape(-1, 2, 2)[order],
            np.ones((len(points), 2)),
        )
    return results


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 8), categories=st.integers(1, 3))
def test_ap_with_every_image_once_equals_cocoeval(seed: int, images: int, categories: int) -> None:
    dataset = random_set(seed, images, categories)
    results = found(dataset, seed + 1)
    matches = match_people(results, dataset, TWO)
    assert matches.ap() == evaluate(results, dataset, TWO).ap
    some = [image_id for image_id in dataset.images if image_id % 2]
    chosen = match_people(results, dataset, TWO, image_ids=some, images="with-people")
    assert chosen.ap() == evaluate(results, dataset, TWO, image_ids=some, images="with-people").ap


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), images=st.integers(1, 6), categories=st.integers(1, 2))
def test_counts_equal_copies_of_images(seed: int, images: int, categories: int) -> None:
    dataset = random_set(seed, images, categories)
    results = found(dataset, seed + 1, ties=False)
    counts = np.random.default_rng(seed + 2).integers(0, 4, images)
    copies = [image_id for image_id in dataset.images for _ in range(counts[image_id])]
    several = data_set({i: dataset.people[image_id] for i, image_id in enumerate(copies)}, categories)
    for i, people in several.people.items():
        several.people[i] = tuple(_moved(person, i) for person in people)
    expected = evaluate({i: results[image_id] for i, image_id in enumerate(copies)}, several, TWO).ap
    ap = match_people(results, dataset, TWO).ap(counts)
    assert (ap is None) == (expected is None)
    assert ap is None or ap == pytest.approx(expected, abs=1e-12)


def _moved(person: CocoPerson, image_id: int) -> CocoPerson:
    return CocoPerson(**{**vars(person), "image_id": image_id})


def difference(dataset: CocoKeypoints, a: dict[int, PoseResult], b: dict[int, PoseResult]) -> APDifference:
    answer = ap_difference(match_people(a, dataset, TWO), match_people(b, dataset, TWO))
    assert answer is not None
    return answer


def test_difference_of_equal_results_is_0() -> None:
    dataset = random_set(3, 30)
    results = found(dataset, 4)
    answer = difference(dataset, results, results)
    assert (answer.difference, answer.interval, answer.worst_image) == (0.0, (0.0, 0.0), None)
    assert answer.before == answer.after == evaluate(results, dataset, TWO).ap


def test_interval_equals_plain_resampling() -> None:
    """The same draws, each scored by ``evaluate`` on a data set with copies of the drawn images."""
    dataset = random_set(5, 12)
    a, b = found(dataset, 6, 3.0, ties=False), found(dataset, 7, 9.0, ties=False)
    random = np.random.default_rng(11)
    differences = []
    for _ in range(40):
        drawn = sorted(random.integers(0, 12, 12).tolist())
        several = data_set({i: dataset.people[image_id] for i, image_id in enumerate(drawn)})
        for i, people in several.people.items():
            several.people[i] = tuple(_moved(person, i) for person in people)
        first, second = (
            evaluate({i: results[image_id] for i, image_id in enumerate(drawn)}, several, TWO).ap for results in (a, b)
        )
        assert first is not None
        assert second is not None
        differences.append(second - first)
    pair = match_people(a, dataset, TWO), match_people(b, dataset, TWO)
    answer = ap_difference(*pair, resamples=40, seed=11)
    assert answer is not None
    assert answer.interval == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert answer.resamples == 40
    assert answer == ap_difference(*pair, resamples=40, seed=11)
    assert answer != ap_difference(*pair, resamples=40, seed=12)


def test_interval_excludes_0_for_a_large_loss_only() -> None:
    dataset = random_set(8, 60)
    fine, coarse = found(dataset, 9, 2.0), found(dataset, 9, 12.0)
    clear = difference(dataset, fine, coarse)
    assert clear.interval is not None
    assert clear.difference < clear.interval[1] < -0.05
    slight = difference(dataset, fine, found(dataset, 9, 2.3))
    assert slight.interval is not None
    assert slight.interval[0] < slight.difference < slight.interval[1]


def person_at(image_id: int, x: float) -> CocoPerson:
    keypoints = np.array([[x, 50.0, 2], [x + 10, 50.0, 2]])
    return CocoPerson(image_id, image_id, 1, (x, 40.0, 20.0, 20.0), 2500.0, keypoints, 2, False)


def at(*xs: float) -> PoseResult:
    points = np.array([[[x, 50.0], [x + 10, 50.0]] for x in xs]).reshape(-1, 2, 2)
    return PoseResult(np.zeros((len(xs), 4)), np.full(len(xs), 0.5), np.zeros(len(xs)), points, np.ones((len(xs), 2)))


def test_worst_image_loses_most_oks_over_its_people() -> None:
    """OKS of a shift d: exp(-d^2 / 200). Two people with small losses can lose more than one with a large loss."""
    dataset = data_set({1: (person_at(1, 20.0), person_at(1, 70.0)), 2: (person_at(2, 50.0),), 5: ()})
    exact = {1: at(20.0, 70.0), 2: at(50.0), 5: at()}
    assert match_people(exact, dataset, TWO).oks.tolist() == [2.0, 1.0, 0.0]
    moved = {1: at(28.0, 78.0), 2: at(60.0), 5: at(30.0)}
    loss = 2 * (1 - np.exp(-64 / 200)), 1 - np.exp(-100 / 200)
    np.testing.assert_allclose(match_people(moved, dataset, TWO).oks, [2 - loss[0], 1 - loss[1], 0])
    assert difference(dataset, exact, moved).worst_image == 1
    assert difference(dataset, exact, {**exact, 2: at()}).worst_image == 2
    assert difference(dataset, moved, exact).worst_image is None  # none loses


def test_difference_is_undefined_without_labeled_people() -> None:
    nobody = data_set({1: (), 2: ()})
    empty = {1: at(), 2: at(20.0)}
    matches = match_people(empty, nobody, TWO)
    assert ap_difference(matches, matches) is None
    none = match_people(empty, nobody, TWO, image_ids=[])
    assert none.ap() is None
    with pytest.raises(ValueError, match="of different images"):
        ap_difference(matches, none)
    single = data_set({1: (person_at(1, 20.0),)})
    answer = difference(single, {1: at(20.0)}, {1: at(28.0)})
    assert answer.interval is None
    assert answer.difference < 0


def test_a_thousand_draws_take_seconds() -> None:
    dataset = random_set(12, 500, most=6)
    pair = [match_people(found(dataset, seed), dataset, TWO) for seed in (13, 14)]
    start = time.process_time()
    ap_difference(*pair)
    assert time.process_time() - start < 30  # measured: under a second
