"""Entries of a run and the order of its jobs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from yolopose.benchmarks.plan import BenchPlan, CheckpointEntry, Job, artifact_entries, reference_entry, unique_names
from yolopose.benchmarks.settings import DEMO, BenchSettings
from yolopose.benchmarks.tasks import CheckpointTask, NetworkTask, PeopleTask, TimeTask
from yolopose.data.image_set import ImageSet
from yolopose.runtime.contract import PrecisionInfo
from yolopose.runtime.errors import ArtifactError, UsageError
from yolopose.runtime.images import read_image
from yolopose.runtime.skeleton import COCO_17

from ..runtime.conftest import small_contract, write_artifact

PATHS = tuple(Path(f"/images/{i}.png") for i in range(5))
IMAGES = ImageSet("five images", tuple(path.name for path in PATHS), lambda i: read_image(PATHS[i]), paths=PATHS)


def jobs(settings: BenchSettings, scratch: Path, images: ImageSet = IMAGES) -> list[Job]:
    return BenchPlan(settings, artifact_entries(settings), [], images, scratch).jobs()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.onnx"], ["a.onnx"]),
        (["a.onnx", "b.onnx"], ["a.onnx", "b.onnx"]),
        (["a.onnx", "x/a.onnx", "b.onnx", "a.onnx"], ["a.onnx", "a.onnx #2", "b.onnx", "a.onnx #3"]),
    ],
)
def test_names_are_unique(paths: list[str], expected: list[str]) -> None:
    assert unique_names([Path(path) for path in paths]) == expected


def test_artifacts_take_turns_after_accuracy_jobs(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact, artifact), rounds=2, iterations=5, warmup=1)
    planned = jobs(settings, tmp_path)
    first, second = "dots.onnx", "dots.onnx #2"
    assert [(job.kind, job.entry) for job in planned] == [
        *(("people", first), ("people", second)),
        *(("time", first), ("time", second), ("time", first), ("time", second)),
    ]
    times = [job.task for job in planned if isinstance(job.task, TimeTask)]
    assert [task.iterations for task in times] == [3, 3, 2, 2]
    assert times[0].batches == [1, 4]  # --batch is 8, the contract allows at most 4


def test_reference_adds_jobs(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact, artifact), reference=DEMO, rounds=2, iterations=4)
    planned = jobs(settings, tmp_path)
    # size, M and thresholds of both artifacts are equal: one pass of the reference serves both
    assert [job.kind for job in planned] == [
        *("people", "people", "reference people"),
        *("time", "network", "time", "network", "reference time") * 2,
    ]
    tasks = [job.task for job in planned]
    (exporting, *timing) = [task for task in tasks if isinstance(task, CheckpointTask)]
    assert exporting.weights == "demo"
    assert exporting.score is None  # not timed
    assert all(task.files == {} and task.network is None and task.score == 0.25 for task in timing)
    assert {task.network for task in tasks if isinstance(task, NetworkTask)} == {exporting.network}


def test_reference_runs_once_per_input_size(tmp_path: Path, artifact: Path) -> None:
    settings = BenchSettings((artifact,), reference=DEMO)
    (found,) = artifact_entries(settings)
    other = dataclasses.replace(found, name="other", options=dataclasses.replace(found.options, imgsz=[128, 128]))
    plan = BenchPlan(settings, [found, other], [], IMAGES, tmp_path)
    shapes = [job.task.shape_hw for job in plan.jobs() if job.kind == "reference people"]  # type: ignore[union-attr]
    assert shapes == [[64, 96], [128, 128]]
    first, second = (reference_entry(DEMO, artifact) for artifact in (found, other))
    assert plan.people_file(first, 0.25) != plan.people_file(second, 0.25)


def test_checkpoints_take_turns_after_artifacts(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((DEMO, artifact), rounds=2, iterations=4, score=0.1)
    demo = CheckpointEntry("demo", DEMO, COCO_17, (64, 64), 0.1, 0.65, 100, 300)
    planned = BenchPlan(settings, artifact_entries(settings), [demo], IMAGES, tmp_path).jobs()
    assert [(job.kind, job.entry) for job in planned] == [
        *(("people", "dots.onnx"), ("people", "demo")),
        *(("time", "dots.onnx"), ("time", "demo")) * 2,
    ]
    people, *timing = [job.task for job in planned if isinstance(job.task, CheckpointTask)]
    assert (people.weights, people.shape_hw, list(people.files.values())) == ("demo", [64, 64], [0.1])
    assert people.network is None  # only the reference exports a bare network
    assert [(task.score, task.iterations, task.files) for task in timing] == [(0.1, 2, {})] * 2


@pytest.mark.parametrize(("backend", "device"), [("openvino", None), ("openvino:bf16", None), ("auto", "cuda")])
def test_no_bare_network_for_another_backend_or_device(
    artifact: Path, tmp_path: Path, backend: str, device: str | None
) -> None:
    settings = BenchSettings((artifact,), reference=DEMO, backend=backend, device=device)
    assert "network" not in [job.kind for job in jobs(settings, tmp_path)]


def test_no_bare_network_for_an_openvino_artifact(tmp_path: Path) -> None:
    contract = dataclasses.replace(small_contract(), precision=PrecisionInfo("int8", "int8", "openvino"))
    path = write_artifact(tmp_path / "quantized.onnx", contract)
    assert "network" not in [job.kind for job in jobs(BenchSettings((path,), reference=DEMO), tmp_path)]


def test_labels_add_people_at_the_evaluation_score(artifact: Path, tmp_path: Path) -> None:
    labeled = dataclasses.replace(IMAGES, labels=object(), image_ids=(1, 2, 3, 4, 5))  # type: ignore[arg-type]
    (task,) = [job.task for job in jobs(BenchSettings((artifact,)), tmp_path, labeled) if job.kind == "people"]
    assert isinstance(task, PeopleTask)
    assert sorted(task.files.values()) == [0.01, 0.25]
    assert len(set(task.files)) == 2


def test_rounds_continue_through_the_images(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact,), rounds=2, iterations=4, warmup=1)
    rounds = [job.task.images for job in jobs(settings, tmp_path) if isinstance(job.task, TimeTask)]
    assert [[Path(path).stem for path in images] for images in rounds] == [["0", "1", "2"], ["3", "4", "0"]]


def test_thresholds_and_size_default_to_the_contract(artifact: Path) -> None:
    (found,) = artifact_entries(BenchSettings((artifact,)))
    assert (found.options.score, found.options.iou, found.shape_hw) == (0.25, 0.65, (64, 96))
    (given,) = artifact_entries(BenchSettings((artifact,), score=0.5, iou=0.4, imgsz=(32, 64)))
    assert (given.options.score, given.options.iou, given.shape_hw) == (0.5, 0.4, (32, 64))


def test_missing_artifact_is_rejected(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing\.onnx"):
        artifact_entries(BenchSettings((artifact, artifact.with_name("missing.onnx"))))


def test_artifact_may_name_its_backend(artifact: Path) -> None:
    named = artifact.with_name(f"{artifact.name}@onnxruntime")
    plain, chosen = artifact_entries(BenchSettings((artifact, named), backend="openvino"))
    assert (plain.name, plain.options.backend) == ("dots.onnx", "openvino")
    assert (chosen.name, chosen.options.backend) == ("dots.onnx@onnxruntime", "onnxruntime")
    assert chosen.options.artifact == plain.options.artifact == str(artifact.resolve())


def test_unknown_backend_with_a_reference_is_a_usage_error(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact,), reference=DEMO, backend="nonsense")
    with pytest.raises(UsageError, match="backend must be one of"):
        jobs(settings, tmp_path)
