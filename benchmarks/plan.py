"""From settings to the list of child processes of a run. Accuracy first: what cannot run fails before time is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from yolopose.runtime.backends.base import choose_backend

from .inputs import BenchImages
from .settings import BenchSettings
from .subjects import ArtifactSubject, CheckpointSubject, Subject, reference_subject
from .tasks import NetworkTask, PeopleTask, ReferenceTask, Task, TimeTask


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
        images: BenchImages,
        scratch: Path,
    ) -> None:
        self.settings = settings
        self.artifacts = artifacts
        self.checkpoints = checkpoints
        self.subjects: list[Subject] = [*artifacts, *checkpoints]
        self._paths = [str(path) for path in images.paths]
        self._labelled = images.dataset is not None
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
