"""What a run measures: artifacts, as their contracts tell, and checkpoints, as a child process reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolopose.runtime.contract import Contract, read_contract
from yolopose.runtime.contract_parts import NmsInfo
from yolopose.runtime.skeleton import Skeleton

from .child import RunChild
from .settings import DEMO, BenchSettings, is_checkpoint, split_backend
from .tasks import Opening, ReferenceTask


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
    return CheckpointSubject(name, path, Skeleton.from_dict(told["skeleton"]), shape, score, iou, nms.max_people)


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
