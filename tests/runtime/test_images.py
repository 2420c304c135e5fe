"""Reading image files, listing folders, choosing images evenly, converting arrays to BGR."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolopose.runtime.errors import SourceError
from yolopose.runtime.images import as_bgr_image, evenly, list_images, read_image, readable

y, x = np.mgrid[:60, :90]
PIXELS = np.stack([x * 2, y * 4, (x + y) % 256], axis=-1).astype(np.uint8)


def encoded(suffix: str, pixels: np.ndarray = PIXELS, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_formats_give_the_pixels(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix}"
    path.write_bytes(encoded(suffix))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.array_equal(image, PIXELS)


@pytest.mark.parametrize(
    "pixels",
    [PIXELS[..., 0], np.dstack([PIXELS, PIXELS[..., :1]]), PIXELS.astype(np.uint16) * 257],
    ids=["gray", "alpha", "16-bit"],
)
def test_gray_alpha_and_16_bit_become_bgr(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "größe 1.png"
    path.write_bytes(encoded(".png", pixels))
    image = read_image(path)
    assert (image.shape, image.dtype) == ((60, 90, 3), np.uint8)


JPEG, PROGRESSIVE = encoded(".jpg"), encoded(".jpg", PIXELS, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
PNG = encoded(".png")


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
def test_reads_whole_files_with_trailing_bytes(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for tail in (b"", b"\0" * 16):
        path.write_bytes(data + tail)
        assert read_image(path).shape == (60, 90, 3)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_rejects_truncated_files(data: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=r"cut\.jpg is (truncated|damaged)"):
        read_image(path)


@pytest.mark.parametrize(("data", "message"), [(b"", "is empty"), (b"text", "damaged or of an unknown format")])
def test_rejects_files_that_are_not_images(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read_image(path)


def test_readable_names() -> None:
    assert readable("größe.jpg") == "größe.jpg"
    assert readable(Path(os.fsdecode(b"a\xff.jpg"))) == "a\ufffd.jpg"


def test_absent_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(SourceError, match="cannot read the image"):
            read_image(path)


def test_list_is_sorted_and_has_images_only(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "._a.png", "d.jpeg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "d.jpeg"]


def test_list_of_no_images(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images in"):
        list_images(tmp_path)
    with pytest.raises(SourceError, match="cannot read the folder"):
        list_images(tmp_path / "absent")


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(0, 3, []), (3, None, [0, 1, 2]), (3, 0, [0, 1, 2]), (3, 5, [0, 1, 2]), (10, 1, [0]), (10, 3, [0, 3, 6])],
)
def test_evenly_takes_known_indices(count: int, limit: int | None, expected: list[int]) -> None:
    assert evenly(count, limit) == expected


@given(st.integers(0, 5000), st.none() | st.integers(0, 6000))
def test_evenly_spaces_indices(count: int, limit: int | None) -> None:
    indices = evenly(count, limit)
    assert len(indices) == (min(count, limit) if limit else count)
    assert indices == sorted(set(indices))
    assert all(0 <= index < count for index in indices)
    assert indices[:1] == [0][:count]
    steps = {b - a for a, b in itertools.pairwise([*indices, count])}
    assert not steps or max(steps) - min(steps) <= 1


def test_evenly_rejects_a_negative_limit() -> None:
    with pytest.raises(ValueError, match="limit must not be negative, got -1"):
        evenly(10, -1)


RGB = np.array([[[10, 20, 30], [0, 255, 7]], [[1, 2, 3], [200, 100, 50]]], np.uint8)
BGR = RGB[..., ::-1]
ALPHA = np.full((2, 2, 1), 9, np.uint8)


@pytest.mark.parametrize(
    ("array", "color", "wanted"),
    [
        (BGR.copy(), "bgr", BGR),
        (BGR, "bgr", BGR),  # negative strides
        (RGB, "rgb", BGR),
        (np.concatenate([BGR, ALPHA], axis=2), "bgr", BGR),
        (np.concatenate([RGB, ALPHA], axis=2), "rgb", BGR),
        (RGB[..., 0], "rgb", RGB[..., [0, 0, 0]]),
        (RGB[..., :1], "bgr", RGB[..., [0, 0, 0]]),
        (BGR.astype(np.uint16) * 257, "bgr", BGR),
        (np.zeros((2, 2, 3), np.uint16), "bgr", np.zeros((2, 2, 3))),
        (BGR.astype(np.int64), "bgr", BGR),
        ((BGR / 255).astype(np.float32), "bgr", BGR),
        ((BGR / 255).astype(np.float64), "bgr", BGR),
        ((BGR / 255).astype(np.float16), "bgr", BGR),
        (BGR.astype(np.float32), "bgr", BGR),
        (BGR.astype(np.float32) + 0.25 * (BGR < 255), "bgr", BGR),
        (np.zeros((2, 2)), "bgr", np.zeros((2, 2, 3))),
        (np.asfortranarray(BGR), "bgr", BGR),
        (np.repeat(BGR, 2, axis=1)[:, ::2], "bgr", BGR),
    ],
)
def test_converts_arrays_to_bgr(array: np.ndarray, color: str, wanted: np.ndarray) -> None:
    before = array.copy()
    image = as_bgr_image(array, color)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert np.array_equal(image, wanted)
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4, 3), np.uint8), r"empty: \(0, 4, 3\) uint8"),
        (np.zeros((4, 0), np.uint8), "empty"),
        (np.zeros((3, 64, 64), np.uint8), "move channels last"),
        (np.zeros((2, 64, 64, 3), np.uint8), "several images as a list"),
        (np.zeros((64, 64, 2), np.uint8), r"got \(64, 64, 2\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((4, 4, 3), bool), "bool"),
        (np.zeros((4, 4, 3), complex), "complex128"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.array([[0.5, np.nan]], np.float32), "NaN"),
        (np.full((4, 4, 3), np.inf), "values"),
        (np.full((4, 4, 3), -0.5), "below 0"),
        (np.full((4, 4, 3), -1, np.int32), "below 0"),
        (np.full((4, 4, 3), 1.5), "not clearly"),
        (np.full((4, 4, 3), 300.0), "not clearly"),
        (np.full((4, 4, 3), 300, np.int32), "not clearly"),
        (np.full((4, 4, 3), 200, np.uint16), "not clearly"),
        ([[1, 2], [3, 4]], "got list"),
        ("photo.jpg", r"read_image\(\) reads files"),
        (None, "got NoneType"),
    ],
)
def test_rejects_ambiguous_arrays(array: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_bgr_image(array)


def test_rejects_an_unknown_color_order() -> None:
    with pytest.raises(ValueError, match="color must be 'bgr' or 'rgb', got 'RGB'"):
        as_bgr_image(RGB, "RGB")
