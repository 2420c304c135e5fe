"""From settings to the list of child processes of a run. Accuracy first: what cannot run fails before time is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from yolopose.runtime.contract import Contract, read_contract

from .inputs import BenchImages
from .settings import DEMO, BenchSettings
from .tasks import NetworkTask, Opening, PeopleTask, ReferenceTask, Task, TimeTask


@dataclass(frozen=True)
class Subject:
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
    def is_float32(self) -> bool:
        return self.contract.precision.weights == self.contract.precision.activations == "float32"

    @property
    def batches(self) -> tuple[int, int]:
        """1 and the largest batch its input takes."""
        return (1, self.contract.input.batch.max)


@dataclass(frozen=True)
class Job:
    kind: str  # "people", "reference people", "network", "time", "reference time"
    subject: str
    task: Task


def subjects(settings: BenchSettings) -> list[Subject]:
    """Reads every contract; raises ArtifactError and its kin before anything is measured."""
    names = unique_names(settings.artifacts)
    return [_subject(name, path, settings) for name, path in zip(names, settings.artifacts, strict=True)]


def _subject(name: str, path: Path, settings: BenchSettings) -> Subject:
    contract = read_contract(path)
    opening = Opening(
        artifact=str(path.resolve()),
        backend=settings.backend,
        device=settings.device,
        threads=settings.threads,
        imgsz=None if settings.imgsz is None else list(settings.imgsz),
        score=contract.nms.score_threshold if settings.score is None else settings.score,
        iou=contract.nms.iou_threshold if settings.iou is None else settings.iou,
    )
    return Subject(name, path, contract, opening)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names; where one appears again, with a number: the same file twice shows the noise of a run."""
    names: list[str] = []
    for path in paths:
        repeats = sum(other.name == path.name for other in paths[: len(names)])
        names.append(path.name if repeats == 0 else f"{path.name} #{repeats + 1}")
    return names


def network_baseline_possible(settings: BenchSettings) -> bool:
    """The bare network is run by ONNX Runtime on the CPU; beside another engine or device its time says nothing."""
    on_cpu = settings.device is None or settings.device.lower() == "cpu"
    return settings.backend in ("auto", "onnxruntime") and on_cpu and find_spec("onnxruntime") is not None


class Plan:
    """Jobs in the order they run, and the files that people travel in."""

    def __init__(self, settings: BenchSettings, found: Sequence[Subject], images: BenchImages, scratch: Path) -> None:
        self.settings = settings
        self.subjects = found
        self._paths = [str(path) for path in images.paths]
        self._labelled = images.dataset is not None
        self._scratch = scratch
        self._references: dict[tuple[object, ...], int] = {}

    def people_file(self, subject: Subject, score: float) -> Path:
        return self._scratch / f"people-{self.subjects.index(subject)}-{score!r}.npz"

    def reference_file(self, subject: Subject, score: float) -> Path:
        """Artifacts of equal shape, M and IoU threshold share one pass of the reference."""
        return self._scratch / f"reference-{self._reference_number(subject)}-{score!r}.npz"

    def jobs(self) -> list[Job]:
        return [*self._accuracy_jobs(), *self._timing_jobs()]

    def _scores(self, subject: Subject) -> list[float]:
        return [subject.opening.score, *([self.settings.evaluation_score] if self._labelled else [])]

    def _reference_number(self, subject: Subject) -> int:
        key = (subject.shape_hw, subject.opening.iou, subject.opening.score, subject.contract.nms.max_people)
        return self._references.setdefault(key, len(self._references))

    def _network_file(self, subject: Subject) -> str:
        return str(self._scratch / f"network-{self._reference_number(subject)}.onnx")

    def _accuracy_jobs(self) -> Iterator[Job]:
        for subject in self.subjects:
            files = {str(self.people_file(subject, score)): score for score in self._scores(subject)}
            yield Job("people", subject.name, PeopleTask(subject.opening, self._paths, files))
        done: set[int] = set()
        for subject in self.subjects:
            number = self._reference_number(subject)
            if self.settings.reference is not None and number not in done:
                done.add(number)
                files = {str(self.reference_file(subject, score)): score for score in self._scores(subject)}
                task = self._reference_task(subject, self._paths, files=files, network=self._network_file(subject))
                yield Job("reference people", subject.name, task)

    def _timing_jobs(self) -> Iterator[Job]:
        settings = self.settings
        for index in range(settings.rounds):
            iterations = settings.iterations_of_round(index)
            images = self._round_images(index, iterations + settings.warmup)
            for subject in self.subjects:
                batches = sorted({1, min(settings.batch, subject.batches[1])})
                task = TimeTask(subject.opening, images, iterations, settings.warmup, batches)
                yield Job("time", subject.name, task)
                if settings.reference is not None and network_baseline_possible(settings):
                    file = self._network_file(subject)
                    network = NetworkTask(subject.opening, file, images, iterations, settings.warmup)
                    yield Job("network", subject.name, network)
            if settings.reference is not None:
                first = self.subjects[0]
                timed = self._reference_task(
                    first, images, score=first.opening.score, iterations=iterations, warmup=settings.warmup
                )
                yield Job("reference time", settings.reference.name, timed)

    def _round_images(self, index: int, count: int) -> list[str]:
        """The images of one round: each round begins where the last one ended, so that rounds see different ones."""
        count = min(count, len(self._paths))
        start = index * count
        return [self._paths[(start + i) % len(self._paths)] for i in range(count)]

    def _reference_task(
        self,
        subject: Subject,
        images: list[str],
        *,
        files: dict[str, float] | None = None,
        network: str | None = None,
        score: float | None = None,
        iterations: int = 0,
        warmup: int = 0,
    ) -> ReferenceTask:
        reference = self.settings.reference
        assert reference is not None
        return ReferenceTask(
            weights=str(reference if reference == DEMO else reference.resolve()),
            threads=self.settings.threads,
            shape_hw=list(subject.shape_hw),
            iou=subject.opening.iou,
            max_people=subject.contract.nms.max_people,
            images=images,
            files=files or {},
            network=network,
            score=score,
            iterations=iterations,
            warmup=warmup,
        )
