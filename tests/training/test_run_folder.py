"""Run folder: run.json describes the training, and only the same training is resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.small import changed
from yolopose.data.coco import read_coco
from yolopose.data.synthetic import SyntheticScenes
from yolopose.runtime.errors import CheckpointError, DataError, OutputError, UsageError
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


def created(path: Path, argv: list[str] | None = None) -> RunFolder:
    run = RunFolder(path)
    run.create(facts(), argv=argv)
    return run


def test_new_run_json(tmp_path: Path) -> None:
    run = created(tmp_path / "runs" / "a", ["yolopose-train", "--epochs", "4"])
    document = json.loads(run.run_json.read_text())
    assert document["schema"] == 2
    assert document["seed"] == 7
    assert document["settings"]["size"] == [256, 256]
    assert document["data"] == [{"path": "a.json", "sha256": "0" * 64}]
    (session,) = document["sessions"]
    assert session["argv"] == ["yolopose-train", "--epochs", "4"]
    assert session["first_epoch"] == 1
    assert {"numpy", "torch"} <= session["machine"]["versions"].keys()
    assert "3." in session["machine"]["python"]
    assert run.samples.is_dir()
    assert run.last.parent == run.best.parent == run.curves.parent == run.metrics_csv.parent == run.path
    assert not run.last.exists()


def test_new_runs_need_an_empty_folder(tmp_path: Path) -> None:
    created(tmp_path / "a")
    with pytest.raises(UsageError, match="a exists; give another --output or --resume"):
        created(tmp_path / "a")
    (tmp_path / "b").mkdir()
    created(tmp_path / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        created(tmp_path / "file")


def test_resume_adds_a_session(tmp_path: Path) -> None:
    run = created(tmp_path / "a", ["one"])
    run.record(damaged={"x.jpg": "0 bytes"})
    moved = facts(data=[{"path": "elsewhere/a.json", "sha256": "0" * 64}])
    run.resume(moved, first_epoch=2, argv=["two"])
    document = run.read()
    assert [session["argv"] for session in document["sessions"]] == [["one"], ["two"]]
    assert [session["first_epoch"] for session in document["sessions"]] == [1, 2]
    assert document["data"][0]["path"] == "a.json"  # facts stay as they were at the start
    assert document["damaged"] == {"x.jpg": "0 bytes"}


def test_resumes_a_run_json_of_the_first_version(tmp_path: Path) -> None:
    """Schema 1 has "sittings" where schema 2 has "sessions"."""
    run = created(tmp_path / "a", ["one"])
    document = json.loads(run.run_json.read_text())
    document |= {"schema": 1, "sittings": document.pop("sessions")}
    run.run_json.write_text(json.dumps(document))
    run.resume(facts(), first_epoch=2, argv=["two"])
    document = json.loads(run.run_json.read_text())
    assert [session["argv"] for session in document["sessions"]] == [["one"], ["two"]]
    assert document["schema"] == 2
    assert "sittings" not in document


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, r"seed: was 7, now 8"),
        ({"data": [{"path": "a.json", "sha256": "1" * 64}]}, r"data\.0\.sha256"),
        ({"weights": {"path": "b.pt", "sha256": "2"}}, r"weights: was null, now absent\n  weights\.sha256: was absent"),
        ({"settings": {"model": "yolox-pose-s", "epochs": 4, "workers": 2}}, r'model: was "yolox-pose-nano"'),
        ({"settings": {str(number): number for number in range(20)}}, r"and \d+ more"),
        ({"extra": 1}, r"extra: was absent, now 1"),
    ],
)
def test_rejects_another_training(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run = created(tmp_path / "a")
    before = run.run_json.read_bytes()
    with pytest.raises(UsageError, match=message):
        run.resume(facts(**changes), first_epoch=2)
    assert run.run_json.read_bytes() == before


def test_rejects_missing_and_damaged_run_json(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json; leave out --resume"):
        RunFolder(tmp_path / "a").resume(facts(), first_epoch=2)
    run = created(tmp_path / "a")
    for damage in (run.run_json.read_bytes()[:40], b"[]", b"{}", b"\xff\xfe"):
        run.run_json.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"run\.json"):
            run.resume(facts(), first_epoch=2)


@pytest.mark.parametrize("name", ["schema", "sessions", "sittings"])
def test_rejects_facts_with_reserved_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        RunFolder(tmp_path / "a").create(facts(**{name: 1}))
    assert not (tmp_path / "a").exists()


def test_rejects_facts_that_are_no_json_values(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON"):
        RunFolder(tmp_path / "a").create(facts(settings=object()))
    assert not (tmp_path / "a").exists()


def test_file_and_label_facts(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_facts(tmp_path / "abc")["sha256"].startswith("ba7816bf")  # FIPS 180-2, appendix B.1
    with pytest.raises(DataError, match="none"):
        file_facts(tmp_path / "none")
    labels = SyntheticScenes(2, (64, 64), people=(1, 1)).save_coco(tmp_path)
    known = label_facts(read_coco(labels, tmp_path / "images", COCO_17))
    assert known["images"] == 2
    assert known["people"] == 2
    assert known["path"] == str(labels)


def test_changed_labels_are_another_data_set(tmp_path: Path) -> None:
    labels = SyntheticScenes(2, (64, 64), people=(1, 1)).save_coco(tmp_path)
    before = label_facts(read_coco(labels, tmp_path / "images"))
    annotations = json.loads(labels.read_text(encoding="utf-8"))["annotations"]
    annotations[0]["keypoints"][0] += 1
    changed(labels, annotations=annotations)
    after = label_facts(read_coco(labels, tmp_path / "images"))
    assert {key for key in before if before[key] != after[key]} == {"sha256", "labels"}


def test_differences_of_empty_values() -> None:
    assert differences({"a": []}, {"a": []}, ()) == []
    assert differences({"a": []}, {"a": [1]}, ()) == ["a: was [], now absent", "a.0: was absent, now 1"]
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}}, ["a"]) == []
