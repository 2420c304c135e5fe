"""What a run measures: artifacts, as their contracts tell, and checkpoints, as a child process reads them.

From settings to the list of child processes of a run. Accuracy first: what cannot run fails before time is spent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from yolopose.data.image_set import ImageSet
from yolopose.runtime.backends.base import choose_backend
from yolopose.runtime.contract import Contract, NmsInfo, read_contract, skeleton_from_dict
from yolopose.runtime.skeleton import Skeleton

from .settings import DEMO, BenchSettings, is_checkpoint, split_backend
from .tasks import NetworkTask, Opening, PeopleTask, ReferenceTask, RunChild, Task, TimeTask


@dataclass(frozen=True)
class ArtifactSubject:
    """One artifact of the run. ``name`` is unique in the run."""

    name: str
    path: Path
    contract: Contract
    opening: Opening

    @property
    def shape_hw(self) -> tuple[int, int]:
        if self.opening.imgsz is not None:
            return (self.opening.imgsz[0], self.opening.imgsz[1])
        return (self.contract.input.height.opt, self.contract.input.width.opt)

    @property
    def skeleton(self) -> Skeleton:
        return self.contract.skeleton

    @property
    def score(self) -> float:
        return self.opening.score

    @property
    def iou(self) -> float:
        return self.opening.iou

    @property
    def is_float32(self) -> bool:
        return self.contract.precision.weights == self.contract.precision.activations == "float32"

    @property
    def batches(self) -> tuple[int, int]:
        """1 and the largest batch its input takes."""
        return (1, self.contract.input.batch.max)


@dataclass(frozen=True)
class CheckpointSubject:
    """A network run by PyTorch: a checkpoint of the run, or the reference under the conditions of an artifact."""

    name: str
    path: Path  # DEMO is no file
    skeleton: Skeleton
    shape_hw: tuple[int, int]
    score: float
    iou: float
    max_people: int

    @property
    def weights(self) -> str:
        """As ``yolopose.load`` takes it, from any working directory."""
        return _weights(self.path)


Subject = ArtifactSubject | CheckpointSubject


def artifact_subjects(settings: BenchSettings) -> list[ArtifactSubject]:
    """Reads every contract; raises ArtifactError and its kin before anything is measured."""
    return [_artifact(name, given, settings) for name, given in _named(settings) if not is_checkpoint(given)]


def _artifact(name: str, given: Path, settings: BenchSettings) -> ArtifactSubject:
    path, backend = split_backend(given)
    contract = read_contract(path)
    opening = Opening(
        artifact=str(path.resolve()),
        backend=settings.backend if backend is None else backend,
        device=settings.device,
        threads=settings.threads,
        imgsz=None if settings.imgsz is None else list(settings.imgsz),
        score=contract.nms.score_threshold if settings.score is None else settings.score,
        iou=contract.nms.iou_threshold if settings.iou is None else settings.iou,
    )
    return ArtifactSubject(name, path, contract, opening)


def checkpoint_subjects(settings: BenchSettings, run: RunChild) -> list[CheckpointSubject]:
    """Reads every checkpoint in a child process, which has torch; raises what ``yolopose.load`` raises."""
    return [_checkpoint(name, path, settings, run) for name, path in _named(settings) if is_checkpoint(path)]


def _checkpoint(name: str, path: Path, settings: BenchSettings, run: RunChild) -> CheckpointSubject:
    """Thresholds and number of people are those that an export would write into the contract."""
    nms = NmsInfo()
    score = nms.score_threshold if settings.score is None else settings.score
    iou = nms.iou_threshold if settings.iou is None else settings.iou
    shape_hw = None if settings.imgsz is None else list(settings.imgsz)
    told = run(ReferenceTask(_weights(path), settings.threads, shape_hw, iou, nms.max_people, images=[], files={}))
    shape = (told["shape_hw"][0], told["shape_hw"][1])
    return CheckpointSubject(name, path, skeleton_from_dict(told["skeleton"]), shape, score, iou, nms.max_people)


def reference_subject(reference: Path, artifact: ArtifactSubject) -> CheckpointSubject:
    """The reference under the conditions of ``artifact``; equal for artifacts of equal conditions."""
    shape_hw, max_people = artifact.shape_hw, artifact.contract.nms.max_people
    return CheckpointSubject(
        reference.name, reference, artifact.skeleton, shape_hw, artifact.score, artifact.iou, max_people
    )


def _named(settings: BenchSettings) -> list[tuple[str, Path]]:
    return list(zip(unique_names(settings.files), settings.files, strict=True))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with the backend where they name one; where one appears again, with a number: the same file twice
    shows the noise of a run."""
    names: list[str] = []
    for path in paths:
        repeats = sum(other.name == path.name for other in paths[: len(names)])
        names.append(path.name if repeats == 0 else f"{path.name} #{repeats + 1}")
    return names


def _weights(path: Path) -> str:
    return str(path if path == DEMO else path.resolve())


@dataclass(frozen=True)
class Job:
    kind: str  # "people", "reference people", "network", "time", "reference time"
    subject: str
    task: Task


