"""Whole runs: artifacts with a simulated reference, checkpoints in PyTorch, and artifact against reference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from yolopose.benchmarks import run as benchmark
from yolopose.benchmarks.command import main
from yolopose.benchmarks.plan import checkpoint_entries
from yolopose.benchmarks.report import BenchReport
from yolopose.benchmarks.settings import DEMO, BenchSettings
from yolopose.benchmarks.tasks import CheckpointTask, PeopleTask, Task, run_child
from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, CheckpointError
from yolopose.runtime.skeleton import COCO_17

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch")
needs_export = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("torch", "onnx", "onnxscript")), reason="needs yolopose[export]"
)
QUICK = ["--iterations", "2", "--warmup", "0", "--rounds", "1", "--threads", "1"]
ARTIFACT_ONLY = ("identity", "throughput", "start", "overhead", "parity")


def children_with_fake_reference(bare_network: Path, sha256: str | None) -> Callable[[Task], dict[str, Any]]:
    """Real children, except for the reference: it "finds" the people of the first artifact, and takes 50 ms."""
    people: dict[float, str] = {}

    def run(task: Task) -> dict[str, Any]:
        if not isinstance(task, CheckpointTask):
            if isinstance(task, PeopleTask):
                people.update({score: file for file, score in task.files.items()})
            return run_child(task)
        for file, score in task.files.items():
            shutil.copy(people[score], file)
        if task.network is not None:
            shutil.copy(bare_network, task.network)
            shutil.copy(f"{bare_network}.json", f"{task.network}.json")
        samples_ms = {"total": [50.0] * task.iterations} if task.iterations else {}
        constants = {"version": "2.13", "threads": 1, "weights_sha256": sha256, "network": "nano"}
        return {"samples_ms": samples_ms, **constants, "shape_hw": [64, 96], "skeleton": COCO_17.to_dict()}

    return run


@pytest.fixture(scope="module")
def report(artifact: Path, photographs: Path, bare_network: Path) -> BenchReport:
    settings = BenchSettings(
        (artifact, artifact), reference=DEMO, images=photographs, threads=1, iterations=12, warmup=1, rounds=2, batch=3
    )
    return benchmark.run_benchmark(
        settings, Console(), "yolopose-bench ...", children_with_fake_reference(bare_network, "f" * 64)
    )


def test_every_figure_has_all_samples(report: BenchReport) -> None:
    for artifact in report.artifacts:
        assert {name: figure.n for name, figure in artifact.latency.items()} == dict.fromkeys(
            ("pre", "infer", "post", "total", "bare"), 12
        )
        assert {len(values) for values in artifact.samples_ms.values()} == {12}
        assert len(artifact.round_p50_ms) == 2
        assert artifact.overhead is not None
        assert artifact.overhead.n == 12
        assert artifact.network is not None
        assert artifact.network.network.n == 12
        assert artifact.network.tail_share is not None
        assert set(artifact.throughput) == {"1", "3"}


def test_start_and_memory_are_plausible(report: BenchReport) -> None:
    for artifact in report.artifacts:
        start = artifact.start
        # a process that starts Python and a backend; memory and time of this test must not be included
        assert 20 < start.cold_start_ms < 20_000
        assert 0 < start.load_ms <= start.first_open_ms < start.cold_start_ms
        if start.peak_mib is not None and start.before_open_mib is not None:
            assert start.before_open_mib < start.peak_mib < 500


def test_speed_is_relative_to_the_first_file(report: BenchReport) -> None:
    first, second = report.artifacts
    assert first.speed == 1
    assert second.speed == pytest.approx(first.latency["total"].p50_ms / second.latency["total"].p50_ms)
    assert report.reference is not None
    assert report.reference.speed == pytest.approx(first.latency["total"].p50_ms / 50)


def test_people_and_parity_match_the_images(report: BenchReport) -> None:
    for artifact in report.artifacts:
        assert (artifact.found.images, artifact.found.people) == (5, 7)
        parity = artifact.parity
        assert parity is not None
        counts = {name: parity[name] for name in ("people", "matched", "missing", "extra", "borderline")}
        assert counts == {"people": 7, "matched": 7, "missing": 0, "extra": 0, "borderline": 0}
        assert parity["max_px"] == 0
        assert parity["mean_oks"] == 1


def test_reference_has_its_own_figures(report: BenchReport) -> None:
    assert report.checkpoints == ()
    assert report.reference is not None
    assert (report.reference.shape_hw, report.reference.network) == ((64, 96), "nano")
    assert (report.reference.found.images, report.reference.found.people) == (5, 7)


def test_identity_describes_the_file(report: BenchReport, artifact: Path) -> None:
    identity = report.artifacts[0].identity
    assert (identity.name, identity.bytes) == ("dots.onnx", artifact.stat().st_size)
    assert (identity.shape_hw, identity.max_people, identity.precision) == ((64, 96), 3, "float32")
    assert [artifact.identity.name for artifact in report.artifacts] == ["dots.onnx", "dots.onnx #2"]


@pytest.mark.parametrize("library", ["torch", "onnx"])
def test_reference_needs_torch_and_onnx(
    artifact: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None if name == library else object())
    settings = BenchSettings((artifact,), reference=DEMO, images=photographs)
    with pytest.raises(BackendUnavailable, match=rf"needs {library}: pip install 'yolopose\[export\]'"):
        benchmark.run_benchmark(settings, Console(), "")


def test_checkpoint_needs_only_torch(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="demo runs in PyTorch, which needs torch: "):
        benchmark.run_benchmark(BenchSettings((DEMO,), images=photographs), Console(), "")


def test_labels_need_pycocotools(artifact: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    settings = BenchSettings((artifact,), data="labels.json", images=photographs)
    with pytest.raises(BackendUnavailable, match=r"pip install 'yolopose\[bench\]'"):
        benchmark.run_benchmark(settings, Console(), "")


def test_missing_reference_fails_before_measuring(artifact: Path, photographs: Path) -> None:
    settings = BenchSettings((artifact,), reference=Path("/nowhere/best.pt"), images=photographs)
    with pytest.raises(CheckpointError, match=r"/nowhere/best\.pt: no such file"):
        benchmark.run_benchmark(settings, Console(), "", run=pytest.fail)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolopose checkpoint of random weights with 17 keypoints."""
    import torch

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


