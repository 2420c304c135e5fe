"""The whole run in one process, with children that are faked where they would need torch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from yolopose.benchmarks import run as benchmark
from yolopose.benchmarks.report import BenchReport
from yolopose.benchmarks.settings import DEMO, BenchSettings
from yolopose.benchmarks.tasks import PeopleTask, ReferenceTask, Task, run_child
from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, CheckpointError
from yolopose.runtime.skeleton import COCO_17


def children_with_fake_reference(bare_network: Path, sha256: str | None) -> Callable[[Task], dict[str, Any]]:
    """Real children, but for the reference: it "finds" the people of the first artifact, and takes 50 ms."""
    found: dict[float, str] = {}

    def run(task: Task) -> dict[str, Any]:
        if not isinstance(task, ReferenceTask):
            if isinstance(task, PeopleTask):
                found.update({score: file for file, score in task.files.items()})
            return run_child(task)
        for file, score in task.files.items():
            shutil.copy(found[score], file)
        if task.network is not None:
            shutil.copy(bare_network, task.network)
            shutil.copy(f"{bare_network}.json", f"{task.network}.json")
        samples_ms = {"total": [50.0] * task.iterations} if task.iterations else {}
        told = {"version": "2.13", "threads": 1, "weights_sha256": sha256, "network": "nano"}
        return {"samples_ms": samples_ms, **told, "shape_hw": [64, 96], "skeleton": COCO_17.to_dict()}

    return run


@pytest.fixture(scope="module")
def report(artifact: Path, photographs: Path, bare_network: Path) -> BenchReport:
    settings = BenchSettings(
        (artifact, artifact), reference=DEMO, images=photographs, threads=1, iterations=12, warmup=1, rounds=2, batch=3
    )
    return benchmark.run_benchmark(
        settings, Console(), "yolopose-bench ...", children_with_fake_reference(bare_network, "f" * 64)
    )


def test_every_figure_has_all_its_samples(report: BenchReport) -> None:
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
        # a process that starts Python and an engine, and never this test's own memory or time
        assert 20 < start.cold_start_ms < 20_000
        assert 0 < start.load_ms <= start.first_open_ms < start.cold_start_ms
        if start.peak_mib is not None and start.before_open_mib is not None:
            assert start.before_open_mib < start.peak_mib < 500


def test_speed_is_relative_to_the_first(report: BenchReport) -> None:
    first, second = report.artifacts
    assert first.speed == 1
    assert second.speed == pytest.approx(first.latency["total"].p50_ms / second.latency["total"].p50_ms)
    assert report.reference is not None
    assert report.reference.speed == pytest.approx(first.latency["total"].p50_ms / 50)


def test_people_and_parity_are_those_of_the_pictures(report: BenchReport) -> None:
    for artifact in report.artifacts:
        assert (artifact.found.images, artifact.found.people) == (5, 7)
        parity = artifact.parity
        assert parity is not None
        counts = {name: parity[name] for name in ("people", "matched", "missing", "extra", "borderline")}
        assert counts == {"people": 7, "matched": 7, "missing": 0, "extra": 0, "borderline": 0}
        assert parity["max_px"] == 0
        assert parity["mean_oks"] == 1


def test_a_reference_has_figures_of_its_own(report: BenchReport) -> None:
    assert report.checkpoints == ()
    assert report.reference is not None
    assert (report.reference.shape_hw, report.reference.network) == ((64, 96), "nano")
    assert (report.reference.found.images, report.reference.found.people) == (5, 7)


def test_identity_tells_which_file_it_was(report: BenchReport, artifact: Path) -> None:
    identity = report.artifacts[0].identity
    assert (identity.name, identity.bytes) == ("dots.onnx", artifact.stat().st_size)
    assert (identity.shape_hw, identity.max_people, identity.precision) == ((64, 96), 3, "float32")
    assert [artifact.identity.name for artifact in report.artifacts] == ["dots.onnx", "dots.onnx #2"]


@pytest.mark.parametrize("library", ["torch", "onnx"])
def test_a_reference_needs_torch_and_onnx(
    artifact: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None if name == library else object())
    settings = BenchSettings((artifact,), reference=DEMO, images=photographs)
    with pytest.raises(BackendUnavailable, match=rf"needs {library}: pip install 'yolopose\[export\]'"):
        benchmark.run_benchmark(settings, Console(), "")


def test_a_checkpoint_needs_torch_alone(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    with pytest.raises(BackendUnavailable, match="demo runs in PyTorch, which needs torch: "):
        benchmark.run_benchmark(BenchSettings((DEMO,), images=photographs), Console(), "")


def test_labels_need_pycocotools(artifact: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)
    settings = BenchSettings((artifact,), data=Path("labels.json"), images=photographs)
    with pytest.raises(BackendUnavailable, match=r"pip install 'yolopose\[bench\]'"):
        benchmark.run_benchmark(settings, Console(), "")


def test_an_absent_reference_is_told_before_measuring(artifact: Path, photographs: Path) -> None:
    settings = BenchSettings((artifact,), reference=Path("/nowhere/best.pt"), images=photographs)
    with pytest.raises(CheckpointError, match=r"/nowhere/best\.pt: no such file"):
        benchmark.run_benchmark(settings, Console(), "", run=pytest.fail)  # type: ignore[arg-type]
