from __future__ import annotations

import json

import pytest

from yolopose.benchmarks.tasks import (
    NetworkTask,
    Opening,
    PeopleTask,
    ReferenceTask,
    Task,
    TimeTask,
    task_from_dict,
    task_to_dict,
)

OPENING = Opening("/a.onnx", "auto", None, 2, [64, 96], 0.25, 0.65)


@pytest.mark.parametrize(
    "task",
    [
        TimeTask(OPENING, ["/1.png"], 10, 2, [1, 8]),
        PeopleTask(OPENING, ["/1.png"], {"/people.npz": 0.001}),
        NetworkTask(OPENING, "/network.onnx", ["/1.png"], 10, 2),
        ReferenceTask("/best.pt", None, [64, 96], 0.65, 100, ["/1.png"], {"/r.npz": 0.25}, "/network.onnx"),
    ],
    ids=lambda task: type(task).__name__,
)
def test_a_task_survives_json(task: Task) -> None:
    assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task