def network_baseline_possible(artifact: ArtifactSubject) -> bool:
    """The bare network is run by ONNX Runtime on the CPU; beside another engine or device its time says nothing."""
    device = artifact.opening.device
    on_cpu = device is None or device.lower() == "cpu"
    engine = choose_backend(artifact.path, artifact.contract, artifact.opening.backend)
    return engine == "onnxruntime" and on_cpu and find_spec("onnxruntime") is not None


class Plan:
    """Jobs in the order they run, and the files that people travel in."""

    def __init__(
        self,
        settings: BenchSettings,
        artifacts: Sequence[ArtifactSubject],
        checkpoints: Sequence[CheckpointSubject],
        images: ImageSet,
        scratch: Path,
    ) -> None:
        self.settings = settings
        self.artifacts = artifacts
        self.checkpoints = checkpoints
        self.subjects: list[Subject] = [*artifacts, *checkpoints]
        self._paths = [str(path) for path in images.paths]
        self._labelled = images.labels is not None
        self._scratch = scratch
        self._references: list[CheckpointSubject] = []
        if settings.reference is not None:
            every = [reference_subject(settings.reference, artifact) for artifact in artifacts]
            self._references = list(dict.fromkeys(every))

    def people_file(self, subject: Subject, score: float) -> Path:
        return self._scratch / f"people-{self.subjects.index(subject)}-{score!r}.npz"

    def reference_file(self, reference: CheckpointSubject, score: float) -> Path:
        """Artifacts of equal shape, M and thresholds share one pass of the reference."""
        return self._scratch / f"reference-{self._references.index(reference)}-{score!r}.npz"

    def reference(self, artifact: ArtifactSubject) -> CheckpointSubject | None:
        """The reference as it is compared with this artifact."""
        return None if self.settings.reference is None else reference_subject(self.settings.reference, artifact)

    def jobs(self) -> list[Job]:
        return [*self._accuracy_jobs(), *self._timing_jobs()]

    def _scores(self, subject: Subject) -> list[float]:
        return [subject.score, *([self.settings.evaluation_score] if self._labelled else [])]

    def _network_file(self, reference: CheckpointSubject) -> str:
        return str(self._scratch / f"network-{self._references.index(reference)}.onnx")

    def _accuracy_jobs(self) -> Iterator[Job]:
        for artifact in self.artifacts:
            files = {str(self.people_file(artifact, score)): score for score in self._scores(artifact)}
            yield Job("people", artifact.name, PeopleTask(artifact.opening, self._paths, files))
        for checkpoint in self.checkpoints:
            files = {str(self.people_file(checkpoint, score)): score for score in self._scores(checkpoint)}
            yield Job("people", checkpoint.name, self._torch_people(checkpoint, files, None))
        for reference in self._references:
            files = {str(self.reference_file(reference, score)): score for score in self._scores(reference)}
            task = self._torch_people(reference, files, self._network_file(reference))
            yield Job("reference people", reference.name, task)

    def _timing_jobs(self) -> Iterator[Job]:
        settings = self.settings
        for index in range(settings.rounds):
            iterations = settings.iterations_of_round(index)
            images = self._round_images(index, iterations + settings.warmup)
            for artifact in self.artifacts:
                batches = sorted({1, min(settings.batch, artifact.batches[1])})
                task = TimeTask(artifact.opening, images, iterations, settings.warmup, batches)
                yield Job("time", artifact.name, task)
                reference = self.reference(artifact)
                if reference is not None and network_baseline_possible(artifact):
                    file = self._network_file(reference)
                    network = NetworkTask(artifact.opening, file, images, iterations, settings.warmup)
                    yield Job("network", artifact.name, network)
            for checkpoint in self.checkpoints:
                yield Job("time", checkpoint.name, self._torch_time(checkpoint, images, iterations))
            for first in self._references[:1]:
                yield Job("reference time", first.name, self._torch_time(first, images, iterations))

    def _round_images(self, index: int, count: int) -> list[str]:
        """The images of one round: each round begins where the last one ended, so that rounds see different ones."""
        count = min(count, len(self._paths))
        start = index * count
        return [self._paths[(start + i) % len(self._paths)] for i in range(count)]

    def _torch_people(self, subject: CheckpointSubject, files: dict[str, float], network: str | None) -> ReferenceTask:
        return ReferenceTask(
            weights=subject.weights,
            threads=self.settings.threads,
            shape_hw=list(subject.shape_hw),
            iou=subject.iou,
            max_people=subject.max_people,
            images=self._paths,
            files=files,
            network=network,
        )

    def _torch_time(self, subject: CheckpointSubject, images: list[str], iterations: int) -> ReferenceTask:
        return ReferenceTask(
            weights=subject.weights,
            threads=self.settings.threads,
            shape_hw=list(subject.shape_hw),
            iou=subject.iou,
            max_people=subject.max_people,
            images=images,
            files={},
            score=subject.score,
            iterations=iterations,
            warmup=self.settings.warmup,
        )
