"""PoseResult and Person: shapes, indexing, names, and conversions that are exact on a round trip."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from yolopose.runtime.draw import draw_people
from yolopose.runtime.errors import BackendUnavailable
from yolopose.runtime.result import CANDIDATES_CUT, NMS_NOT_CONVERGED, Person, PoseResult, flag_names
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton, generic_skeleton

PAIR = Skeleton("pair", ("left_wrist", "right_wrist"), ((0, 1),), ((0, 1),), (0.1, 0.1))
ARRAYS = ("boxes", "scores", "labels", "keypoints", "keypoint_scores", "pose_scores")


def people(count: int, keypoints: int = 2, skeleton: Skeleton | None = None) -> PoseResult:
    return PoseResult(
        boxes=np.arange(count * 4).reshape(count, 4),
        scores=np.linspace(0.9, 0.1, count),
        labels=np.arange(count),
        keypoints=np.arange(count * keypoints * 2).reshape(count, keypoints, 2),
        keypoint_scores=np.full((count, keypoints), 0.5),
        num_candidates=7,
        flags=CANDIDATES_CUT,
        skeleton=skeleton,
    )


def same(a: PoseResult, b: PoseResult, spread: bool = False) -> bool:
    """spread: compare keypoint_spread too, which not all formats hold, and none without people."""
    if spread and len(a) and (a.keypoint_spread is None) != (b.keypoint_spread is None):
        return False
    arrays = ARRAYS if not spread or not len(a) or a.keypoint_spread is None else (*ARRAYS, "keypoint_spread")
    return all(np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True) for name in arrays)


@st.composite
def results(draw: st.DrawFn) -> PoseResult:
    """Any people of any built-in, own or unknown skeleton. Coordinates are finite."""
    skeleton = draw(st.sampled_from([None, COCO_17, LSP_14, PAIR, generic_skeleton(3)]))
    count = draw(st.integers(0, 4))
    num_keypoints = 5 if skeleton is None else skeleton.num_keypoints
    pixels = st.floats(-1e6, 1e6, width=32)
    scores = st.floats(0, 1, width=32)
    return PoseResult(
        boxes=draw(hnp.arrays(np.float32, (count, 4), elements=pixels)),
        scores=draw(hnp.arrays(np.float32, count, elements=scores)),
        labels=draw(hnp.arrays(np.int32, count, elements=st.integers(0, 79))),
        keypoints=draw(hnp.arrays(np.float32, (count, num_keypoints, 2), elements=pixels)),
        keypoint_scores=draw(hnp.arrays(np.float32, (count, num_keypoints), elements=scores)),
        num_candidates=draw(st.integers(0, 9000)),
        flags=draw(st.integers(0, 7)),
        skeleton=skeleton,
        pose_scores=draw(hnp.arrays(np.float32, count, elements=scores)),
        keypoint_spread=draw(st.none() | hnp.arrays(np.float32, (count, num_keypoints), elements=pixels)),
    )


def test_pose_score_without_consensus_is_score_times_keypoint_scores_weighted_by_themselves() -> None:
    points = np.zeros((3, 2, 2))
    some = PoseResult(np.zeros((3, 4)), [0.8, 0.5, 0.4], np.zeros(3), points, [[0.9, 0.3], [0.4, 0.4], [0, 0]])
    np.testing.assert_allclose(some.pose_scores, [0.8 * 0.9 / 1.2, 0.5 * 0.4, 0], rtol=1e-6)
    assert some[1].pose_score == some[[1]].pose_scores[0] == some[0:2].pose_scores[1]
    assert some.keypoint_spread is None
    assert some[0].keypoint_spread is None


def test_spread_goes_with_its_person() -> None:
    some = replace(people(3), keypoint_spread=np.arange(6).reshape(3, 2))
    assert some[2].keypoint_spread.tolist() == [4, 5]
    assert some[[True, False, True]].keypoint_spread.tolist() == [[0, 1], [4, 5]]
    with pytest.raises(ValueError, match=r"keypoint_spread must have shape \(3, 2\)"):
        replace(people(3), keypoint_spread=np.zeros((3, 3)))
    with pytest.raises(ValueError, match=r"pose_scores must have shape \(3,\)"):
        replace(people(3), pose_scores=np.zeros(2))


def test_documents_without_pose_scores_are_read() -> None:
    """Those of version 0.1.0."""
    document = people(2).to_dict(exact=True)
    for person in document["people"]:
        del person["pose_score"]
    assert same(PoseResult.from_dict(document), people(2))


def test_empty_result() -> None:
    nobody = PoseResult.empty(17)
    assert len(nobody) == 0
    assert list(nobody) == []
    assert nobody.boxes.shape == (0, 4)
    assert nobody.keypoints.shape == (0, 17, 2)
    assert nobody.num_keypoints == 17
    assert nobody.to_dict() == {"people": [], "num_candidates": 0, "flags": 0}
    assert PoseResult.empty(2, PAIR).skeleton is PAIR


def test_arrays_have_the_documented_types() -> None:
    some = people(3)
    assert [array.dtype for array in (some.boxes, some.scores, some.keypoints, some.keypoint_scores)] == [
        np.float32
    ] * 4
    assert some.labels.dtype == np.int32


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(0, 0), []),
        ([], []),
        (slice(0, 1), [0]),
        ([-1], [3]),
        (slice(1, 3), [1, 2]),
        ([3, 0], [3, 0]),
        ([True, False, False, True], [0, 3]),
        (np.array([True, False, True, False]), [0, 2]),
        (np.array([2, 1]), [2, 1]),
    ],
)
def test_slices_masks_and_lists_keep_rows_together(index: Any, rows: list[int]) -> None:
    some = people(4, skeleton=PAIR)
    chosen = some[index]
    assert isinstance(chosen, PoseResult)
    assert chosen.labels.tolist() == rows
    assert np.array_equal(chosen.boxes, some.boxes[rows])
    assert np.array_equal(chosen.scores, some.scores[rows])
    assert np.array_equal(chosen.keypoints, some.keypoints[rows])
    assert np.array_equal(chosen.keypoint_scores, some.keypoint_scores[rows])
    assert (chosen.num_candidates, chosen.flags, chosen.skeleton) == (7, CANDIDATES_CUT, PAIR)


@pytest.mark.parametrize(("index", "row"), [(0, 0), (-1, 3), (np.int64(2), 2)])
def test_a_number_gives_the_person_in_that_row(index: int, row: int) -> None:
    some = people(4, skeleton=PAIR)
    person = some[index]
    assert isinstance(person, Person)
    assert person.label == row
    assert np.array_equal(person.box, some.boxes[row])
    assert np.array_equal(person.keypoints, some.keypoints[row])
    assert person.keypoints is not some.keypoints
    assert np.shares_memory(person.keypoints, some.keypoints)  # a view


def test_iteration_gives_every_person() -> None:
    some = people(3, skeleton=PAIR)
    assert [(person.label, person.score) for person in some] == list(zip(range(3), some.scores.tolist(), strict=True))
    for row, person in enumerate(some):
        assert (person.box.shape, person.keypoints.shape, person.keypoint_scores.shape) == ((4,), (2, 2), (2,))
        assert np.array_equal(person.keypoint_scores, some.keypoint_scores[row])
        assert (type(person.score), type(person.label)) == (float, int)
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"person {index} of 3"):
            some[index]


def test_person_gives_keypoints_by_name() -> None:
    (person,) = people(1, skeleton=PAIR)
    assert person["left_wrist"] == (0.0, 1.0, 0.5)
    assert person["right_wrist"] == (2.0, 3.0, 0.5)
    assert all(type(value) is float for value in person["left_wrist"])
    with pytest.raises(KeyError, match="no keypoint 'nose' in pair; it has left_wrist, right_wrist"):
        person["nose"]
    with pytest.raises(TypeError, match="not iterable"):
        list(person)  # type: ignore[call-overload]


def test_name_without_a_skeleton_says_what_to_do() -> None:
    (person,) = people(1)
    with pytest.raises(ValueError, match=r"cannot look up 'nose': the result has no skeleton.*PoseResult\(.*skeleton="):
        person["nose"]


def test_area_is_that_of_the_box() -> None:
    assert Person(np.float32([10, 20, 30, 25]), 0.5, 0, np.zeros((2, 2)), np.zeros(2), 0.5).area == 100.0


def test_repr_is_one_short_line() -> None:
    assert repr(people(2, skeleton=PAIR)) == (
        "PoseResult(2 people, scores 0.900 to 0.100, 2 keypoints of pair, candidates cut)"
    )
    assert repr(people(1, 17)) == "PoseResult(1 person, score 0.900, 17 keypoints, candidates cut)"
    assert repr(PoseResult.empty(17)) == "PoseResult(0 people, 17 keypoints)"
    assert repr(people(2)[1]) == "Person(score=0.100, label=1, box=[4.0, 5.0, 6.0, 7.0], 2 keypoints)"


@pytest.mark.parametrize(
    ("name", "shape"),
    [("boxes", (2, 3)), ("scores", (2, 1)), ("labels", (3,)), ("keypoints", (2, 2, 3)), ("keypoint_scores", (2,))],
)
def test_rejects_arrays_that_do_not_match(name: str, shape: tuple[int, ...]) -> None:
    fields = {each: getattr(people(2), each) for each in ARRAYS}
    with pytest.raises(ValueError, match=name):
        PoseResult(**(fields | {name: np.zeros(shape)}))


def test_rejects_a_skeleton_with_other_keypoints() -> None:
    with pytest.raises(ValueError, match="skeleton lsp-14 has 14 keypoints, people have 2"):
        people(1, skeleton=LSP_14)


def test_draw_is_draw_people_with_the_skeleton() -> None:
    image = np.full((60, 80, 3), 90, np.uint8)
    some = people(2, skeleton=PAIR)
    expected = draw_people(image, some, PAIR, 0.4, boxes=False)
    assert np.array_equal(some.draw(image, 0.4, boxes=False), expected)
    assert (some.draw(image) != image).any()
    assert (image == 90).all()
    with pytest.raises(ValueError, match="cannot draw: the result has no skeleton"):
        people(2).draw(image)


def test_document_is_json_for_values_that_are_not_finite() -> None:
    wild = people(2)
    wild.boxes[0, 0] = np.inf
    wild.keypoints[1, 1, 0] = np.nan
    document = json.loads(json.dumps(wild.to_dict(), allow_nan=False))
    assert document["people"][0]["box"] == [None, 1.0, 2.0, 3.0]
    assert document["people"][1]["keypoints"][1] == [None, 7.0, 0.5]
    assert document["people"][1]["label"] == 1
    assert document["num_candidates"] == 7
    back = PoseResult.from_dict(document)
    assert np.isnan(back.boxes[0, 0])
    assert np.isnan(back.keypoints[1, 1, 0])
    assert back.to_dict() == document


def test_document_is_rounded_unless_exact() -> None:
    some = people(1)
    some.boxes[0, 0] = 1 / 3
    some.scores[0] = 1 / 3
    assert some.to_dict()["people"][0]["box"][0] == 0.333
    assert some.to_dict()["people"][0]["score"] == 0.333333
    assert some.to_dict(exact=True)["people"][0]["box"][0] == float(np.float32(1 / 3))


@given(results())
def test_dict_round_trip(result: PoseResult) -> None:
    document = json.loads(json.dumps(result.to_dict(exact=True), allow_nan=False))
    back = PoseResult.from_dict(document, skeleton=result.skeleton)
    if result.skeleton is None and not len(result):  # K is nowhere in the document
        assert back.num_keypoints == 0
    else:
        assert same(back, result, spread=True)
    assert (back.num_candidates, back.flags, back.skeleton) == (result.num_candidates, result.flags, result.skeleton)
    by_name = PoseResult.from_dict(document).skeleton
    if result.skeleton is None:
        assert by_name is None
        assert "keypoint_names" not in document
    else:
        assert by_name is not None
        assert by_name.names == result.skeleton.names
        assert by_name == result.skeleton or result.skeleton is PAIR  # an own one: its limbs are not in the document


@pytest.mark.parametrize(
    "changes",
    [
        {"people": None},
        {"people": [{}]},
        {"people": [{"box": [1, 2, 3], "score": 1, "label": 0, "keypoints": [[1, 2, 3]]}]},
        {"people": [{"box": [1, 2, 3, 4], "score": 1, "label": 2**40, "keypoints": [[1, 2, 3]]}]},
        {"flags": None},
        {"keypoint_names": ["a", "b", "c"]},
        {"keypoint_names": 3},
    ],
)
def test_from_dict_rejects_damaged_documents(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        PoseResult.from_dict(people(1).to_dict() | changes)
    with pytest.raises(ValueError, match="not the document of a PoseResult"):
        PoseResult.from_dict({})


@given(results())
def test_coco_round_trip(result: PoseResult) -> None:
    rows = json.loads(json.dumps(result.to_coco(image_id=7), allow_nan=False))
    assert len(rows) == len(result)
    for row, person in zip(rows, result, strict=True):
        assert (row["image_id"], row["category_id"]) == (7, person.label + 1)
        assert (row["score"], row["box_score"]) == (person.pose_score, person.score)
        points = np.array(row["keypoints"], np.float32).reshape(-1, 3)
        assert np.array_equal(points[:, :2], person.keypoints)
        assert np.array_equal(points[:, 2], person.keypoint_scores)
        x, y, width, height = row["bbox"]
        # the corners are a difference of two float32 away: exact up to one rounding in float64
        corners = np.array([x, y, x + width, y + height])
        np.testing.assert_allclose(corners, person.box, rtol=0, atol=1e-9)


def test_coco_categories() -> None:
    some = people(2)
    assert [row["category_id"] for row in some.to_coco(1)] == [1, 2]
    assert [row["category_id"] for row in some.to_coco(1, category_ids=[10, 20])] == [10, 20]


@dataclass
class OldKeyPoints:
    """The constructor of supervision.KeyPoints up to 0.28."""

    xy: np.ndarray
    class_id: np.ndarray | None = None
    confidence: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class NewKeyPoints:
    """The constructor of supervision.KeyPoints since 0.29."""

    xy: np.ndarray
    class_id: np.ndarray | None = None
    keypoint_confidence: np.ndarray | None = None
    detection_confidence: np.ndarray | None = None
    visible: np.ndarray | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def confidence(self) -> np.ndarray | None:
        return self.keypoint_confidence


@pytest.mark.parametrize("kind", [OldKeyPoints, NewKeyPoints])
@given(result=results())
def test_supervision_round_trip(kind: type, result: PoseResult) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "supervision", SimpleNamespace(KeyPoints=kind))  # type: ignore[arg-type]
        found = result.to_supervision()
    assert found.class_id.dtype == int
    back = PoseResult(found.data["xyxy"], found.data["score"], found.class_id, found.xy, found.confidence)
    back = replace(back, pose_scores=found.data["pose_score"])
    assert same(back, result) if len(result) else back.keypoints.shape == (0, 0, 2)
    assert all(len(values) == len(result) for values in found.data.values())
    assert not np.shares_memory(found.xy, result.keypoints)


def fake_pandas() -> ModuleType:
    module = ModuleType("pandas")
    module.DataFrame = dict  # type: ignore[attr-defined]
    return module


@given(result=results())
def test_dataframe_round_trip(result: PoseResult) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if "pandas" not in sys.modules:
            patch.setitem(sys.modules, "pandas", fake_pandas())
        frame = result.to_dataframe()
    keypoints = [f"keypoint_{index}" for index in range(5)] if result.skeleton is None else result.skeleton.names
    columns = [f"{name}_{part}" for name in keypoints for part in ("x", "y", "score")]
    assert list(frame) == ["person", "label", "score", "pose_score", "x1", "y1", "x2", "y2", *columns]
    back = PoseResult(
        boxes=np.stack([frame[name] for name in ("x1", "y1", "x2", "y2")], axis=1),
        scores=np.asarray(frame["score"]),
        labels=np.asarray(frame["label"]),
        keypoints=np.stack([[frame[f"{name}_x"], frame[f"{name}_y"]] for name in keypoints]).transpose(2, 0, 1),
        keypoint_scores=np.stack([frame[f"{name}_score"] for name in keypoints], axis=1),
        pose_scores=np.asarray(frame["pose_score"]),
    )
    assert same(back, result)
    assert list(frame["person"]) == list(range(len(result)))


@pytest.mark.parametrize(("method", "package"), [("to_supervision", "supervision"), ("to_dataframe", "pandas")])
def test_absent_package_is_named(method: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailable, match=f"{package} cannot be imported .*: pip install {package}"):
        getattr(people(1), method)()


def test_flag_names() -> None:
    assert flag_names(0) == []
    assert flag_names(CANDIDATES_CUT | NMS_NOT_CONVERGED) == ["candidates cut", "NMS not converged"]
