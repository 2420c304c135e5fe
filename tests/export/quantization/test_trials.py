"""Poses before and after, the search that keeps as few layers as a budget allows, and its journal."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from yolopose.data.image_set import ImageSet
from yolopose.export.graph import feed
from yolopose.export.int8.build import picture, share_out, write_sensitivity
from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import Plan, tensors_to_sample
from yolopose.export.int8.ranges import collect
from yolopose.export.int8.search import Found, Journal, rank, search, shortfall, within
from yolopose.export.int8.trials import Change, Trial, change, pose_loss, signed
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import COCO_17

from .graphs import SIZE, pictures, small_graph, small_plan


def people(count: int, seed: int = 0) -> PoseResult:
    rng = np.random.default_rng(seed)
    corners = np.arange(count)[:, None] * 300 + rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([corners, corners + 200], axis=1).astype(np.float32)
    keypoints = (corners[:, None] + rng.uniform(0, 200, (count, 17, 2))).astype(np.float32)
    scores = np.sort(rng.uniform(0.2, 0.9, count))[::-1].astype(np.float32)
    return PoseResult(
        boxes=boxes,
        scores=scores,
        labels=np.zeros(count, np.int32),
        keypoints=keypoints,
        keypoint_scores=np.full((count, 17), 0.8, np.float32),
    )


def moved(result: PoseResult, px: float) -> PoseResult:
    return replace(result, keypoints=result.keypoints + np.float32(px))


def test_the_same_people_lose_nothing_and_a_candidate_more_changes_nothing() -> None:
    before = people(3)
    nothing = change(before, before, COCO_17)
    assert pose_loss([before], [nothing]) == pytest.approx(0, abs=1e-9)
    assert not nothing.keypoints.any()
    more = before[[2, 0, 1, 0]]
    assert pose_loss([before], [change(before, more, COCO_17)]) == pytest.approx(0, abs=1e-9)


def test_pose_loss_rises_with_the_distance_and_is_one_where_nobody_is_found() -> None:
    before = people(3)
    losses = [pose_loss([before], [change(before, moved(before, px), COCO_17)]) for px in (1, 3, 9)]
    assert 0 < losses[0] < losses[1] < losses[2] < 1
    for found in (people(0), replace(before, boxes=before.boxes + 5000)):
        assert pose_loss([before], [change(before, found, COCO_17)]) == pytest.approx(1)
    assert pose_loss([people(0)], [change(people(0), before, COCO_17)]) == 0


def test_signed_changes_are_the_change_or_its_mirror_image() -> None:
    before = people(4)
    step = change(before, moved(before, 3), COCO_17)
    step = replace(step, scores=np.full(4, 0.01))
    seen = set()
    for seed in range(20):
        drawn = signed(before, step, np.random.default_rng(seed))
        assert (np.diff(drawn.scores) <= 0).all()
        for keypoints, score in zip(drawn.keypoints, drawn.scores, strict=True):
            steps = (keypoints - before.keypoints).mean((1, 2))
            sign = 1 if np.isclose(steps, 3, atol=1e-3).any() else -1
            row = int(np.abs(steps - 3 * sign).argmin())
            assert steps[row] == pytest.approx(3 * sign, abs=1e-3)
            assert score == pytest.approx(before.scores[row] + sign * 0.01, abs=1e-6)
            seen.add(sign)
    assert seen == {1, -1}


def test_who_is_lost_stays_lost_whatever_the_sign() -> None:
    before = people(2)
    gone = change(before, people(0), COCO_17)
    assert signed(before, gone, np.random.default_rng(0)).scores.tolist() == [0, 0]


class FakeTrials:
    """Losses by the layers that are int8: what the search does, without networks."""

    def __init__(self, weights: dict[str, float], labelled: bool = True) -> None:
        self.weights, self.labelled, self.asked = weights, labelled, 0

    def _sum(self, model: object) -> float:
        names = {node.name for node in model.graph.node if node.input[1:2] and node.input[1].endswith("weight_rounded")}  # type: ignore[attr-defined]
        return sum(weight for name, weight in self.weights.items() if name in names)

    def loss(self, model: object, count: int) -> float:
        self.asked += 1
        return self._sum(model)

    def run(self, model: object) -> Trial:
        self.asked += 1
        total = self._sum(model)
        return Trial(total / 100, total, 0.1) if self.labelled else Trial(total / 100)


WEIGHTS = {"stem": 0.1, "inner": 0.6, "depthwise": 0.2, "last": 0.05}


@pytest.fixture(scope="module")
def plan() -> Plan:
    return small_plan("cpu")


def progress(items: Iterable[int], total: int, label: str) -> Iterable[int]:
    return items


def searched(plan: Plan, trials: FakeTrials, budget: float, journal: Path, deadline: float | None = None) -> Found:
    notes = Journal(journal, "key")
    model = small_graph()
    ranking = rank(plan, model, trials, notes, progress)  # type: ignore[arg-type]
    until = time.monotonic() + 60 if deadline is None else deadline
    return search(plan, model, trials, ranking, list(ranking), budget, notes, lambda text: None, until)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [(1.0, set()), (0.5, {"inner"}), (0.2, {"inner", "depthwise"}), (0.05, {"inner", "depthwise", "stem"})],
)
def test_the_fewest_layers_are_kept_that_the_budget_allows(
    plan: Plan, tmp_path: Path, budget: float, kept: set[str]
) -> None:
    found = searched(plan, FakeTrials(WEIGHTS), budget, tmp_path / "journal.json")
    assert found.met
    assert found.plan.kept == kept
    assert shortfall(found, budget) == ""
    assert list(found.ranking) == ["inner", "depthwise", "stem", "last"]


def test_an_impossible_budget_is_said_with_its_shortfall(plan: Plan, tmp_path: Path) -> None:
    found = searched(plan, FakeTrials(WEIGHTS), 0.01, tmp_path / "journal.json")
    assert not found.met
    assert len(found.plan.kept) == 3
    assert "0.05 points of keypoint AP lost where 0.01 may be, with 3 layers kept" in shortfall(found, 0.01)


def test_without_labels_the_mean_oks_decides(plan: Plan, tmp_path: Path) -> None:
    found = searched(plan, FakeTrials({**WEIGHTS, "inner": 2.0}, labelled=False), 0.5, tmp_path / "journal.json")
    assert found.plan.kept == {"inner"}
    assert within(Trial(0.009), 0)
    assert not within(Trial(0.011), 100)


def test_an_interrupted_search_goes_on_where_it_was(plan: Plan, tmp_path: Path) -> None:
    journal = tmp_path / "journal.json"

    class Interrupted(FakeTrials):
        def loss(self, model: object, count: int) -> float:
            if self.asked == 3:
                raise KeyboardInterrupt
            return super().loss(model, count)

    with pytest.raises(KeyboardInterrupt):
        searched(plan, Interrupted(WEIGHTS), 0.5, journal)
    rest, whole = FakeTrials(WEIGHTS), FakeTrials(WEIGHTS)
    found = searched(plan, rest, 0.5, journal)
    assert found == searched(plan, whole, 0.5, tmp_path / "another.json")
    assert whole.asked - rest.asked == 3


def test_a_journal_of_something_else_is_left_out(tmp_path: Path) -> None:
    journal = tmp_path / "journal.json"
    Journal(journal, "one").ask("answer", lambda: 1)
    assert Journal(journal, "one").ask("answer", lambda: 2) == 1
    assert Journal(journal, "other").ask("answer", lambda: 2) == 2
    journal.write_text("{", encoding="utf-8")
    assert Journal(journal, "one").ask("answer", lambda: 3) == 3


def test_when_the_time_is_up_the_search_says_so(plan: Plan, tmp_path: Path) -> None:
    found = searched(plan, FakeTrials(WEIGHTS), 0.05, tmp_path / "journal.json", deadline=time.monotonic() - 1)
    assert not found.met
    assert not found.finished
    assert "--search-minutes" in shortfall(found, 0.05)


def images(count: int, source: str = "photographs") -> ImageSet:
    return ImageSet(source, tuple(str(i) for i in range(count)), lambda i: np.full((2, 2, 3), i % 256, np.uint8))


@pytest.mark.parametrize("count", [48, 100, 493, 2000])
def test_no_image_serves_two_purposes(count: int) -> None:
    shares = share_out(images(count), None, seed=0)
    parts = [shares.calibration, shares.search, shares.report]
    names = [name for part in parts for name in part.names]
    assert len(set(names)) == len(names) == count
    assert min(map(len, parts)) >= 16
    assert [part.read(3)[0, 0, 0] for part in parts] == [int(part.names[3]) % 256 for part in parts]
    assert share_out(images(count), None, seed=0).search.names == shares.search.names


def test_too_few_images_are_refused_with_the_number_needed() -> None:
    with pytest.raises(ValueError, match=r"at least 16 images to calibrate on.*48 in all.*photographs has 40"):
        share_out(images(40), None, seed=0)
    with pytest.raises(ValueError, match=r"calibrate on.*few 5"):
        share_out(images(100), images(5, "few"), seed=0)
    shares = share_out(images(40), images(20, "others"), seed=0)
    assert [len(part) for part in (shares.calibration, shares.search, shares.report)] == [20, 20, 20]


def test_changes_of_nobody_are_empty() -> None:
    empty = change(people(0), people(0), COCO_17)
    assert isinstance(empty, Change)
    assert len(signed(people(0), empty, np.random.default_rng(0))) == 0


def test_layers_that_time_leaves_unranked_are_missing_and_nothing_is_kept_blindly(plan: Plan, tmp_path: Path) -> None:
    notes, model, past = Journal(tmp_path / "journal.json", "key"), small_graph(), time.monotonic() - 1
    trials = FakeTrials(WEIGHTS)
    ranking = rank(plan, model, trials, notes, progress, past)  # type: ignore[arg-type]
    assert ranking == {}
    generous = search(plan, model, trials, ranking, list(ranking), 1.0, notes, lambda text: None, past)  # type: ignore[arg-type]
    assert (generous.met, generous.finished, generous.plan.kept) == (True, True, set())
    narrow = search(plan, model, trials, ranking, list(ranking), 0.5, notes, lambda text: None, past)  # type: ignore[arg-type]
    assert (narrow.met, narrow.finished, list(narrow.trials)) == (False, False, [0])
    picture(narrow)
    write_sensitivity(tmp_path / "ranking.json", narrow)
    document = json.loads((tmp_path / "ranking.json").read_text(encoding="utf-8"))
    assert [layer["pose_loss_alone"] for layer in document["layers"]] == [None] * 4


def test_an_image_to_calibrate_and_to_judge_is_refused(tmp_path: Path) -> None:
    files = tuple(tmp_path / f"{i}.jpg" for i in range(60))
    every = replace(images(60), paths=files)
    others = replace(
        images(20, "others"), paths=(*(tmp_path / f"o{i}.jpg" for i in range(19)), tmp_path / "x/../7.jpg")
    )
    with pytest.raises(ValueError, match=r"7\.jpg \(1 in all\) is to calibrate int8 and to judge it"):
        share_out(every, others, seed=0)


def test_a_fixed_batch_is_filled_with_images_and_gives_the_same_samples() -> None:
    model = small_graph()
    tensors = tensors_to_sample(find_body(model), "cpu")
    one, two = (collect(model, tensors, pictures(5), rows=rows) for rows in (1, 2))
    for name in tensors:
        assert (one[name].low, one[name].high) == pytest.approx((two[name].low, two[name].high), abs=1e-5)
        assert one[name].rows.shape == two[name].rows.shape
    assert [frame.shape for frame in feed(pictures(3), rows=4).values()] == [(4, SIZE, SIZE, 3), (4, 1), (4, 1)]


def test_answers_of_the_journal_count_when_the_time_is_up(plan: Plan, tmp_path: Path) -> None:
    """An earlier search with a narrower budget, and no time now: what was measured is enough."""
    journal = tmp_path / "journal.json"
    assert searched(plan, FakeTrials(WEIGHTS), 0.05, journal).met
    trials, notes, past = FakeTrials(WEIGHTS), Journal(journal, "key"), time.monotonic() - 1
    ranking = rank(plan, small_graph(), trials, notes, progress, past)  # type: ignore[arg-type]
    assert len(ranking) == 4
    found = search(plan, small_graph(), trials, ranking, list(ranking), 0.5, notes, lambda text: None, past)  # type: ignore[arg-type]
    assert (found.met, found.plan.kept) == (True, {"inner"})
    assert trials.asked == 0
