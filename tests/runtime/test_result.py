from __future__ import annotations

import json

import numpy as np
import pytest

from yolopose.runtime.result import CANDIDATES_CUT, NMS_NOT_CONVERGED, PoseResult, flag_names


def people(count: int, keypoints: int = 2) -> PoseResult:
    return PoseResult(
        boxes=np.arange(count * 4).reshape(count, 4),
        scores=np.linspace(0.9, 0.1, count),
        labels=np.arange(count),
        keypoints=np.arange(count * keypoints * 2).reshape(count, keypoints, 2),
        keypoint_scores=np.full((count, keypoints), 0.5),
        num_candidates=7,
        flags=CANDIDATES_CUT,
    )


def test_empty() -> None:
    nobody = PoseResult.empty(17)
    assert len(nobody) == 0
    assert list(nobody) == []
    assert nobody.boxes.shape == (0, 4)
    assert nobody.keypoints.shape == (0, 17, 2)
    assert nobody.num_keypoints == 17
    assert nobody.to_dict() == {"people": [], "num_candidates": 0, "flags": 0}


def test_types_are_those_promised() -> None:
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
        (0, [0]),
        (-1, [3]),
        (np.int64(2), [2]),
        (slice(1, 3), [1, 2]),
        ([3, 0], [3, 0]),
        (np.array([True, False, True, False]), [0, 2]),
        (np.array([2, 1]), [2, 1]),
    ],
)
def test_indexing_keeps_rows_together(index: object, rows: list[int]) -> None:
    some = people(4)
    chosen = some[index]  # type: ignore[index]
    assert chosen.labels.tolist() == rows
    assert np.array_equal(chosen.boxes, some.boxes[rows])
    assert np.array_equal(chosen.keypoints, some.keypoints[rows])
    assert (chosen.num_candidates, chosen.flags) == (7, CANDIDATES_CUT)


def test_iteration_gives_one_person_each() -> None:
    assert [len(person) for person in people(3)] == [1, 1, 1]
    with pytest.raises(IndexError, match="person 3 of 3"):
        people(3)[3]


@pytest.mark.parametrize(
    ("field", "shape"),
    [("boxes", (2, 3)), ("scores", (2, 1)), ("labels", (3,)), ("keypoints", (2, 2, 3)), ("keypoint_scores", (2,))],
)
def test_shapes_are_checked(field: str, shape: tuple[int, ...]) -> None:
    fields = {name: getattr(people(2), name) for name in ("boxes", "scores", "labels", "keypoints", "keypoint_scores")}
    with pytest.raises(ValueError, match=field):
        PoseResult(**(fields | {field: np.zeros(shape)}))


def test_document_is_json_even_with_wild_numbers() -> None:
    wild = people(2)
    wild.boxes[0, 0] = np.inf
    wild.keypoints[1, 1, 0] = np.nan
    document = json.loads(json.dumps(wild.to_dict(), allow_nan=False))
    assert document["people"][0]["box"] == [None, 1.0, 2.0, 3.0]
    assert document["people"][1]["keypoints"][1] == [None, 7.0, 0.5]
    assert document["people"][1]["label"] == 1
    assert document["num_candidates"] == 7


def test_flags_in_words() -> None:
    assert flag_names(0) == []
    assert flag_names(CANDIDATES_CUT | NMS_NOT_CONVERGED) == ["candidates cut", "NMS not converged"]
