"""PoseEstimator on the dot artifact: single images, lists, files, threads and streams; arguments and errors."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolopose.runtime.backends.fake import FakeBackend, fake_contract, raw_people
from yolopose.runtime.contract import Range
from yolopose.runtime.errors import ArtifactError, BackendError, SourceError
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.letterbox import letterbox
from yolopose.runtime.machine import resident_mib
from yolopose.runtime.result import NMS_NOT_CONVERGED, PoseResult
from yolopose.runtime.skeleton import COCO_17, LSP_14

Dots = Callable[..., np.ndarray]


def same(a: PoseResult, b: PoseResult) -> bool:
    names = ("boxes", "scores", "labels", "keypoints", "keypoint_scores")
    equal = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return equal and (a.num_candidates, a.flags) == (b.num_candidates, b.flags)


@pytest.mark.parametrize("shape", [(64, 96), (480, 640), (200, 1500), (1500, 200), (333, 517), (31, 47)])
def test_people_are_where_they_were_drawn(shape: tuple[int, int], artifact: Path, draw_dots: Dots) -> None:
    height, width = shape
    points = [(0, width * 0.25, height * 0.4), (2, width * 0.75, height * 0.6)]
    image = draw_dots(shape, *points, radius=min(shape) / 7)
    with PoseEstimator(artifact, threads=1, imgsz=(256, 256)) as estimate:
        people = estimate(image)
    assert people.labels.tolist() in ([0, 2], [2, 0])
    pixel = max(height, width) / 256  # of the frame, in the image
    for person, (_, x, y) in zip(people[np.argsort(people.labels)], points, strict=True):
        found = person.keypoints[0]
        np.testing.assert_allclose(found, [x, y], atol=0.6 * max(pixel, 1))
        np.testing.assert_allclose(person.box, [*(found - 4 * pixel), *(found + 4 * pixel)], atol=1e-3 * width)
        np.testing.assert_allclose(np.diff(person.keypoints[:, 0]), pixel, rtol=1e-2, atol=1e-3)
    assert people.num_candidates > 0
    assert (people.boxes.dtype, people.labels.dtype) == (np.float32, np.int32)


def test_wide_image_of_20000_pixels_and_single_pixel(artifact: Path, draw_dots: Dots) -> None:
    with PoseEstimator(artifact, threads=1) as estimate:
        wide = estimate(draw_dots((400, 20_000), (1, 15_000, 200), radius=300))
        np.testing.assert_allclose(wide.keypoints[0, 0], [15_000, 200], atol=210)
        dark = estimate(np.zeros((1, 1, 3), np.uint8))
        lit = estimate(np.full((1, 1, 3), 255, np.uint8))
    assert len(dark) == 0
    assert dark.keypoints.shape == (0, 17, 2)
    np.testing.assert_allclose(lit.keypoints[:, 0], [[0.5, 0.5]] * 3, atol=0.02)


def test_thresholds_come_from_the_contract_the_arguments_and_later(artifact: Path, draw_dots: Dots) -> None:
    image = draw_dots((64, 96), (0, 30, 30), level=222)  # score 0.4
    with PoseEstimator(artifact, threads=1) as estimate:
        assert (estimate.score_threshold, estimate.iou_threshold) == (0.25, 0.65)
        assert len(estimate(image)) == 1
        assert estimate(image).flags == 0
        estimate.score_threshold = 0.5
        estimate.iou_threshold = np.float32(0.95)
        assert len(estimate(image)) == 0
        assert estimate(image).flags == NMS_NOT_CONVERGED
    with PoseEstimator(artifact, threads=1, score_threshold=0.45) as estimate:
        assert len(estimate(image)) == 0


def test_pose_scores_and_spread_come_from_the_artifact_and_poor_poses_are_dropped() -> None:
    several = PoseResult(np.zeros((3, 4)), [0.9, 0.8, 0.7], np.zeros(3), np.zeros((3, 17, 2)), np.full((3, 17), 0.5))
    raw = raw_people([several], max_people=100)
    image = np.zeros((320, 320, 3), np.uint8)  # enlarged twice
    with PoseEstimator(fake_contract(), backend=FakeBackend([raw])) as estimate:
        np.testing.assert_allclose(estimate(image).pose_scores, [0.45, 0.4, 0.35], rtol=1e-6)
        assert estimate(image).keypoint_spread is None
    pose_scores = np.zeros((1, 100), np.float32)
    pose_scores[0, :3] = (0.1, 0.6, 0.3)
    raw = raw._replace(pose_scores=pose_scores, keypoint_spread=np.full((1, 100, 17), 4, np.float32))
    with PoseEstimator(fake_contract(), backend=FakeBackend([raw]), min_pose_score=0.2) as estimate:
        people = estimate(image)
        np.testing.assert_allclose(people.pose_scores, [0.6, 0.3])
        np.testing.assert_allclose(people.scores, [0.8, 0.7])
        assert people.keypoint_spread.tolist() == [[2.0] * 17] * 2
        estimate.min_pose_score = 0.5
        assert len(estimate(image)) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1, "0.5", True, None])
@pytest.mark.parametrize("name", ["score_threshold", "iou_threshold"])
def test_rejects_wrong_thresholds(name: str, value: object, artifact: Path) -> None:
    with (
        PoseEstimator(artifact, threads=1) as estimate,
        pytest.raises(ValueError, match=f"{name} must be a number in 0"),
    ):
        setattr(estimate, name, value)
    if value is not None:
        with pytest.raises(ValueError, match=f"{name} must be a number in 0"):
            PoseEstimator(artifact, **{name: value})


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9])
def test_lists_of_any_length_and_size_equal_single_images(count: int, artifact: Path, draw_dots: Dots) -> None:
    images = [draw_dots((50 + 30 * n, 200 - 15 * n), (n % 3, 40, 30), radius=9) for n in range(count)]
    if count > 2:
        images[1] = np.zeros((7, 5, 3), np.uint8)  # an empty scene in between
    with PoseEstimator(artifact, threads=1) as estimate:
        several = estimate(images)
        single = [estimate(image) for image in images]
    assert len(several) == count
    assert all(map(same, several, single))


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_fixed_batch_is_padded(
    count: int, build_artifact: Callable[..., Path], artifact: Path, draw_dots: Dots
) -> None:
    images = [draw_dots((64, 96), (n % 3, 20 + 5 * n, 30)) for n in range(count)]
    fixed = build_artifact(batch=Range(4, 4, 4))
    with PoseEstimator(fixed, threads=1) as four, PoseEstimator(artifact, threads=1) as any_number:
        assert all(map(same, four(images), any_number(images)))
        batch, placements = four.preprocess(images[:1])
        assert batch.shape == (4, 64, 96, 3)
        assert (batch[1:] == 114).all()
        assert len(placements) == 1


def test_color_order(artifact: Path, draw_dots: Dots) -> None:
    image = draw_dots((64, 96), (0, 30, 30), (2, 70, 40), level=255)
    with PoseEstimator(artifact, threads=1) as estimate:
        assert same(estimate(image), estimate(image[..., ::-1], color="rgb"))
        assert not same(estimate(image), estimate(image, color="rgb"))
        assert same(estimate(image), estimate([np.dstack([image, image[..., 0]])])[0])  # alpha is dropped
        with pytest.raises(ValueError, match="color must be"):
            estimate(image, color="gbr")


@pytest.mark.parametrize("wrong", [np.zeros((0, 4, 3), np.uint8), np.zeros((2, 64, 96, 3), np.uint8), b"a.jpg", None])
def test_rejects_what_is_no_image_and_stays_usable(wrong: object, artifact: Path) -> None:
    with PoseEstimator(artifact, threads=1) as estimate:
        for arguments in (wrong, [np.zeros((4, 4, 3), np.uint8), wrong]):
            with pytest.raises(ValueError, match="image"):
                estimate(arguments)  # type: ignore[call-overload]
        assert len(estimate(np.zeros((4, 4, 3), np.uint8))) == 0


def test_files_equal_the_arrays_read_from_them(artifact: Path, draw_dots: Dots, tmp_path: Path) -> None:
    image = draw_dots((120, 200), (0, 60, 60), (2, 150, 40), radius=9)
    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), image)
    with PoseEstimator(artifact, threads=1) as estimate:
        expected = estimate(image)
        assert len(expected) == 2
        for given in (str(path), path):
            assert same(estimate(given), expected)
            assert same(estimate(given, color="rgb"), expected)  # the order of the colors is that of arrays only
        several = estimate([str(path), image, path])
        assert [same(people, expected) for people in several] == [True] * 3
        assert all(same(people, expected) for people in estimate.stream([path, image]))
        for given in ("absent.jpg", [image, tmp_path / "absent.jpg"]):
            with pytest.raises(SourceError, match=r"cannot read the image .*absent\.jpg"):
                estimate(given)
        assert same(estimate(image), expected)


def test_results_know_the_skeleton(artifact: Path, draw_dots: Dots) -> None:
    image = draw_dots((64, 96), (0, 30, 30))
    with PoseEstimator(artifact, threads=1) as estimate:
        (person,) = estimate(image)
        assert person.skeleton == estimate.skeleton == COCO_17
        assert person["left_eye"][0] == pytest.approx(person["nose"][0] + 1, abs=0.05)
        assert all(people.skeleton == COCO_17 for people in (*estimate([image, image]), *estimate.stream([image])))


def test_demo_is_the_artifact_of_the_package() -> None:
    with PoseEstimator("demo", threads=1) as estimate:
        nobody = estimate(np.zeros((90, 160, 3), np.uint8))
    assert (len(nobody), nobody.skeleton) == (0, LSP_14)
    assert estimate.contract.precision.weights == "float16"
    assert estimate.contract.parity is not None
    assert estimate.contract.parity.verdict == "passed"


def test_demo_finds_people_in_a_photograph(photographs: list[Path]) -> None:
    with PoseEstimator("demo", threads=1) as estimate:
        person = estimate(photographs[0])[0]
    x, y, score = person["head_top"]
    left, top, right, bottom = person.box.tolist()
    assert left - 20 <= x <= right + 20
    assert top - 20 <= y <= bottom + 20
    assert 0 <= score <= 1


def test_a_call_equals_its_steps(artifact: Path, draw_dots: Dots) -> None:
    images = [draw_dots((120, 200), (0, 60, 60), radius=9), draw_dots((64, 96), (1, 20, 20))]
    with PoseEstimator(artifact, threads=1) as estimate:
        batch, placements = estimate.preprocess(images)
        wanted, placement = letterbox(images[0], estimate.shape_hw)
        assert np.array_equal(batch[0], wanted)
        assert placements[0] == placement
        raw = estimate.infer(batch)
        assert all(map(same, estimate.postprocess(raw, placements), estimate(images)))


def test_results_are_copies(artifact: Path, draw_dots: Dots) -> None:
    with PoseEstimator(artifact, threads=1) as estimate:
        batch, placements = estimate.preprocess([draw_dots((64, 96), (0, 30, 30))])
        raw = estimate.infer(batch)
        (people,) = estimate.postprocess(raw, placements)
        for name in ("boxes", "scores", "labels", "keypoints", "keypoint_scores"):
            array = getattr(people, name)
            assert array.size
            assert not any(np.shares_memory(array, output) for output in raw)


def test_input_buffers_are_reused() -> None:
    seen = []

    def answer(images: np.ndarray, *_: np.ndarray) -> object:
        seen.append(images.ctypes.data)
        return raw_people([PoseResult.empty(17)] * len(images), 100)

    with PoseEstimator(fake_contract(), backend=FakeBackend(answer)) as estimate:  # type: ignore[arg-type]
        image = np.zeros((10, 10, 3), np.uint8)
        estimate([image] * 3)
        for count in (1, 3, 2, 1):
            estimate([image] * count)
    assert len(set(seen)) == 1


def test_eight_threads_give_the_same_results_as_one(artifact: Path, draw_dots: Dots) -> None:
    rng = np.random.default_rng(5)
    work = []
    for n in range(48):
        points = [(c, *rng.uniform(10, 50, 2)) for c in range(3) if rng.random() < 0.6]
        image = draw_dots((60 + n, 130 - n), *points)
        work.append([image] * (n % 3 + 1) if n % 2 else image)
    with PoseEstimator(artifact, threads=1) as estimate:
        wanted = [estimate(images) for images in work]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(estimate, work))
        assert len(estimate._free_buffers) <= 8
    for a, b in zip(found, wanted, strict=True):
        assert same(a, b) if isinstance(a, PoseResult) else all(map(same, a, b))


def test_eight_threads_and_two_thousand_images(artifact: Path, draw_dots: Dots) -> None:
    images = [draw_dots((50 + i % 7, 90 - i % 5), (i % 3, 20 + i % 40, 25)) for i in range(2000)]
    with PoseEstimator(artifact, threads=1) as estimate:
        alone = [estimate(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            assert all(map(same, pool.map(estimate, images), alone))


def test_memory_is_flat_over_ten_thousand_calls(artifact: Path, draw_dots: Dots) -> None:
    """The first calls fill ONNX Runtime's arena; growth after them is noise of the allocator."""
    image = draw_dots((64, 96), (0, 30, 30))

    def resident(estimate: PoseEstimator, calls: int) -> float:
        for _ in range(calls):
            estimate(image)
        gc.collect()
        found = resident_mib()
        assert found is not None
        return found

    with PoseEstimator(artifact, threads=1) as estimate:
        before = resident(estimate, 500)
        assert resident(estimate, 9500) - before < 2.0  # MiB: 220 bytes a call would be seen


