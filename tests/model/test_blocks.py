"""Blocks against plain definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolopose.model.blocks import ConvBlock, Focus, PoolPyramid, activation_module, upsample_twice


@given(st.sampled_from((3, 5)), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_chained_pools_equal_large_windows(kernel: int, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    windows = (kernel, 2 * kernel - 1, 3 * kernel - 2)
    expected = torch.cat([x] + [nn.functional.max_pool2d(x, k, 1, k // 2) for k in windows], dim=1)
    assert torch.equal(PoolPyramid(kernel)(x), expected)


@pytest.mark.parametrize("order", ["columns", "rows"])
def test_focus_orders(order: str) -> None:
    """The four pixels of a cell in the order of the code base; a 1x1 convolution that passes them on shows it."""
    focus = Focus(1, 4, 1, order=order, activation="relu").eval()
    focus.conv.conv.weight.data = torch.eye(4).view(4, 4, 1, 1)
    focus.conv.bn = nn.Identity()
    picture = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)  # top left, top right, bottom left, bottom right
    assert focus(picture).flatten().tolist() == ([1, 3, 2, 4] if order == "columns" else [1, 2, 3, 4])


def test_batch_norm_has_the_constants_of_the_published_networks() -> None:
    norm = ConvBlock(3, 8, 3, activation="silu").bn
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)


def test_up_sampling_repeats_pixels() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(upsample_twice(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="tanh"):
        activation_module("tanh")
