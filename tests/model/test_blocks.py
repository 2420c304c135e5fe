"""Building blocks compared with plain definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from yolopose.model.blocks import (
    Attention,
    ConvBlock,
    Focus,
    PoolPyramid,
    SplitJoin,
    activation_module,
    upsample_2x,
)


@given(st.sampled_from((3, 5)), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_chained_pools_equal_large_windows(kernel: int, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    windows = (kernel, 2 * kernel - 1, 3 * kernel - 2)
    expected = torch.cat([x] + [nn.functional.max_pool2d(x, k, 1, k // 2) for k in windows], dim=1)
    assert torch.equal(PoolPyramid(kernel)(x), expected)


@pytest.mark.parametrize("order", ["columns", "rows"])
def test_focus_orders(order: str) -> None:
    """A 1x1 identity convolution shows the order in which the four pixels of a cell are stacked."""
    focus = Focus(1, 4, 1, order=order, activation="relu").eval()
    focus.conv.conv.weight.data = torch.eye(4).view(4, 4, 1, 1)
    focus.conv.bn = nn.Identity()
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)  # top left, top right, bottom left, bottom right
    assert focus(image).flatten().tolist() == ([1, 3, 2, 4] if order == "columns" else [1, 2, 3, 4])


def test_batch_norm_has_the_constants_of_the_published_networks() -> None:
    norm = ConvBlock(3, 8, 3, activation="silu").bn
    assert isinstance(norm, nn.BatchNorm2d)
    assert (norm.eps, norm.momentum) == (1e-3, 0.03)


def test_upsampling_repeats_pixels() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert torch.equal(upsample_2x(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_rejects_unknown_activation() -> None:
    with pytest.raises(ValueError, match="tanh"):
        activation_module("tanh")


@torch.no_grad()
def test_attention_equals_pytorch() -> None:
    """Reference: scaled_dot_product_attention."""
    torch.manual_seed(0)
    block = Attention(128).eval()
    assert (block.heads, block.value_width, block.key_width) == (2, 64, 32)
    x = torch.randn(2, 128, 3, 5)
    parts = block.qkv(x).view(2, 2, 128, 15)
    query, key, value = (parts[:, :, a:b].transpose(2, 3) for a, b in ((0, 32), (32, 64), (64, 128)))
    attended = nn.functional.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(x.shape)
    flat = parts[:, :, 64:].reshape(x.shape)
    torch.testing.assert_close(block(x), block.project(attended + block.position(flat)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
def test_split_join_changes_one_half_and_keeps_the_order(first: bool) -> None:
    """C2 changes the first half, C2PSA the second."""
    torch.manual_seed(0)
    block = SplitJoin(6, 10, 4, [nn.Conv2d(4, 4, 1)], first=first, activation="silu").eval()
    x = torch.randn(1, 6, 3, 3)
    halves = [part.contiguous() for part in block.split(x).split(4, dim=1)]
    halves[0 if first else 1] = block.blocks[0](halves[0 if first else 1])
    torch.testing.assert_close(block(x), block.final(torch.cat(halves, dim=1)))


def test_attention_rejects_uneven_heads() -> None:
    with pytest.raises(ValueError, match="cannot be divided into 2 equal attention heads"):
        Attention(129)