@pytest.mark.parametrize(
    ("imgsz", "shape"),
    [(None, (64, 96)), (64, (64, 64)), ((32, 256), (32, 256)), ([64, 32], (64, 32)), ((np.int64(64), 64), (64, 64))],
)
def test_frame_sizes(imgsz: object, shape: tuple[int, int], artifact: Path) -> None:
    with PoseEstimator(artifact, threads=1, imgsz=imgsz) as estimate:  # type: ignore[arg-type]
        assert estimate.shape_hw == shape
        assert len(estimate(np.zeros((50, 50, 3), np.uint8))) == 0


@pytest.mark.parametrize(
    ("imgsz", "message"),
    [
        (100, "height 100 is not legal for this artifact; legal are 32 to 256 in steps of 32"),
        ((64, 288), "width 288 is not legal"),
        (0, "height 0 is not legal"),
        (-32, "height -32 is not legal"),
        ((64,), "imgsz must be an integer or"),
        ((64, 64, 3), "imgsz must be an integer or"),
        ((64.0, 64.0), "imgsz must be an integer or"),
        (True, "imgsz must be an integer or"),
        (64.5, "imgsz must be an integer or"),
        ("64", "imgsz must be an integer or"),
    ],
)
def test_rejects_wrong_frame_sizes(imgsz: object, message: str, artifact: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PoseEstimator(artifact, imgsz=imgsz)  # type: ignore[arg-type]


def test_message_names_the_only_legal_size(build_artifact: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="legal are 64 only"):
        PoseEstimator(build_artifact(height=Range(64, 64, 64)), imgsz=96)


def test_a_closed_estimator_says_so(artifact: Path) -> None:
    estimate = PoseEstimator(artifact, threads=1)
    estimate.close()
    estimate.close()
    with pytest.raises(ValueError, match="closed"):
        estimate(np.zeros((4, 4, 3), np.uint8))


def test_failing_backend_is_reported_and_its_buffer_returned() -> None:
    def fail(*_: np.ndarray) -> object:
        raise BackendError("the backend broke")

    estimate = PoseEstimator(fake_contract(), backend=FakeBackend(fail))  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(BackendError, match="broke"):
            estimate(np.zeros((4, 4, 3), np.uint8))
    assert len(estimate._free_buffers) == 1


def test_absent_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        PoseEstimator(tmp_path / "absent.onnx")


def counting(batch: Range | None = None) -> PoseEstimator:
    """Answers with as many candidates as the first pixel says."""

    def answer(images: np.ndarray, *_: np.ndarray) -> object:
        raw = raw_people([PoseResult.empty(17)] * len(images), 100)
        raw.num_candidates[:] = images[:, 0, 0, 0]
        return raw

    small = Range(32, 32, 32)
    return PoseEstimator(fake_contract(height=small, width=small, batch=batch), backend=FakeBackend(answer))  # type: ignore[arg-type]


def frames(count: int) -> Iterator[np.ndarray]:
    return (np.full((32, 32, 3), n, np.uint8) for n in range(count))


@pytest.mark.parametrize("count", [0, 1, 2, 50])
@pytest.mark.parametrize("batch", [None, Range(3, 3, 3)])
def test_stream_keeps_the_order(count: int, batch: Range | None) -> None:
    with counting(batch) as estimate:
        assert [people.num_candidates for people in estimate.stream(frames(count))] == list(range(count))
        assert len(estimate._free_buffers) <= 2


def test_stream_equals_single_calls(artifact: Path) -> None:
    images = [np.full((40 + n, 60, 3), 40 * n, np.uint8) for n in range(7)]
    with PoseEstimator(artifact, threads=1) as estimate:
        for image, people in zip(images, estimate.stream(images), strict=True):
            assert people.to_dict() == estimate(image).to_dict()


def test_stream_prepares_the_next_frame_during_inference() -> None:
    taken = threading.Event()

    def source() -> Iterator[np.ndarray]:
        yield np.zeros((32, 32, 3), np.uint8)
        taken.set()
        yield np.ones((32, 32, 3), np.uint8)

    def answer(images: np.ndarray, *_: np.ndarray) -> object:
        assert taken.wait(10)  # without the overlap the second frame is never read
        return raw_people([PoseResult.empty(17)], 100)

    with PoseEstimator(fake_contract(), backend=FakeBackend(answer)) as estimate:  # type: ignore[arg-type]
        assert len(list(estimate.stream(source()))) == 2


def test_stream_raises_errors_after_the_frames_before_them() -> None:
    def source() -> Iterator[np.ndarray]:
        yield from frames(3)
        raise OSError("camera unplugged")

    with counting() as estimate:
        seen = []
        with pytest.raises(OSError, match="camera unplugged"):
            seen.extend(people.num_candidates for people in estimate.stream(source()))
        stream = estimate.stream([*frames(2), np.zeros((0, 3), np.uint8)])
        assert [next(stream).num_candidates for _ in range(2)] == [0, 1]
        with pytest.raises(ValueError, match="empty"):
            next(stream)


def test_backend_error_ends_the_stream() -> None:
    def fail(*_: np.ndarray) -> object:
        raise BackendError("broke")

    before = threading.active_count()
    with PoseEstimator(fake_contract(), backend=FakeBackend(fail)) as estimate, pytest.raises(BackendError):  # type: ignore[arg-type]
        list(estimate.stream(frames(5)))
    assert threading.active_count() == before


def test_stopping_does_not_wait_for_a_source_that_blocks() -> None:
    gate = threading.Event()

    def source() -> Iterator[np.ndarray]:
        yield np.full((32, 32, 3), 7, np.uint8)
        gate.wait(30)
        yield np.full((32, 32, 3), 9, np.uint8)

    with counting() as estimate:
        stream = estimate.stream(source())
        assert next(stream).num_candidates == 7
        start = time.monotonic()
        stream.close()  # type: ignore[attr-defined]
        assert time.monotonic() - start < 5
        (worker,) = (thread for thread in threading.enumerate() if thread.name == "yolopose-stream")
        assert worker.daemon
        assert len(estimate._free_buffers) == 2
        for buffer in estimate._free_buffers:
            buffer[:] = 1
        gate.set()
        worker.join(10)
        assert not worker.is_alive()
        assert all((buffer == 1).all() for buffer in estimate._free_buffers)  # the late frame was dropped


def test_stream_rejects_what_is_no_frame() -> None:
    with counting() as estimate:
        with pytest.raises(TypeError):
            next(estimate.stream(3))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NoneType"):
            next(estimate.stream([None]))  # type: ignore[list-item]


def test_stream_can_be_stopped_early() -> None:
    before = threading.active_count()
    with counting() as estimate:
        stream = estimate.stream(frames(100))
        assert next(stream).num_candidates == 0
        stream.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before
        assert len(estimate._free_buffers) == 2
