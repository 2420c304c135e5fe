"""Checkpoints as files of a run, beside artifacts and alone; the children are real and load torch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from yolopose.benchmarks.command import main
from yolopose.benchmarks.plan import checkpoint_subjects
from yolopose.benchmarks.settings import BenchSettings
from yolopose.benchmarks.tasks import run_child

torch = pytest.importorskip("torch")

QUICK = ["--iterations", "2", "--warmup", "0", "--rounds", "1", "--threads", "1"]
ABSENT = ("identity", "throughput", "start", "overhead", "parity")  # what only an artifact has


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of 17 keypoints in our own format."""
    from yolopose import build, save

    path = tmp_path_factory.mktemp("run") / "best.pt"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save(build("yolox-pose-nano"), path)
    return path


def document_of(words: list[object], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*map(str, words), *QUICK, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_checkpoint_and_artifact_side_by_side(
    artifact: Path, best: Path, photographs: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [best, artifact, "--images", photographs, "--data", labels, "--imgsz", 64, 64]
    document = document_of(words, capsys)
    (checkpoint,), (beside,) = document["checkpoints"], document["artifacts"]
    assert (checkpoint["name"], checkpoint["shape_hw"]) == ("best.pt", [64, 64])
    assert (checkpoint["network"], checkpoint["score"], checkpoint["iou"]) == ("yolox-pose-nano", 0.25, 0.65)
    assert checkpoint["latency"]["total"]["n"] == 2
    assert not set(ABSENT) & set(checkpoint)
    assert (checkpoint["found"]["score"], checkpoint["found_evaluation"]["score"]) == (0.25, 0.01)
    for row in (checkpoint, beside):
        assert (row["ap"]["images"], row["ap"]["people"], row["ap"]["convention"]) == (5, 5, "all")
    assert beside["speed"] == 1
    ratio = beside["latency"]["total"]["p50_ms"] / checkpoint["latency"]["total"]["p50_ms"]
    assert checkpoint["speed"] == pytest.approx(ratio)


def test_the_demo_network_alone_and_without_labels(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # as `make demo` leaves it: the word still means the network
    document = document_of(["demo", "--images", photographs, "--limit", "1", "--output", "out"], capsys)
    (checkpoint,) = document["checkpoints"]
    assert document["artifacts"] == []
    assert checkpoint["ap"] is checkpoint["found_evaluation"] is None
    assert "speed without accuracy: give --data" in document["notes"]
    page = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert "| demo (PyTorch) |" in page
    assert "Baselines" not in page


def test_a_checkpoint_runs_at_its_own_size(best: Path) -> None:
    (own,) = checkpoint_subjects(BenchSettings((best,)), run_child)
    assert (own.shape_hw, own.skeleton.num_keypoints) == ((416, 416), 17)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("list.pt", 1, "list.pt is a PyTorch file, but no pose network"),
        ("best.pt text.pt", 1, "text.pt"),
        ("cut.pth", 1, "cut.pth"),
        ("best.pt --imgsz 100", 2, "best.pt: height and width must be multiples of 32, got 100 x 100"),
        ("best.pt --data other.json --images pictures", 1, "keypoint 1 is 'left ear'"),
    ],
)
def test_a_bad_checkpoint_is_told_before_measuring(
    best: Path,
    photographs: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(best, "best.pt")
    shutil.copytree(photographs, "pictures")
    torch.save([1, 2, 3], "list.pt")
    Path("text.pt").write_text("not weights", encoding="utf-8")
    Path("cut.pth").write_bytes(best.read_bytes()[:1000])
    Path("other.json").write_text(labels.read_text(encoding="utf-8").replace('"left_eye"', '"left ear"'), "utf-8")
    assert main([*words.split(), *QUICK]) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert "measuring" not in printed.err
    assert printed.out == ""


def test_trained_weights_find_people_under_both_conventions(
    trained_checkpoint: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = json.loads((data_dir / "lspet" / "val.json").read_text(encoding="utf-8"))
    chosen = labels["images"][:6]
    nobody = chosen[0]["id"]
    labels["images"] = chosen
    ids = {image["id"] for image in chosen} - {nobody}
    labels["annotations"] = [person for person in labels["annotations"] if person["image_id"] in ids]
    (tmp_path / "six.json").write_text(json.dumps(labels), encoding="utf-8")
    words = [trained_checkpoint, "--data", tmp_path / "six.json", "--images", data_dir / "lspet" / "images"]
    every = document_of([*words, "--imgsz", 256], capsys)["checkpoints"][0]
    some = document_of([*words, "--imgsz", 256, "--evaluation-images", "with-people"], capsys)["checkpoints"][0]
    assert every["found"]["people"] > 0
    assert every["shape_hw"] == [256, 256]
    assert (every["ap"]["images"], every["ap"]["convention"]) == (6, "all")
    assert (some["ap"]["images"], some["ap"]["convention"]) == (5, "with-people")
    assert every["ap"]["people"] == some["ap"]["people"] == len(labels["annotations"])
    assert 0 < every["ap"]["ap50"] <= some["ap"]["ap50"]  # people found where nobody is cost precision
    assert every["ap"]["ar"] == some["ap"]["ar"]


@pytest.mark.slow
def test_known_figures_of_the_trained_checkpoint(
    trained_checkpoint: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 493 images: the mark that the shipped weights are to leave far behind."""
    document = document_of([trained_checkpoint, "--data", data_dir / "lspet" / "val.json", "--imgsz", 256], capsys)
    figures = document["checkpoints"][0]["ap"]
    assert figures["images"] == 493
    assert figures["ap"] == pytest.approx(0.02415, abs=2e-4)
    assert figures["ap50"] == pytest.approx(0.1063, abs=1e-3)
