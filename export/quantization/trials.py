"""What a graph loses against the float32 one on the images of the search: in poses, and in keypoint AP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from yolopose.bootstrap import match_people
from yolopose.runtime.backends.base import OUTPUT_NAMES, RawPeople
from yolopose.runtime.contract import InputInfo
from yolopose.runtime.estimator import people_in_image
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from ..graph_run import feed, in_batches, letterboxed, open_session
from ..images import ExportImages
from .poses import Change, change, pose_loss, signed

SCORE = 0.01  # keypoint AP wants the weak candidates too
DRAWS = 16
IOU, NO_SUPPRESSION = 0.65, 1.0
SAME = 0.999  # OKS of a person with itself


@dataclass(frozen=True)
class Trial:
    """pose_loss: 1 - mean OKS with float32. drop, error: points of keypoint AP that this costs, and the standard error
    of that mean over draws; None where there are no labels."""

    pose_loss: float
    drop: float | None = None
    error: float | None = None


class Trials:
    """Runs graphs with the contract's inputs and outputs on ONNX Runtime's CPU provider, image by image."""

    def __init__(
        self,
        model: onnx.ModelProto,
        images: ExportImages,
        given: InputInfo,
        skeleton: Skeleton,
    ) -> None:
        self.images, self.skeleton = images, skeleton
        self.rows = given.batch.min
        self.frames = letterboxed(images, given)
        self._expected = self._people(model, len(self.frames), IOU)
        # The M rows of an artifact may fill with candidates of the strongest people: the others cannot count.
        unchanged = self._changes(model, len(self.frames))
        pairs = zip(self._expected, unchanged, strict=True)
        self._expected = [people[np.flatnonzero(same.oks > SAME)] for people, same in pairs]
        self._ap = self._ap_of(self._expected)

    def loss(self, model: onnx.ModelProto, count: int) -> float:
        """``pose_loss`` on the first ``count`` images."""
        return pose_loss(self._expected[:count], self._changes(model, count))

    def run(self, model: onnx.ModelProto) -> Trial:
        """All images; where they are labelled also the keypoint AP that the changes of poses and scores cost."""
        changes = self._changes(model, len(self.frames))
        loss = pose_loss(self._expected, changes)
        if self._ap is None:
            return Trial(loss)
        drops = []
        for draw in range(DRAWS):
            rng = np.random.default_rng(draw)
            pairs = zip(self._expected, changes, strict=True)
            ap = self._ap_of([signed(people, moved, rng) for people, moved in pairs])
            assert ap is not None
            drops.append(100 * (self._ap - ap))
        return Trial(loss, float(np.mean(drops)), float(np.std(drops, ddof=1) / DRAWS**0.5))

    def labelled_people(self) -> list[tuple[object, ...]]:
        """What the labels of the images say, for a fingerprint; empty without labels."""
        labels = self.images.labels
        if labels is None:
            return []
        people = [person for image_id in self.images.image_ids for person in labels.people[image_id]]
        return [(p.image_id, p.area, p.is_crowd, p.keypoints.tolist()) for p in people]

    def _changes(self, model: onnx.ModelProto, count: int) -> list[Change]:
        found = self._people(model, count, NO_SUPPRESSION)
        return [change(*pair, self.skeleton) for pair in zip(self._expected[:count], found, strict=True)]

    def _people(self, model: onnx.ModelProto, count: int, iou_threshold: float) -> list[PoseResult]:
        """People of the first ``count`` images at score 0.01, in pixels of the images."""
        session = open_session(model)
        people = []
        for batch in in_batches(self.frames[:count], self.rows):
            frames = [frame for frame, _ in batch]
            raw = RawPeople(*session.run(OUTPUT_NAMES, feed(frames, SCORE, iou_threshold, self.rows)))
            people += [people_in_image(raw, row, placement) for row, (_, placement) in enumerate(batch)]
        return people

    def _ap_of(self, people: list[PoseResult]) -> float | None:
        if self.images.labels is None:
            return None
        by_id = dict(zip(self.images.image_ids, people, strict=True))
        return match_people(by_id, self.images.labels, self.skeleton, image_ids=self.images.image_ids).ap()
