"""A run folder says what made it, and continues that training alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from yolopose.data.coco import read_coco
from yolopose.data.synthetic import SyntheticScenes
from yolopose.runtime.errors import CheckpointError, DataError, OutputError
from yolopose.runtime.skeleton import COCO_17
from yolopose.training.run_folder import RunFolder, differences, file_facts, label_facts


def facts(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "seed": 7,
        "settings": {"model": "yolox-pose-nano", "epochs": 4, "workers": 2, "size": [256, 256]},
        "data": [{"path": Path("a.json"), "sha256": "0" * 64}],
        "weights": None,
    }
    return {**made, **changes}


def test_a_new_run_says_what_made_it(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "a", facts(), resume=False, argv=["yolopose-train", "--epochs", "4"])
    document = json.loads(run.run_json.read_text())
    assert document["seed"] == 7
    assert document["settings"]["size"] == [256, 256]
    assert document["data"] == [{"path": "a.json", "sha256": "0" * 64}]
    (sitting,) = document["sittings"]
    assert sitting["argv"] == ["yolopose-train", "--epochs", "4"]
    assert sitting["first_epoch"] == 0
    assert {"numpy", "torch"} <= sitting["machine"]["versions"].keys()
    assert "3." in sitting["machine"]["python"]
    assert run.samples.is_dir()
    assert run.last.parent == run.best.parent == run.curves.parent == run.metrics_csv.parent == run.path
    assert not run.last.exists()


def test_an_empty_folder_will_do_a_full_one_not(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "a", facts(), resume=False)
    with pytest.raises(ValueError, match="a exists; give another --output or --resume"):
        RunFolder.create(tmp_path / "a", facts(), resume=False)
    (tmp_path / "b").mkdir()
    RunFolder.create(tmp_path / "b", facts(), resume=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        RunFolder.create(tmp_path / "file", facts(), resume=False)


def test_resume_adds_a_sitting(tmp_path: Path) -> None:
    first = RunFolder.create(tmp_path / "a", facts(), resume=False, argv=["one"])
    first.record(damaged={"x.jpg": "0 bytes"})
    moved = facts(data=[{"path": "elsewhere/a.json", "sha256": "0" * 64}])
    moved["settings"]["workers"] = 8
    run = RunFolder.create(tmp_path / "a", moved, resume=True, start_epoch=2, may_differ=["workers"], argv=["two"])
    document = run.read()
    assert [sitting["argv"] for sitting in document["sittings"]] == [["one"], ["two"]]
    assert [sitting["first_epoch"] for sitting in document["sittings"]] == [0, 2]
    assert document["settings"]["workers"] == 2  # what it was started with
    assert document["damaged"] == {"x.jpg": "0 bytes"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, r"seed: 7 then, 8 now"),
        ({"data": [{"path": "a.json", "sha256": "1" * 64}]}, r"data\.0\.sha256"),
        ({"weights": {"path": "b.pt", "sha256": "2"}}, r"weights: null then, nothing now\n  weights\.sha256: nothing"),
        ({"settings": {"model": "yolox-pose-s", "epochs": 4, "workers": 2}}, r'model: "yolox-pose-nano" then'),
        ({"settings": {str(number): number for number in range(20)}}, r"and \d+ more"),
        ({"extra": 1}, r"extra: nothing then, 1 now"),
    ],
)
def test_another_training_is_not_resumed(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run = RunFolder.create(tmp_path / "a", facts(), resume=False)
    before = run.run_json.read_bytes()
    with pytest.raises(ValueError, match=message):
        RunFolder.create(tmp_path / "a", facts(**changes), resume=True)
    assert run.run_json.read_bytes() == before


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run\.json; leave out --resume"):
        RunFolder.create(tmp_path / "a", facts(), resume=True)
    run = RunFolder.create(tmp_path / "a", facts(), resume=False)
    for damage in (run.run_json.read_bytes()[:40], b"[]", b"{}", b"\xff\xfe"):
        run.run_json.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"run\.json"):
            RunFolder.create(tmp_path / "a", facts(), resume=True)


def test_facts_are_plain(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sittings"):
        RunFolder.create(tmp_path / "a", facts(sittings=1), resume=False)
    with pytest.raises(TypeError, match="JSON"):
        RunFolder.create(tmp_path / "a", facts(settings=object()), resume=False)
    assert not (tmp_path / "a").exists()


def test_what_a_file_and_a_data_set_are(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_facts(tmp_path / "abc")["sha256"].startswith("ba7816bf")  # FIPS 180-2, appendix B.1
    with pytest.raises(DataError, match="none"):
        file_facts(tmp_path / "none")
    labels = SyntheticScenes(2, (64, 64), people=(1, 1)).save_coco(tmp_path)
    known = label_facts(read_coco(labels, tmp_path / "images", COCO_17))
    assert known["images"] == 2
    assert known["people"] == 2
    assert known["path"] == str(labels)


def test_differences_of_empty_values() -> None:
    assert differences({"a": []}, {"a": []}, ()) == []
    assert differences({"a": []}, {"a": [1]}, ()) == ["a: [] then, nothing now", "a.0: nothing then, 1 now"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}}, ["a"]) == []
