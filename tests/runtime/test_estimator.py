"""The estimator on the dot artifact: what it finds lies where the dots were drawn, whatever the image's size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from yolopose.runtime.backends.fake import FakeBackend, fake_contract, raw_people
from yolopose.runtime.contract import Range
from yolopose.runtime.errors import ArtifactError, BackendError
from yolopose.runtime.estimator import PoseEstimator
from yolopose.runtime.letterbox import letterbox
from yolopose.runtime.machine import resident_mib
from yolopose.runtime.result import NMS_NOT_CONVERGED, PoseResult

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
        found = person.keypoints[0, 0]
        np.testing.assert_allclose(found, [x, y], atol=0.6 * max(pixel, 1))
        np.testing.assert_allclose(person.boxes[0], [*(found - 4 * pixel), *(found + 4 * pixel)], atol=1e-3 * width)
        np.testing.assert_allclose(np.diff(person.keypoints[0, :, 0]), pixel, rtol=1e-2, atol=1e-3)
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1, "0.5", True, None])
@pytest.mark.parametrize("name", ["score_threshold", "iou_threshold"])
def test_wrong_thresholds(name: str, value: object, artifact: Path) -> None:
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


@pytest.mark.parametrize("wrong", [np.zeros((0, 4, 3), np.uint8), np.zeros((2, 64, 96, 3), np.uint8), "a.jpg", None])
def test_what_is_no_image_is_refused_and_the_estimator_lives_on(wrong: object, artifact: Path) -> None:
    with PoseEstimator(artifact, threads=1) as estimate:
        for arguments in (wrong, [np.zeros((4, 4, 3), np.uint8), wrong]):
            with pytest.raises(ValueError, match="image"):
                estimate(arguments)  # type: ignore[call-overload]
        assert len(estimate(np.zeros((4, 4, 3), np.uint8))) == 0


def test_steps_are_the_call(artifact: Path, draw_dots: Dots) -> None:
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


def test_input_buffers_are_used_again() -> None:
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


def test_eight_threads_give_what_one_gives(artifact: Path, draw_dots: Dots) -> None:
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
        assert len(estimate._spare) <= 8
    for a, b in zip(found, wanted, strict=True):
        assert same(a, b) if isinstance(a, PoseResult) else all(map(same, a, b))


def test_eight_threads_and_two_thousand_images(artifact: Path, draw_dots: Dots) -> None:
    images = [draw_dots((50 + i % 7, 90 - i % 5), (i % 3, 20 + i % 40, 25)) for i in range(2000)]
    with PoseEstimator(artifact, threads=1) as estimate:
        alone = [estimate(image) for image in images]
        with ThreadPoolExecutor(8) as pool:
            assert all(map(same, pool.map(estimate, images), alone))


def test_memory_is_flat_over_ten_thousand_calls(artifact: Path, draw_dots: Dots) -> None:
    """The first calls fill ONNX Runtime's arena; what is left is noise of the allocator."""
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
        ((64,), "imgsz must be a whole number or"),
        ((64, 64, 3), "imgsz must be a whole number or"),
        ((64.0, 64.0), "imgsz must be a whole number or"),
        (True, "imgsz must be a whole number or"),
        (64.5, "imgsz must be a whole number or"),
        ("64", "imgsz must be a whole number or"),
    ],
)
def test_wrong_frame_sizes(imgsz: object, message: str, artifact: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PoseEstimator(artifact, imgsz=imgsz)  # type: ignore[arg-type]


def test_fixed_size_says_what_is_legal(build_artifact: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="legal are 64 only"):
        PoseEstimator(build_artifact(height=Range(64, 64, 64)), imgsz=96)


def test_closed(artifact: Path) -> None:
    estimate = PoseEstimator(artifact, threads=1)
    estimate.close()
    estimate.close()
    with pytest.raises(ValueError, match="closed"):
        estimate(np.zeros((4, 4, 3), np.uint8))


def test_failing_engine_is_reported_and_gives_its_buffer_back() -> None:
    def fail(*_: np.ndarray) -> object:
        raise BackendError("the engine broke")

    estimate = PoseEstimator(fake_contract(), backend=FakeBackend(fail))  # type: ignore[arg-type]
    for _ in range(3):
        with pytest.raises(BackendError, match="broke"):
            estimate(np.zeros((4, 4, 3), np.uint8))
    assert len(estimate._spare) == 1


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        PoseEstimator(tmp_path / "absent.onnx")