@needs_torch
def test_checkpoint_and_artifact_side_by_side(
    artifact: Path, best: Path, photographs: Path, labels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [best, artifact, "--images", photographs, "--data", labels, "--imgsz", 64, 64]
    document = document_of(words, capsys)
    (checkpoint,), (exported,) = document["checkpoints"], document["artifacts"]
    assert (checkpoint["name"], checkpoint["shape_hw"]) == ("best.pt", [64, 64])
    assert (checkpoint["network"], checkpoint["score"], checkpoint["iou"]) == ("yolox-pose-nano", 0.25, 0.65)
    assert checkpoint["latency"]["total"]["n"] == 2
    assert not set(ARTIFACT_ONLY) & set(checkpoint)
    assert (checkpoint["found"]["score"], checkpoint["found_evaluation"]["score"]) == (0.25, 0.01)
    for row in (checkpoint, exported):
        assert (row["ap"]["images"], row["ap"]["people"], row["ap"]["convention"]) == (5, 5, "all")
    assert exported["speed"] == 1
    ratio = exported["latency"]["total"]["p50_ms"] / checkpoint["latency"]["total"]["p50_ms"]
    assert checkpoint["speed"] == pytest.approx(ratio)


@needs_torch
def test_demo_network_without_labels(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # `make demo` makes this folder; "demo" still means the network
    document = document_of(["demo", "--images", photographs, "--limit", "1", "--output", "out"], capsys)
    (checkpoint,) = document["checkpoints"]
    assert document["artifacts"] == []
    assert checkpoint["ap"] is checkpoint["found_evaluation"] is None
    assert "speed without accuracy: give --data" in document["notes"]
    page = (tmp_path / "out" / "benchmark.md").read_text(encoding="utf-8")
    assert "| demo (PyTorch) |" in page
    assert "Baselines" not in page


@needs_torch
def test_checkpoint_runs_at_its_own_size(best: Path) -> None:
    (own,) = checkpoint_entries(BenchSettings((best,)), run_child)
    assert (own.shape_hw, own.skeleton.num_keypoints) == ((416, 416), 17)


@needs_torch
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("list.pt", 1, "list.pt is a PyTorch file, but not a supported pose network"),
        ("best.pt text.pt", 1, "text.pt"),
        ("cut.pth", 1, "cut.pth"),
        ("best.pt --imgsz 100", 2, "best.pt: height and width must be multiples of 32, got 100 x 100"),
        ("best.pt --data other.json --images photos", 1, "keypoint 1 is 'left ear'"),
    ],
)
def test_bad_checkpoint_fails_before_measuring(
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
    import torch

    monkeypatch.chdir(tmp_path)
    shutil.copy(best, "best.pt")
    shutil.copytree(photographs, "photos")
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


@needs_torch
def test_ap_of_trained_weights_under_both_conventions(
    trained_checkpoint: Path, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = json.loads((data_dir / "lspet" / "val.json").read_text(encoding="utf-8"))
    chosen = labels["images"][:6]
    empty_image = chosen[0]["id"]
    labels["images"] = chosen
    ids = {image["id"] for image in chosen} - {empty_image}
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
    assert 0 < every["ap"]["ap50"] <= some["ap"]["ap50"]  # people found in images without people cost precision
    assert every["ap"]["ar"] == some["ap"]["ar"]


@pytest.mark.slow
@needs_torch
def test_known_ap_of_the_trained_checkpoint(
    trained_checkpoint: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All 493 images."""
    document = document_of([trained_checkpoint, "--data", data_dir / "lspet" / "val.json", "--imgsz", 256], capsys)
    figures = document["checkpoints"][0]["ap"]
    assert figures["images"] == 493
    assert figures["ap"] == pytest.approx(0.0249, abs=2e-4)
    assert figures["ap_by_score"] == pytest.approx(0.02555, abs=2e-4)
    assert figures["ap50"] == pytest.approx(0.1057, abs=1e-3)


@pytest.mark.slow
@needs_export
def test_artifact_against_reference(
    trained_artifact: Path,
    trained_artifact_fp16: Path,
    trained_checkpoint: Path,
    data_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        *(str(trained_artifact), str(trained_artifact_fp16), "--reference", str(trained_checkpoint)),
        *("--images", str(data_dir / "lspet" / "images"), "--data", str(data_dir / "lspet" / "val.json")),
        *("--limit", "12", "--iterations", "12", "--warmup", "2", "--rounds", "2", "--threads", "1"),
    ]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    full, half = document["artifacts"]
    assert full["parity"]["matched"] == full["parity"]["people"] > 0
    assert (full["parity"]["missing"], full["parity"]["extra"]) == (0, 0)
    assert full["parity"]["max_px"] <= 0.05
    assert full["parity"]["max_score_deviation"] <= 1e-4
    assert half["parity"]["mean_oks"] > 0.99
    # the same people give the same AP; C may cut candidates of the artifact at this threshold, which its flags show
    assert full["ap"]["images"] == document["reference"]["ap"]["images"] == 12
    if full["found_evaluation"]["candidates_cut"] == full["found_evaluation"]["people_cut"] == 0:
        assert full["ap"]["ap"] == pytest.approx(document["reference"]["ap"]["ap"], abs=1e-3)
    assert full["network"]["tail_share"]["n"] == 12
    assert half["network"]["tail_share"] is None
    assert document["reference"]["latency"]["total"]["n"] == 12
    assert document["reference"]["threads"] == 1
    assert not [note for note in document["notes"] if "other weights" in note]
