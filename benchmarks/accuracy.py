"""Accuracy of the people found: counts and flags, parity with the reference, AP against labels, AP differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolopose.bootstrap import MatchedPeople, ap_difference, match_people
from yolopose.data.image_set import ImageSet
from yolopose.evaluation import Convention, evaluate
from yolopose.runtime.result import CANDIDATES_CUT, NMS_NOT_CONVERGED, PEOPLE_CUT, PoseResult
from yolopose.runtime.skeleton import Skeleton

from .plan import ArtifactEntry, BenchPlan, CheckpointEntry, Entry
from .report import APChange, PeopleCounts
from .tasks import load_people


def count_people(results: Sequence[PoseResult], score: float) -> PeopleCounts:
    def flagged(bit: int) -> int:
        return sum(bool(people.flags & bit) for people in results)

    return PeopleCounts(
        score=score,
        images=len(results),
        people=sum(len(people) for people in results),
        max_candidates=max((people.num_candidates for people in results), default=0),
        candidates_cut=flagged(CANDIDATES_CUT),
        people_cut=flagged(PEOPLE_CUT),
        nms_not_converged=flagged(NMS_NOT_CONVERGED),
    )


def parity_with_reference(plan: BenchPlan, artifact: ArtifactEntry, reference: CheckpointEntry) -> dict[str, Any]:
    """Fields of ``export.verify.ParityReport`` at the deployed thresholds."""
    from yolopose.export.verify import compare_people

    expected = load_people(plan.people_file(reference, artifact.score))
    people = load_people(plan.people_file(artifact, artifact.score))
    names = [path.name for path in plan.images.paths]
    report = compare_people(
        expected, people, artifact.skeleton, artifact.score, iou_threshold=artifact.iou, names=names
    )
    return report.to_dict()


def average_precision(
    results: Sequence[PoseResult], skeleton: Skeleton, images: ImageSet, convention: Convention
) -> dict[str, Any]:
    """Fields of ``evaluation.KeypointAP`` over the images of this run, which must be labeled; people by pose score.

    "ap_by_score" is the AP of the same people ranked by their box score.
    """
    assert images.labels is not None, "AP needs labels"
    by_id = dict(zip(images.image_ids, results, strict=True))
    ids = list(images.image_ids)
    ap = evaluate(by_id, images.labels, skeleton, ids, convention)
    by_score = match_people(by_id, images.labels, skeleton, ids, convention, ranking="score")
    return ap.to_dict() | {"ap_by_score": by_score.ap()}


class APChanges:
    """AP of each entry minus that of the reference or, without one, of the run's first entry.

    The people must have been collected. Those of each entry are matched to the labels once.
    """

    def __init__(self, plan: BenchPlan) -> None:
        self._plan = plan
        self._matched: dict[Path, MatchedPeople] = {}

    def of(self, entry: Entry) -> APChange | None:
        """None without labels, when no person is labeled, and for the entry that the others are compared with."""
        dataset = self._plan.images.labels
        base = self._base(entry)
        if dataset is None or base == entry:
            return None
        change = ap_difference(self._match(base), self._match(entry))
        if change is None:
            return None
        worst = None if change.worst_image is None else dataset.images[change.worst_image].path.name
        return APChange(base.name, change.difference, change.interval, change.resamples, worst)

    def _base(self, entry: Entry) -> Entry:
        """What an entry is compared with. For a checkpoint the reference is run as for the run's first artifact."""
        if self._plan.settings.reference is None:
            return self._plan.entries[0]
        reference = self._plan.reference_of(entry if isinstance(entry, ArtifactEntry) else self._plan.artifacts[0])
        assert reference is not None
        return reference

    def _match(self, entry: Entry) -> MatchedPeople:
        settings, images = self._plan.settings, self._plan.images
        file = self._plan.people_file(entry, settings.evaluation_score)
        if file not in self._matched:
            assert images.labels is not None
            by_id = dict(zip(images.image_ids, load_people(file), strict=True))
            ids, convention = list(images.image_ids), settings.evaluation_images
            self._matched[file] = match_people(by_id, images.labels, entry.skeleton, image_ids=ids, images=convention)
        return self._matched[file]
