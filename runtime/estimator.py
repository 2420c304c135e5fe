"""Frames one after the other, with the preparation of the next overlapping the inference of this one.

From images to people: letterbox, one run of the artifact, coordinates back in the image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .backends.base import Backend, RawPeople, open_backend
from .contract import Contract, Range, read_contract
from .images import Image, as_bgr_image
from .letterbox import Placement, letterbox
from .result import PoseResult
from .skeleton import Skeleton

Batch = npt.NDArray[np.uint8]
Prepared = tuple[Batch, list[Placement]]
_PATIENCE_S = 1.0  # a camera gives its next frame within this; a source that does not is left behind
_END: Any = object()


def overlapped(estimate: PoseEstimator, frames: Iterable[npt.NDArray[Any]], color: str) -> Iterator[PoseResult]:
    """People of each frame, in order. Frames are read in a thread of their own, at most one ahead.

    An error while reading or preparing a frame is raised in its turn, after the people of the frames before it.
    Left early, it waits up to a second for the frame that is being read; a source that blocks for longer keeps its
    (daemon) thread, and what it gives afterwards is dropped.
    """
    source = iter(frames)
    free: SimpleQueue[Batch | None] = SimpleQueue()
    ready: SimpleQueue[Prepared | BaseException | None] = SimpleQueue()
    writing, left = Lock(), Event()

    def read_ahead() -> None:
        try:
            while (batch := free.get()) is not None and not left.is_set():
                if (frame := next(source, _END)) is _END:
                    return ready.put(None)
                with writing:  # a late frame must not touch a buffer that was given back
                    if not left.is_set():
                        ready.put(estimate.preprocess([frame], color, out=batch))
        except BaseException as error:  # whatever it is, it belongs to the caller's thread
            ready.put(error)

    worker = Thread(target=read_ahead, name="yolopose-stream", daemon=True)
    # one buffer is inferred while the other one is filled
    with estimate.buffer(1) as first, estimate.buffer(1) as second:
        for batch in (first, second):
            free.put(batch)
        worker.start()
        try:
            while (prepared := ready.get()) is not None:
                if isinstance(prepared, BaseException):
                    raise prepared
                batch, placements = prepared
                (people,) = estimate.postprocess(estimate.infer(batch), placements)
                yield people
                free.put(batch)
        finally:
            with writing:
                left.set()
            free.put(None)
            worker.join(_PATIENCE_S)


class PoseEstimator:
    """A loaded artifact, to be closed or used as a context manager. Threads may share it; results are copies.

    artifact: path of an .onnx, .engine or .trt; or, with a Backend of your own, a Contract
    backend: "auto", the name of an engine, or a Backend
    device: None for the engine's usual one, or e.g. "cpu", "cuda:0"; what is asked for is had, or BackendUnavailable
    score_threshold, iou_threshold: 0..1, None as in the contract; may be set again at any time
    threads: of the engine, None for its own choice
    imgsz: frame the images are letterboxed to: one number for a square, (height, width), None as in the contract

    Raises ValueError for wrong arguments, ArtifactError for a file that cannot be used, BackendUnavailable.
    """

    def __init__(
        self,
        artifact: str | Path | Contract,
        backend: str | Backend = "auto",
        device: str | None = None,
        score_threshold: float | None = None,
        iou_threshold: float | None = None,
        threads: int | None = None,
        imgsz: int | tuple[int, int] | None = None,
    ) -> None:
        if isinstance(artifact, Contract) and isinstance(backend, str):
            raise ValueError("a Contract alone cannot be run: give the path of an artifact, or a Backend beside it")
        self.contract = artifact if isinstance(artifact, Contract) else read_contract(artifact)
        self.skeleton: Skeleton = self.contract.skeleton
        self.shape_hw = _frame(self.contract, imgsz)
        nms = self.contract.nms
        self.score_threshold = nms.score_threshold if score_threshold is None else score_threshold
        self.iou_threshold = nms.iou_threshold if iou_threshold is None else iou_threshold
        if isinstance(backend, str):
            assert not isinstance(artifact, Contract)
            backend = open_backend(artifact, self.contract, backend, device, threads, self.shape_hw)
        self.backend: Backend = backend
        # A plan may take fewer images at once at this size than at others.
        self._batch: Range = getattr(backend, "batch", self.contract.input.batch)
        self._spare: list[Batch] = []  # free input buffers, as many as calls ran at once
        self._lock = Lock()
        self._closed = False

    @property
    def score_threshold(self) -> float:
        return self._score_threshold

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        self._score_threshold = _threshold("score_threshold", value)

    @property
    def iou_threshold(self) -> float:
        return self._iou_threshold

    @iou_threshold.setter
    def iou_threshold(self, value: float) -> None:
        self._iou_threshold = _threshold("iou_threshold", value)

    @overload
    def __call__(self, images: npt.NDArray[Any], color: str = "bgr") -> PoseResult: ...
    @overload
    def __call__(self, images: Sequence[npt.NDArray[Any]], color: str = "bgr") -> list[PoseResult]: ...
    def __call__(
        self, images: npt.NDArray[Any] | Sequence[npt.NDArray[Any]], color: str = "bgr"
    ) -> PoseResult | list[PoseResult]:
        """People of one image, or of each in a list (any sizes, any length).

        Images are (H, W, 3) uint8 in the order of `color`; as_bgr_image() says what else is understood.
        Raises ValueError for arrays that are not images, BackendError when the engine fails.
        """
        if not isinstance(images, list | tuple):
            image: Any = images
            return self._estimate([image], color)[0]
        largest = self._batch.max
        people: list[PoseResult] = []
        for start in range(0, len(images), largest):
            people += self._estimate(images[start : start + largest], color)
        return people

    def stream(self, frames: Iterable[npt.NDArray[Any]], color: str = "bgr") -> Iterator[PoseResult]:
        """People of each frame, in order; the next frame is read and letterboxed while this one is inferred."""
        return overlapped(self, frames, color)

    def preprocess(
        self, images: Sequence[npt.NDArray[Any]], color: str = "bgr", out: Batch | None = None
    ) -> tuple[Batch, list[Placement]]:
        """Letterbox `images` into a batch (b, h, w, 3) uint8, `out` if given; b is at least the contract's smallest.

        Rows past the images are padding. One placement an image.
        """
        rows = self.batch_rows(len(images))
        batch = np.empty((rows, *self.shape_hw, 3), np.uint8) if out is None else out
        pad_value, pad_side = self.contract.input.pad_value, self.contract.input.pad_side
        placements = []
        for image, row in zip(images, batch, strict=False):
            bgr: Image = as_bgr_image(image, color)
            placements.append(letterbox(bgr, self.shape_hw, pad_value=pad_value, pad_side=pad_side, out=row)[1])
        batch[len(images) :] = pad_value
        return batch, placements

    def infer(self, batch: Batch) -> RawPeople:
        """One run of the artifact on a batch (b, h, w, 3) uint8 at the present thresholds; letterboxed pixels."""
        if self._closed:
            raise ValueError("this PoseEstimator is closed; make a new one")
        rows = len(batch)
        score_threshold = np.full((rows, 1), self._score_threshold, np.float32)
        iou_threshold = np.full((rows, 1), self._iou_threshold, np.float32)
        return self.backend.infer(batch, score_threshold, iou_threshold)

    def postprocess(self, raw: RawPeople, placements: Sequence[Placement]) -> list[PoseResult]:
        """Copies of the people of each placed image, in pixels of that image."""
        return [people_in_image(raw, row, placement) for row, placement in enumerate(placements)]

    def batch_rows(self, images: int) -> int:
        """How many rows a batch of that many images has."""
        return max(images, self._batch.min)

    @contextmanager
    def buffer(self, images: int) -> Iterator[Batch]:
        """Lend an input buffer (b, h, w, 3) for that many images; it is used again, and grows when it must."""
        rows = self.batch_rows(images)
        with self._lock:
            whole = self._spare.pop() if self._spare else None
        if whole is None or len(whole) < rows:
            whole = np.empty((rows, *self.shape_hw, 3), np.uint8)
        try:
            yield whole[:rows]
        finally:
            with self._lock:
                self._spare.append(whole)

    def _estimate(self, images: Sequence[npt.NDArray[Any]], color: str) -> list[PoseResult]:
        with self.buffer(len(images)) as batch:
            _, placements = self.preprocess(images, color, out=batch)
            return self.postprocess(self.infer(batch), placements)

    def close(self) -> None:
        """Give back the engine and the buffers; a second call does nothing."""
        self._closed = True
        self._spare.clear()
        self.backend.close()

    def __enter__(self) -> PoseEstimator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def people_in_image(raw: RawPeople, row: int, placement: Placement) -> PoseResult:
    """Copies of the people in ``row`` of a batch, in pixels of the image that was placed there."""
    count = int(raw.num_people[row])
    keypoints = raw.keypoints[row, :count]
    return PoseResult(
        boxes=placement.boxes_to_image(raw.boxes[row, :count]),
        scores=raw.scores[row, :count].copy(),
        labels=raw.labels[row, :count].copy(),
        keypoints=placement.to_image(keypoints[..., :2]),
        keypoint_scores=keypoints[..., 2].copy(),
        num_candidates=int(raw.num_candidates[row]),
        flags=int(raw.flags[row]),
    )


def _threshold(name: str, value: float) -> float:
    number = not isinstance(value, bool) and isinstance(value, int | float | np.floating)
    if not number or not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number in 0..1, got {value!r}")
    return float(value)


def _frame(contract: Contract, imgsz: int | tuple[int, int] | None) -> tuple[int, int]:
    ranges: tuple[Range, Range] = (contract.input.height, contract.input.width)
    if imgsz is None:
        return ranges[0].opt, ranges[1].opt
    shape = tuple(imgsz) if isinstance(imgsz, list | tuple) else (imgsz, imgsz)
    if len(shape) != 2 or any(isinstance(size, bool) or not isinstance(size, int | np.integer) for size in shape):
        raise ValueError(f"imgsz must be a whole number or (height, width), got {imgsz!r}")
    for name, size, legal in zip(("height", "width"), shape, ranges, strict=True):
        if size not in legal:
            raise ValueError(f"imgsz: {name} {size} is not legal for this artifact; legal are {legal}")
    return int(shape[0]), int(shape[1])
