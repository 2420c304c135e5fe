"""From settings to the list of child processes of a run.

An entry is one file of the run: an artifact, described by its contract, or a checkpoint, described by a child process
that loads it. Accuracy jobs come before timing jobs, so that a file that cannot run fails early.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from yolopose.data.image_set import ImageSet
from yolopose.runtime.backends.base import choose_backend
from yolopose.runtime.console import usage_errors
from yolopose.runtime.contract import Contract, NmsInfo, PoseInfo, read_contract, skeleton_from_dict
from yolopose.runtime.skeleton import Skeleton

from .settings import DEMO, BenchSettings, is_checkpoint, split_backend
from .tasks import CheckpointTask, EstimatorOptions, NetworkTask, PeopleTask, RunChild, Task, TimeTask


@dataclass(frozen=True)
class ArtifactEntry:
    """One artifact of the run. ``name`` is unique in the run."""

    name: str
    path: Path
    contract: Contract
    options: EstimatorOptions

    @property
    def shape_hw(self) -> tuple[int, int]:
        if self.options.imgsz is not None:
            return (self.options.imgsz[0], self.options.imgsz[1])
        return (self.contract.input.height.opt, self.contract.input.width.opt)

    @property
    def skeleton(self) -> Skeleton:
        return self.contract.skeleton

    @property
    def score(self) -> float:
        return self.options.score

    @property
    def iou(self) -> float:
        return self.options.iou

    @property
    def is_float32(self) -> bool:
        return self.contract.precision.weights == self.contract.precision.activations == "float32"

    @property
    def largest_batch(self) -> int:
        return self.contract.input.batch.max


@dataclass(frozen=True)
class CheckpointEntry:
    """A network run by PyTorch: a checkpoint of the run, or the reference at the size and thresholds of an artifact."""

    name: str
    path: Path  # DEMO is not a file
    skeleton: Skeleton
    shape_hw: tuple[int, int]
    score: float
    iou: float
    max_people: int
    max_candidates: int
    pose: PoseInfo | None = None  # None: what suits the network

    @property
    def weights(self) -> str:
        """As ``yolopose.load`` takes it, from any working directory."""
        return _weights(self.path)


Entry = ArtifactEntry | CheckpointEntry


def artifact_entries(settings: BenchSettings) -> list[ArtifactEntry]:
    """Reads every contract. Raises ArtifactError and its subclasses before anything is measured."""
    return [_artifact(name, given, settings) for name, given in _named(settings) if not is_checkpoint(given)]


def _artifact(name: str, given: Path, settings: BenchSettings) -> ArtifactEntry:
    path, backend = split_backend(given)
    contract = read_contract(path)
    options = EstimatorOptions(
        artifact=str(path.resolve()),
        backend=settings.backend if backend is None else backend,
        device=settings.device,
        threads=settings.threads,
        imgsz=None if settings.imgsz is None else list(settings.imgsz),
        score=contract.nms.score_threshold if settings.score is None else settings.score,
        iou=contract.nms.iou_threshold if settings.iou is None else settings.iou,
    )
    return ArtifactEntry(name, path, contract, options)


def checkpoint_entries(settings: BenchSettings, run: RunChild) -> list[CheckpointEntry]:
    """Reads every checkpoint in a child process, which imports torch. Raises what ``yolopose.load`` raises."""
    return [_checkpoint(name, path, settings, run) for name, path in _named(settings) if is_checkpoint(path)]


def _checkpoint(name: str, path: Path, settings: BenchSettings, run: RunChild) -> CheckpointEntry:
    """Thresholds and number of people are those that an export would write into the contract."""
    nms = NmsInfo()
    score = nms.score_threshold if settings.score is None else settings.score
    iou = nms.iou_threshold if settings.iou is None else settings.iou
    shape_hw = None if settings.imgsz is None else list(settings.imgsz)
    task = CheckpointTask(
        _weights(path), settings.threads, shape_hw, iou, nms.max_people, nms.candidates, images=[], files={}
    )
    answer = run(task)
    shape = (answer["shape_hw"][0], answer["shape_hw"][1])
    skeleton = skeleton_from_dict(answer["skeleton"])
    return CheckpointEntry(name, path, skeleton, shape, score, iou, nms.max_people, nms.candidates)


def reference_entry(reference: Path, artifact: ArtifactEntry) -> CheckpointEntry:
    """The reference at the size, thresholds and keypoint source of ``artifact``; equal where these are equal."""
    nms, pose = artifact.contract.nms, artifact.contract.pose
    return CheckpointEntry(
        reference.name,
        reference,
        artifact.skeleton,
        artifact.shape_hw,
        artifact.score,
        artifact.iou,
        nms.max_people,
        nms.candidates,
        pose,
    )


def _named(settings: BenchSettings) -> list[tuple[str, Path]]:
    return list(zip(unique_names(settings.files), settings.files, strict=True))


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with ``@BACKEND`` where it was given; a name that appears again gets a number.

    The same file given twice shows the noise of a run.
    """
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
    entry: str  # its name
    task: Task


