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
from yolopose.runtime.images import evenly, list_images, read_image, readable

y, x = np.mgrid[:60, :90]
PICTURE = np.stack([x * 2, y * 4, (x + y) % 256], axis=-1).astype(np.uint8)


def encoded(suffix: str, picture: np.ndarray = PICTURE, *options: int) -> bytes:
    return cv2.imencode(suffix, picture, list(options))[1].tobytes()


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_lossless_formats_give_the_pixels(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(encoded(suffix))
    image = read_image(path)
    assert image.dtype == np.uint8
    assert np.array_equal(image, PICTURE)


@pytest.mark.parametrize(
    "picture",
    [PICTURE[..., 0], np.dstack([PICTURE, PICTURE[..., :1]]), PICTURE.astype(np.uint16) * 257],
    ids=["gray", "alpha", "16-bit"],
)
def test_other_pixels_become_bgr(picture: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "größe 1.png"
    path.write_bytes(encoded(".png", picture))
    image = read_image(path)
    assert (image.shape, image.dtype) == ((60, 90, 3), np.uint8)


JPEG, PROGRESSIVE = encoded(".jpg"), encoded(".jpg", PICTURE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
PNG = encoded(".png")


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
def test_whole_files_are_whole_even_with_a_tail(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for tail in (b"", b"\0" * 16):
        path.write_bytes(data + tail)
        assert read_image(path).shape == (60, 90, 3)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["jpeg", "progressive", "png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files_are_refused(data: bytes, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SourceError, match=r"cut\.jpg is (truncated|damaged)"):
        read_image(path)


@pytest.mark.parametrize(("data", "message"), [(b"", "is empty"), (b"text", "damaged or of an unknown format")])
def test_foreign_files(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(SourceError, match=message):
        read_image(path)


def test_names_become_readable() -> None:
    assert readable("größe.jpg") == "größe.jpg"
    assert readable(Path(os.fsdecode(b"a\xff.jpg"))) == "a\ufffd.jpg"


def test_absent_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(SourceError, match="cannot read the image"):
            read_image(path)


def test_listing_is_sorted_and_takes_pictures_only(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "c.txt", "._a.png", "d.jpeg"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.JPG", "d.jpeg"]


def test_listing_nothing(tmp_path: Path) -> None:
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
def test_evenly_spreads(count: int, limit: int | None) -> None:
    indices = evenly(count, limit)
    assert len(indices) == (min(count, limit) if limit else count)
    assert indices == sorted(set(indices))
    assert all(0 <= index < count for index in indices)
    assert indices[:1] == [0][:count]
    steps = {b - a for a, b in itertools.pairwise([*indices, count])}
    assert not steps or max(steps) - min(steps) <= 1


def test_evenly_refuses_a_negative_limit() -> None:
    with pytest.raises(ValueError, match="limit must not be negative, got -1"):
        evenly(10, -1)
