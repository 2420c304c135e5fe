"""How the keypoint AP of each file differs from that of the reference, or of the run's first file."""

from __future__ import annotations

from pathlib import Path

from yolopose.bootstrap import Matches, ap_difference
from yolopose.runtime.skeleton import Skeleton

from .accuracy import matches
from .inputs import BenchImages
from .people_file import load_people
from .plan import Plan
from .report import APChange
from .subjects import ArtifactSubject, Subject


class APChanges:
    """Of one run, whose people have been collected; people of each file are matched to the labels once."""

    def __init__(self, plan: Plan, images: BenchImages) -> None:
        self._plan = plan
        self._images = images
        self._matched: dict[Path, Matches] = {}

    def of(self, subject: Subject) -> APChange | None:
        """None without labels, where nobody is labelled, and for the first file where there is no reference."""
        dataset = self._images.dataset
        base, file = self._base(subject)
        if dataset is None or base == subject:
            return None
        own = self._plan.people_file(subject, self._plan.settings.evaluation_score)
        change = ap_difference(self._matches(file, base.skeleton), self._matches(own, subject.skeleton))
        if change is None:
            return None
        worst = None if change.worst_image is None else dataset.images[change.worst_image].path.name
        return APChange(base.name, change.difference, change.interval, change.resamples, worst)

    def _base(self, subject: Subject) -> tuple[Subject, Path]:
        """What a file is compared with, and where its people are.

        The reference is taken under the conditions of the artifact; for a checkpoint, of the run's first artifact.
        """
        plan, score = self._plan, self._plan.settings.evaluation_score
        if plan.settings.reference is not None:
            reference = plan.reference(subject if isinstance(subject, ArtifactSubject) else plan.artifacts[0])
            assert reference is not None
            return reference, plan.reference_file(reference, score)
        return plan.subjects[0], plan.people_file(plan.subjects[0], score)

    def _matches(self, file: Path, skeleton: Skeleton) -> Matches:
        if file not in self._matched:
            convention = self._plan.settings.evaluation_images
            self._matched[file] = matches(load_people(file), skeleton, self._images, convention)
        return self._matched[file]
