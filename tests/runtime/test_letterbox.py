"""The letterbox: golden vectors, and placements that are exact both ways."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yolopose.runtime.letterbox import Placement, letterbox, place

GOLDEN = Path(__file__).parent / "golden" / "letterbox.npz"
sides = st.sampled_from(["center", "bottom-right"])


def test_golden_vectors() -> None:
    golden = np.load(GOLDEN)
    cases = sorted({int(name.split("_")[0]) for name in golden.files})
    assert len(cases) == 6
    for case in cases:
        wanted = golden[f"{case}_letterboxed"]
        out, placement = letterbox(
            golden[f"{case}_image"],
            wanted.shape[:2],
            pad_value=int(golden[f"{case}_pad_value"]),
            pad_side=str(golden[f"{case}_pad_side"]),
        )
        assert out.tobytes() == wanted.tobytes(), f"case {case}"
        found = [placement.scale_x, placement.scale_y, placement.left, placement.top]
        assert found == golden[f"{case}_placement"].tolist()


@given(st.integers(1, 25_000), st.integers(1, 25_000), st.integers(1, 1300), st.integers(1, 1300), sides)
def test_placement_lies_in_the_frame(height: int, width: int, frame_h: int, frame_w: int, pad_side: str) -> None:
    placement, (new_height, new_width) = place((height, width), (frame_h, frame_w), pad_side)
    assert 1 <= new_height <= frame_h
    assert 1 <= new_width <= frame_w
    assert new_height == frame_h or new_width == frame_w  # one side is filled
    assert 0 <= placement.left <= frame_w - new_width
    assert 0 <= placement.top <= frame_h - new_height
    assert height * placement.scale_y == pytest.approx(new_height)
    assert width * placement.scale_x == pytest.approx(new_width)
    # one factor for both axes, up to the rounding of the size
    wanted = min(frame_h / height, frame_w / width)
    assert abs(new_height - max(1, height * wanted)) <= 0.5 + 1e-6 * frame_h
    assert abs(new_width - max(1, width * wanted)) <= 0.5 + 1e-6 * frame_w
    if pad_side == "bottom-right":
        assert (placement.left, placement.top) == (0, 0)
    else:
        assert abs(frame_w - new_width - 2 * placement.left) <= 1
        assert abs(frame_h - new_height - 2 * placement.top) <= 1


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    sides,
    st.lists(st.tuples(st.floats(-1, 2, width=32), st.floats(-1, 2, width=32)), min_size=1, max_size=8),
)
def test_inverse_undoes_the_placement(height: int, width: int, pad_side: str, fractions: list) -> None:
    placement, _ = place((height, width), (640, 640), pad_side)
    points = (np.array(fractions) * [width, height]).astype(np.float32)
    back = placement.to_image(placement.to_letterboxed(points))
    assert back.dtype == np.float32
    # float32 holds a frame coordinate up to 2000 to 1e-4 px; in the image that is divided by the scale
    slack = [5e-4 / placement.scale_x, 5e-4 / placement.scale_y]
    assert (np.abs(back - points) <= 1e-6 * np.abs(points) + slack).all()


@given(st.integers(1, 900), st.integers(1, 900), sides)
def test_corners_of_the_image_map_to_its_corners(height: int, width: int, pad_side: str) -> None:
    placement, (new_height, new_width) = place((height, width), (640, 640), pad_side)
    corners = placement.to_letterboxed([[0, 0], [width, height]])
    assert corners[0].tolist() == [placement.left, placement.top]
    wanted = [placement.left + new_width, placement.top + new_height]
    np.testing.assert_allclose(corners[1], wanted, atol=2e-4)


def test_inverse_is_exactly_minus_offset_over_scale() -> None:
    placement = Placement(0.37, 0.375, 11, 5)
    xy = np.array([[13.25, 100.5], [11, 5], [-3, 640]], np.float32)
    wanted = (xy - np.float32([11, 5])) / np.float32([0.37, 0.375])
    assert np.array_equal(placement.to_image(xy), wanted)
    boxes = np.concatenate([xy, xy], axis=1)
    assert np.array_equal(placement.boxes_to_image(boxes), np.concatenate([wanted, wanted], axis=1))
    assert placement.to_image(np.zeros((0, 17, 2))).shape == (0, 17, 2)
    assert xy[0, 0] == 13.25  # the argument is left alone


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), sides, st.integers(0, 255))
def test_image_and_padding_match_the_placement(height: int, width: int, pad_side: str, pad: int) -> None:
    image = np.full((height, width, 3), (pad + 128) % 256, np.uint8)
    frame = np.full((96, 160, 3), 7, np.uint8)
    out, placement = letterbox(image, (96, 160), pad_value=pad, pad_side=pad_side, out=frame)
    assert out is frame
    _, (new_height, new_width) = place((height, width), (96, 160), pad_side)
    inside = np.zeros((96, 160), bool)
    inside[placement.top : placement.top + new_height, placement.left : placement.left + new_width] = True
    assert (out[inside] == (pad + 128) % 256).all()
    assert (out[~inside] == pad).all()


@pytest.mark.parametrize("shape", [(480, 640), (300, 1999), (1999, 300), (333, 517), (20, 30), (64, 20_000)])
@pytest.mark.parametrize("pad_side", ["center", "bottom-right"])
def test_a_bright_square_maps_back_to_its_position(shape: tuple[int, int], pad_side: str) -> None:
    """A known region of the image, found in the letterbox by its brightness, maps back to itself."""
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    box = np.array([width * 0.3, height * 0.2, width * 0.6, height * 0.7]).round()
    left, top, right, bottom = box.astype(int)
    image[top:bottom, left:right] = 255
    out, placement = letterbox(image, (640, 640), pad_value=0, pad_side=pad_side)
    weight = out[..., 0].astype(np.float64)
    y, x = np.mgrid[:640, :640] + 0.5
    center = placement.to_image([(weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()])
    wanted = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    # the size is rounded (half a frame pixel at the far edge), and a reduced edge is sampled at whole frame pixels
    assert np.abs(center - wanted).max() <= 1.0 / min(1, placement.scale_x, placement.scale_y)


def test_same_size_is_a_copy() -> None:
    image = np.arange(64 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 32, 3)
    out, placement = letterbox(image, (64, 32))
    assert placement == Placement(1.0, 1.0, 0, 0)
    assert np.array_equal(out, image)
    assert not np.shares_memory(out, image)


@pytest.mark.parametrize(("shape", "lit"), [((1, 1), (640, 640)), ((1, 20_000), (1, 640)), ((20_000, 1), (640, 1))])
def test_extreme_shapes(shape: tuple[int, int], lit: tuple[int, int]) -> None:
    out, _ = letterbox(np.full((*shape, 3), 250, np.uint8), (640, 640), pad_value=0)
    assert int((out == 250).all(axis=-1).sum()) == lit[0] * lit[1]


def test_rejects_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="pad_side must be one of center, bottom-right, got 'left'"):
        letterbox(np.zeros((4, 4, 3), np.uint8), (32, 32), pad_side="left")
    with pytest.raises(ValueError, match=r"as_bgr_image\(\) converts"):
        letterbox(np.zeros((4, 4), np.uint8), (32, 32))
    with pytest.raises(ValueError, match=r"out must be \(32, 32, 3\) uint8"):
        letterbox(np.zeros((4, 4, 3), np.uint8), (32, 32), out=np.zeros((32, 31, 3), np.uint8))


def test_interpolation_is_the_exact_one() -> None:
    """INTER_LINEAR differs by a level at odd sizes; the contract names linear_exact."""
    image = np.random.default_rng(3).integers(0, 256, (133, 217, 3), np.uint8)
    out, placement = letterbox(image, (96, 160))
    _, (new_height, new_width) = place((133, 217), (96, 160), "center")
    exact = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR_EXACT)
    found = out[placement.top : placement.top + new_height, placement.left : placement.left + new_width]
    assert np.array_equal(found, exact)
