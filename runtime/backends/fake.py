"""A backend without an engine, for tests of applications: prepared people, no file and no network needed.

estimate = PoseEstimator(fake_contract(), backend=FakeBackend([raw_people([people], max_people=100)]))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..contract import Contract, InputInfo, ModelInfo, NmsInfo, PrecisionInfo, Provenance, Range
from ..result import PoseResult
from ..skeleton import COCO_17, Skeleton
from .base import Floats, RawPeople

Answer = Callable[[npt.NDArray[np.uint8], Floats, Floats], RawPeople]


class FakeBackend:
    """Answers from a function of (images, score_threshold, iou_threshold), or with a list of answers over and over.

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

    def infer(self, images: npt.NDArray[np.uint8], score_threshold: Floats, iou_threshold: Floats) -> RawPeople:
        self.calls.append(images.shape)
        if callable(self._answers):
            return self._answers(images, score_threshold, iou_threshold)
        return self._answers[(len(self.calls) - 1) % len(self._answers)]

    def close(self) -> None:
        self.closed = True


def raw_people(batch: Sequence[PoseResult], max_people: int) -> RawPeople:
    """The outputs an artifact would give for `batch` (one entry an image), whose coordinates are letterboxed pixels."""
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
    """A contract that belongs to no file: 640x640 and any batch up to 8 unless told otherwise."""
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
