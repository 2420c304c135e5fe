"""From images to people: letterbox, one run of the artifact, coordinates back in pixels of the image.

`PoseEstimator` works on single images and lists; its `stream` prepares the next frame while this one is inferred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from .backends.base import Backend, RawPeople, open_backend
from .contract import Contract, Range, read_contract
from .images import Image, as_bgr_image, read_image
from .letterbox import Placement, letterbox
from .result import PoseResult, pose_scores_of
from .skeleton import Skeleton

DEMO = "demo"  # names the artifact that comes with the package
DEMO_FILE = Path(__file__).with_name("demo.onnx")

ImageLike: TypeAlias = npt.NDArray[Any] | str | Path  # an array that as_bgr_image() takes, or the path of an image file
Batch: TypeAlias = npt.NDArray[np.uint8]
_STREAM_TIMEOUT_S = 1.0  # a camera delivers its next frame within this; a slower source is not waited for
_END: Any = object()


class PoseEstimator:
    """A loaded artifact. Use it as a context manager or close it. Threads may share it; results are copies.

    artifact: path of an .onnx, .engine or .trt; "demo" for the small network that comes with the package; or, with a
        Backend of your own, a Contract
    backend: "auto", the name of a backend, or a Backend
    device: None for the backend's default, or e.g. "cpu", "cuda:0"; raises BackendUnavailable if it is not available
    score_threshold, iou_threshold: 0..1, None as in the contract; may be set again at any time
    min_pose_score: 0..1, people with a lower pose score are dropped (see PoseResult); may be set again at any time
    threads: of the backend, None for its own choice
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
        min_pose_score: float = 0.0,
    ) -> None:
        if isinstance(artifact, Contract):
            if isinstance(backend, str):
                raise ValueError("a Contract alone cannot be run: give the path of an artifact, or a Backend with it")
            self.contract = artifact
        else:
            artifact = DEMO_FILE if artifact == DEMO else artifact
            self.contract = read_contract(artifact)
        self.skeleton: Skeleton = self.contract.skeleton
        self.shape_hw = _frame_shape(self.contract, imgsz)
        nms = self.contract.nms
        self.score_threshold = nms.score_threshold if score_threshold is None else score_threshold
        self.iou_threshold = nms.iou_threshold if iou_threshold is None else iou_threshold
        self.min_pose_score = min_pose_score
        if isinstance(backend, str):
            assert not isinstance(artifact, Contract)
            backend = open_backend(artifact, self.contract, backend, device, threads, self.shape_hw)
        self.backend: Backend = backend
        # A plan may take fewer images at once at this size than at others.
        self._batch: Range = getattr(backend, "batch", self.contract.input.batch)
        self._free_buffers: list[Batch] = []  # as many as the largest number of calls that ran at once
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

    @property
    def min_pose_score(self) -> float:
        return self._min_pose_score

    @min_pose_score.setter
    def min_pose_score(self, value: float) -> None:
        self._min_pose_score = _threshold("min_pose_score", value)

    @overload
    def __call__(self, images: ImageLike, color: str = "bgr") -> PoseResult: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Sequence[ImageLike], color: str = "bgr") -> list[PoseResult]: ...
    def __call__(self, images: ImageLike | Sequence[ImageLike], color: str = "bgr") -> PoseResult | list[PoseResult]:
        """People of one image, or of each image in a list of any length.

        An image is a path, or an array (H, W, 3) uint8 in the order of `color`; as_bgr_image() says which other arrays
        are accepted. The images of a list may have different sizes.
        Raises ValueError for arrays that are not images, SourceError for files that cannot be read, BackendError when
        the backend fails.
        """
        if not isinstance(images, list | tuple):
            image: Any = images
            return self._estimate([image], color)[0]
        largest = self._batch.max
        people: list[PoseResult] = []
        for start in range(0, len(images), largest):
            people += self._estimate(images[start : start + largest], color)
        return people

    def stream(self, frames: Iterable[ImageLike], color: str = "bgr") -> Iterator[PoseResult]:
        """People of each frame, in order; the next frame is read and letterboxed while this one is inferred.

        An error while reading or preparing a frame is raised after the people of the frames before it.
        """
        return _overlapped(self, frames, color)

    def preprocess(
        self, images: Sequence[ImageLike], color: str = "bgr", out: Batch | None = None
    ) -> tuple[Batch, list[Placement]]:
        """Letterbox `images` into a batch (b, h, w, 3) uint8, `out` if given; b is at least the contract's smallest.

        Rows past the images are padding. Returns one placement an image.
        """
        rows = self.batch_rows(len(images))
        batch = np.empty((rows, *self.shape_hw, 3), np.uint8) if out is None else out
        pad_value, pad_side = self.contract.input.pad_value, self.contract.input.pad_side
        placements = []
        for image, row in zip(images, batch, strict=False):
            bgr: Image = read_image(image) if isinstance(image, str | Path) else as_bgr_image(image, color)
            placements.append(letterbox(bgr, self.shape_hw, pad_value=pad_value, pad_side=pad_side, out=row)[1])
        batch[len(images) :] = pad_value
        return batch, placements

    def infer(self, batch: Batch) -> RawPeople:
        """One run of the artifact on a batch (b, h, w, 3) uint8 at the current thresholds; letterboxed pixels."""
        if self._closed:
            raise ValueError("this PoseEstimator is closed; make a new one")
        rows = len(batch)
        score_threshold = np.full((rows, 1), self._score_threshold, np.float32)
        iou_threshold = np.full((rows, 1), self._iou_threshold, np.float32)
        return self.backend.infer(batch, score_threshold, iou_threshold)

    def postprocess(self, raw: RawPeople, placements: Sequence[Placement]) -> list[PoseResult]:
        """Copies of the people of each placed image, in pixels of that image."""
        found = [people_in_image(raw, row, placement, self.skeleton) for row, placement in enumerate(placements)]
        if self._min_pose_score > 0:
            found = [people[people.pose_scores >= self._min_pose_score] for people in found]
        return found

    def batch_rows(self, images: int) -> int:
        """Number of rows in a batch of that many images."""
        return max(images, self._batch.min)

    @contextmanager
    def buffer(self, images: int) -> Iterator[Batch]:
        """Lend an input buffer (b, h, w, 3) for that many images. Buffers are reused and grow when needed."""
        rows = self.batch_rows(images)
        with self._lock:
            whole = self._free_buffers.pop() if self._free_buffers else None
        if whole is None or len(whole) < rows:
            whole = np.empty((rows, *self.shape_hw, 3), np.uint8)
        try:
            yield whole[:rows]
        finally:
            with self._lock:
                self._free_buffers.append(whole)

    def _estimate(self, images: Sequence[ImageLike], color: str) -> list[PoseResult]:
        with self.buffer(len(images)) as batch:
            _, placements = self.preprocess(images, color, out=batch)
            return self.postprocess(self.infer(batch), placements)

    def close(self) -> None:
        """Release the backend and the buffers; a second call does nothing."""
        self._closed = True
        self._free_buffers.clear()
        self.backend.close()

    def __enter__(self) -> PoseEstimator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def people_in_image(raw: RawPeople, row: int, placement: Placement, skeleton: Skeleton | None = None) -> PoseResult:
    """Copies of the people in `row` of a batch, in pixels of the image that was placed there."""
    count = int(raw.num_people[row])
    scores, keypoints = raw.scores[row, :count].copy(), raw.keypoints[row, :count]
    if raw.pose_scores is None:
        pose_scores = pose_scores_of(scores, keypoints[..., 2])
    else:
        pose_scores = raw.pose_scores[row, :count].copy()
    spread = None if raw.keypoint_spread is None else placement.lengths_to_image(raw.keypoint_spread[row, :count])
    return PoseResult(
        boxes=placement.boxes_to_image(raw.boxes[row, :count]),
        scores=scores,
        labels=raw.labels[row, :count].copy(),
        keypoints=placement.to_image(keypoints[..., :2]),
        keypoint_scores=keypoints[..., 2].copy(),
        pose_scores=pose_scores,
        keypoint_spread=spread,
        num_candidates=int(raw.num_candidates[row]),
        flags=int(raw.flags[row]),
        skeleton=skeleton,
    )