def has_network_baseline(artifact: ArtifactEntry) -> bool:
    """ONNX Runtime on the CPU runs the bare network; its time says nothing about another backend or device.

    Raises UsageError for an unknown backend, EngineMismatch for one that cannot load the artifact.
    """
    device = artifact.options.device
    on_cpu = device is None or device.lower() == "cpu"
    with usage_errors():
        backend = choose_backend(artifact.path, artifact.contract, artifact.options.backend)
    return backend == "onnxruntime" and on_cpu and find_spec("onnxruntime") is not None


class BenchPlan:
    """Jobs in the order in which they run, and the files that hold the people they find."""

    def __init__(
        self,
        settings: BenchSettings,
        artifacts: Sequence[ArtifactEntry],
        checkpoints: Sequence[CheckpointEntry],
        images: ImageSet,
        scratch: Path,
    ) -> None:
        self.settings = settings
        self.artifacts = artifacts
        self.checkpoints = checkpoints
        self.images = images
        self.entries: list[Entry] = [*artifacts, *checkpoints]
        self._scratch = scratch
        self._paths = [str(path) for path in images.paths]
        references = [reference for artifact in artifacts if (reference := self.reference_of(artifact)) is not None]
        self._references = list(dict.fromkeys(references))  # artifacts of equal size and thresholds share one

    def reference_of(self, artifact: ArtifactEntry) -> CheckpointEntry | None:
        """The reference as it is compared with this artifact."""
        return None if self.settings.reference is None else reference_entry(self.settings.reference, artifact)

    def people_file(self, entry: Entry, score: float) -> Path:
        """Where the people are that an entry, or a reference, finds at this score threshold."""
        every: list[Entry] = [*self.entries, *self._references]
        return self._scratch / f"people-{every.index(entry)}-{score!r}.npz"

    def jobs(self) -> list[Job]:
        """Raises what ``has_network_baseline`` raises."""
        return [*self._accuracy_jobs(), *self._timing_jobs()]

    def _accuracy_jobs(self) -> Iterator[Job]:
        for artifact in self.artifacts:
            yield Job("people", artifact.name, PeopleTask(artifact.options, self._paths, self._people_files(artifact)))
        for checkpoint in self.checkpoints:
            yield Job("people", checkpoint.name, self._people_task(checkpoint, None))
        for reference in self._references:
            yield Job("reference people", reference.name, self._people_task(reference, self._network_file(reference)))

    def _timing_jobs(self) -> Iterator[Job]:
        settings = self.settings
        for index in range(settings.rounds):
            iterations = settings.iterations_of_round(index)
            images = self._images_of_round(index, iterations + settings.warmup)
            for artifact in self.artifacts:
                batches = sorted({1, min(settings.batch, artifact.largest_batch)})
                task = TimeTask(artifact.options, images, iterations, settings.warmup, batches)
                yield Job("time", artifact.name, task)
                reference = self.reference_of(artifact)
                if reference is not None and has_network_baseline(artifact):
                    file = self._network_file(reference)
                    network = NetworkTask(artifact.options, file, images, iterations, settings.warmup)
                    yield Job("network", artifact.name, network)
            for checkpoint in self.checkpoints:
                yield Job("time", checkpoint.name, self._time_task(checkpoint, images, iterations))
            for first in self._references[:1]:
                yield Job("reference time", first.name, self._time_task(first, images, iterations))

    def _images_of_round(self, index: int, count: int) -> list[str]:
        """Each round begins where the last one ended, so that rounds see different images."""
        count = min(count, len(self._paths))
        start = index * count
        return [self._paths[(start + i) % len(self._paths)] for i in range(count)]

    def _people_files(self, entry: Entry) -> dict[str, float]:
        scores = [entry.score, *([self.settings.evaluation_score] if self.images.labels is not None else [])]
        return {str(self.people_file(entry, score)): score for score in scores}

    def _network_file(self, reference: CheckpointEntry) -> str:
        return str(self._scratch / f"network-{self._references.index(reference)}.onnx")

    def _people_task(self, entry: CheckpointEntry, network: str | None) -> CheckpointTask:
        return CheckpointTask(
            weights=entry.weights,
            threads=self.settings.threads,
            shape_hw=list(entry.shape_hw),
            iou=entry.iou,
            max_people=entry.max_people,
            max_candidates=entry.max_candidates,
            pose=None if entry.pose is None else asdict(entry.pose),
            images=self._paths,
            files=self._people_files(entry),
            network=network,
        )

    def _time_task(self, entry: CheckpointEntry, images: list[str], iterations: int) -> CheckpointTask:
        return CheckpointTask(
            weights=entry.weights,
            threads=self.settings.threads,
            shape_hw=list(entry.shape_hw),
            iou=entry.iou,
            max_people=entry.max_people,
            max_candidates=entry.max_candidates,
            pose=None if entry.pose is None else asdict(entry.pose),
            images=images,
            files={},
            score=entry.score,
            iterations=iterations,
            warmup=self.settings.warmup,
        )
