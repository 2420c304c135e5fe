from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from yolopose.benchmarks.plan import CheckpointSubject, Job, Plan, artifact_subjects, reference_subject, unique_names
from yolopose.benchmarks.settings import DEMO, BenchSettings
from yolopose.benchmarks.tasks import NetworkTask, PeopleTask, ReferenceTask, TimeTask
from yolopose.data.image_set import ImageSet
from yolopose.runtime.contract import PrecisionInfo
from yolopose.runtime.errors import ArtifactError
from yolopose.runtime.images import read_image
from yolopose.runtime.skeleton import COCO_17

from ..runtime.conftest import small_contract, write_artifact

PATHS = tuple(Path(f"/images/{i}.png") for i in range(5))
IMAGES = ImageSet("five pictures", tuple(path.name for path in PATHS), lambda i: read_image(PATHS[i]), paths=PATHS)


def jobs(settings: BenchSettings, scratch: Path, images: ImageSet = IMAGES) -> list[Job]:
    return Plan(settings, artifact_subjects(settings), [], images, scratch).jobs()


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


def test_artifacts_take_turns_and_accuracy_comes_first(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact, artifact), rounds=2, iterations=5, warmup=1)
    planned = jobs(settings, tmp_path)
    first, second = "dots.onnx", "dots.onnx #2"
    assert [(job.kind, job.subject) for job in planned] == [
        *(("people", first), ("people", second)),
        *(("time", first), ("time", second), ("time", first), ("time", second)),
    ]
    times = [job.task for job in planned if isinstance(job.task, TimeTask)]
    assert [task.iterations for task in times] == [3, 3, 2, 2]
    assert times[0].batches == [1, 4]  # 8 was asked for, the contract takes 4 at most


def test_a_reference_adds_its_own_processes(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact, artifact), reference=DEMO, rounds=2, iterations=4)
    planned = jobs(settings, tmp_path)
    # both artifacts have one shape, M and thresholds: one pass of the reference serves both
    assert [job.kind for job in planned] == [
        *("people", "people", "reference people"),
        *("time", "network", "time", "network", "reference time") * 2,
    ]
    tasks = [job.task for job in planned]
    (exporting, *timing) = [task for task in tasks if isinstance(task, ReferenceTask)]
    assert exporting.weights == "demo"
    assert exporting.score is None  # not timed
    assert all(task.files == {} and task.network is None and task.score == 0.25 for task in timing)
    assert {task.network for task in tasks if isinstance(task, NetworkTask)} == {exporting.network}


def test_another_shape_takes_another_pass_of_the_reference(tmp_path: Path, artifact: Path) -> None:
    settings = BenchSettings((artifact,), reference=DEMO)
    (found,) = artifact_subjects(settings)
    other = dataclasses.replace(found, name="other", opening=dataclasses.replace(found.opening, imgsz=[128, 128]))
    plan = Plan(settings, [found, other], [], IMAGES, tmp_path)
    shapes = [job.task.shape_hw for job in plan.jobs() if job.kind == "reference people"]  # type: ignore[union-attr]
    assert shapes == [[64, 96], [128, 128]]
    first, second = (reference_subject(DEMO, artifact) for artifact in (found, other))
    assert plan.reference_file(first, 0.25) != plan.reference_file(second, 0.25)


def test_checkpoints_take_their_turn_behind_the_artifacts(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((DEMO, artifact), rounds=2, iterations=4, score=0.1)
    demo = CheckpointSubject("demo", DEMO, COCO_17, (64, 64), 0.1, 0.65, 100)
    planned = Plan(settings, artifact_subjects(settings), [demo], IMAGES, tmp_path).jobs()
    assert [(job.kind, job.subject) for job in planned] == [
        *(("people", "dots.onnx"), ("people", "demo")),
        *(("time", "dots.onnx"), ("time", "demo")) * 2,
    ]
    people, *timing = [job.task for job in planned if isinstance(job.task, ReferenceTask)]
    assert (people.weights, people.shape_hw, list(people.files.values())) == ("demo", [64, 64], [0.1])
    assert people.network is None  # the bare network belongs to artifacts
    assert [(task.score, task.iterations, task.files) for task in timing] == [(0.1, 2, {})] * 2


@pytest.mark.parametrize(("backend", "device"), [("openvino", None), ("openvino:bf16", None), ("auto", "cuda")])
def test_no_bare_network_beside_another_engine(
    artifact: Path, tmp_path: Path, backend: str, device: str | None
) -> None:
    settings = BenchSettings((artifact,), reference=DEMO, backend=backend, device=device)
    assert "network" not in [job.kind for job in jobs(settings, tmp_path)]


def test_no_bare_network_beside_an_artifact_made_for_openvino(tmp_path: Path) -> None:
    contract = dataclasses.replace(small_contract(), precision=PrecisionInfo("int8", "int8", "openvino"))
    path = write_artifact(tmp_path / "quantized.onnx", contract)
    assert "network" not in [job.kind for job in jobs(BenchSettings((path,), reference=DEMO), tmp_path)]


def test_labels_add_a_pass_at_the_evaluation_threshold(artifact: Path, tmp_path: Path) -> None:
    labelled = dataclasses.replace(IMAGES, labels=object(), image_ids=(1, 2, 3, 4, 5))  # type: ignore[arg-type]
    (task,) = [job.task for job in jobs(BenchSettings((artifact,)), tmp_path, labelled) if job.kind == "people"]
    assert isinstance(task, PeopleTask)
    assert sorted(task.files.values()) == [0.01, 0.25]
    assert len(set(task.files)) == 2


def test_rounds_see_the_images_in_turn(artifact: Path, tmp_path: Path) -> None:
    settings = BenchSettings((artifact,), rounds=2, iterations=4, warmup=1)
    rounds = [job.task.images for job in jobs(settings, tmp_path) if isinstance(job.task, TimeTask)]
    assert [[Path(path).stem for path in images] for images in rounds] == [["0", "1", "2"], ["3", "4", "0"]]


def test_thresholds_and_size_come_from_the_contract_unless_asked_for(artifact: Path) -> None:
    (found,) = artifact_subjects(BenchSettings((artifact,)))
    assert (found.opening.score, found.opening.iou, found.shape_hw) == (0.25, 0.65, (64, 96))
    (asked,) = artifact_subjects(BenchSettings((artifact,), score=0.5, iou=0.4, imgsz=(32, 64)))
    assert (asked.opening.score, asked.opening.iou, asked.shape_hw) == (0.5, 0.4, (32, 64))


def test_a_missing_artifact_fails_before_anything_is_measured(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"missing\.onnx"):
        artifact_subjects(BenchSettings((artifact, artifact.with_name("missing.onnx"))))


def test_each_artifact_may_name_its_backend(artifact: Path) -> None:
    named = artifact.with_name(f"{artifact.name}@onnxruntime")
    plain, chosen = artifact_subjects(BenchSettings((artifact, named), backend="openvino"))
    assert (plain.name, plain.opening.backend) == ("dots.onnx", "openvino")
    assert (chosen.name, chosen.opening.backend) == ("dots.onnx@onnxruntime", "onnxruntime")
    assert chosen.opening.artifact == plain.opening.artifact == str(artifact.resolve())