def _overlapped(estimate: PoseEstimator, frames: Iterable[ImageLike], color: str) -> Iterator[PoseResult]:
    """PoseEstimator.stream: a thread reads and letterboxes at most one frame ahead, into one of two buffers.

    When the caller stops early, this waits up to _STREAM_TIMEOUT_S for the frame that is being read. A source that
    blocks for longer keeps its (daemon) thread, and the frame it delivers afterwards is dropped.
    """
    source = iter(frames)
    free: SimpleQueue[Batch | None] = SimpleQueue()  # None: stop reading
    ready: SimpleQueue[tuple[Batch, list[Placement]] | BaseException | None] = SimpleQueue()  # None: no more frames
    writing, stopped = Lock(), Event()

    def read_ahead() -> None:
        try:
            while (batch := free.get()) is not None and not stopped.is_set():
                if (frame := next(source, _END)) is _END:
                    return ready.put(None)
                with writing:  # a late frame must not be written to a buffer that was returned
                    if not stopped.is_set():
                        ready.put(estimate.preprocess([frame], color, out=batch))
        except BaseException as error:  # of any kind: it is raised in the caller's thread
            ready.put(error)

    worker = Thread(target=read_ahead, name="yolopose-stream", daemon=True)
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
                stopped.set()
            free.put(None)
            worker.join(_STREAM_TIMEOUT_S)


def _threshold(name: str, value: float) -> float:
    number = not isinstance(value, bool) and isinstance(value, int | float | np.floating)
    if not number or not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"{name} must be a number in 0..1, got {value!r}")
    return float(value)


def _frame_shape(contract: Contract, imgsz: int | tuple[int, int] | None) -> tuple[int, int]:
    """(height, width) of the frame."""
    ranges: tuple[Range, Range] = (contract.input.height, contract.input.width)
    if imgsz is None:
        return ranges[0].opt, ranges[1].opt
    shape = tuple(imgsz) if isinstance(imgsz, list | tuple) else (imgsz, imgsz)
    if len(shape) != 2 or any(isinstance(size, bool) or not isinstance(size, int | np.integer) for size in shape):
        raise ValueError(f"imgsz must be an integer or (height, width), got {imgsz!r}")
    for name, size, legal in zip(("height", "width"), shape, ranges, strict=True):
        if size not in legal:
            raise ValueError(f"imgsz: {name} {size} is not legal for this artifact; legal are {legal}")
    return int(shape[0]), int(shape[1])
