"""A test double of a backend, for tests of applications: it returns prepared people and needs no file or network.

backend = FakeBackend([raw_people([people], max_people=100)])
estimate = PoseEstimator(fake_contract(), backend=backend)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..contract import Contract, InputInfo, ModelInfo, NmsInfo, PrecisionInfo, Provenance, Range
from ..result import PoseResult
from ..skeleton import COCO_17, Skeleton
from .base import Floats, Images, RawPeople

Answer = Callable[[Images, Floats, Floats], RawPeople]


class FakeBackend:
    """Returns what a function of (images, score_threshold, iou_threshold) returns, or the given answers in turn.

    calls: shape of the images of each call so far
    """

    name = "fake"
    device = "none"
    version = "1"

    def __init__(self, answers: Sequence[RawPeople] | Answer) -> None:
        if not callable(answers) and len(answers) == 0:
            raise ValueError("answers: give at least one RawPeople, or a function")
        self._answers = answers
        self.calls: list[tuple[int, ...]] = []
        self.closed = False

    def infer(self, images: Images, score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        self.calls.append(images.shape)
        if callable(self._answers):
            return self._answers(images, score_threshold, iou_threshold)
        return self._answers[(len(self.calls) - 1) % len(self._answers)]

    def close(self) -> None:
        self.closed = True


def raw_people(batch: Sequence[PoseResult], max_people: int) -> RawPeople:
    """The outputs of an artifact that finds `batch`: one result for each image, in pixels of the letterboxed image.

    Raises ValueError for an empty batch, or more than max_people in an image.
    """
    if not batch:
        raise ValueError("batch: give a PoseResult for each image")
    rows, keypoints = len(batch), batch[0].num_keypoints
    raw = RawPeople(
        num_people=np.array([len(people) for people in batch], np.int32),
        boxes=np.zeros((rows, max_people, 4), np.float32),
        scores=np.zeros((rows, max_people), np.float32),
        labels=np.zeros((rows, max_people), np.int32),
        keypoints=np.zeros((rows, max_people, keypoints, 3), np.float32),
        num_candidates=np.array([people.num_candidates for people in batch], np.int32),
        flags=np.array([people.flags for people in batch], np.int32),
    )
    for row, people in enumerate(batch):
        count = len(people)
        if count > max_people:
            raise ValueError(f"batch[{row}] has {count} people, more than max_people {max_people}")
        raw.boxes[row, :count] = people.boxes
        raw.scores[row, :count] = people.scores
        raw.labels[row, :count] = people.labels
        raw.keypoints[row, :count, :, :2] = people.keypoints
        raw.keypoints[row, :count, :, 2] = people.keypoint_scores
    return raw


def fake_contract(
    skeleton: Skeleton = COCO_17,
    height: Range | None = None,
    width: Range | None = None,
    batch: Range | None = None,
    max_people: int = 100,
) -> Contract:
    """A contract without a file. Defaults: 640x640, at most 8 images in a batch."""
    return Contract(
        model=ModelInfo(name="fake", family="fake"),
        skeleton=skeleton,
        input=InputInfo(
            height=height or Range(64, 640, 1280, 32),
            width=width or Range(64, 640, 1280, 32),
            batch=batch or Range(1, 1, 8),
        ),
        nms=NmsInfo(max_people=max_people),
        precision=PrecisionInfo(),
        provenance=Provenance(graph_sha256="0" * 64),
    )
