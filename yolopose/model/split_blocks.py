"""Blocks of YOLOv8, YOLO11 and YOLO26: stages that split their channels, and attention among the cells of a map.

From the published descriptions (https://arxiv.org/abs/2408.15857, https://arxiv.org/abs/2410.17725) and from what
checkpoints of these networks hold. Every tensor is (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import ConvBlock

HEAD_CHANNELS = 64  # of one attention head, as far as the channels go


class SplitGather(nn.Module):
    """C2f and C3k2: two halves, the second through ``blocks`` one by one; all that came about is gathered."""

    def __init__(
        self, in_channels: int, out_channels: int, hidden: int, blocks: Sequence[nn.Module], *, activation: str
    ) -> None:
        super().__init__()
        self.split = ConvBlock(in_channels, 2 * hidden, activation=activation)
        self.blocks = nn.ModuleList(blocks)
        self.final = ConvBlock((2 + len(blocks)) * hidden, out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.split(x).chunk(2, dim=1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.final(torch.cat(parts, dim=1))


class SplitJoin(nn.Module):
    """C2 and C2PSA: two halves, one of them (the ``first`` or the second) through ``blocks``, joined in their order."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden: int,
        blocks: Sequence[nn.Module],
        *,
        first: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.split = ConvBlock(in_channels, 2 * hidden, activation=activation)
        self.blocks = nn.Sequential(*blocks)
        self.final = ConvBlock(2 * hidden, out_channels, activation=activation)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.split(x).chunk(2, dim=1)
        parts = (self.blocks(a), b) if self.first else (a, self.blocks(b))
        return self.final(torch.cat(parts, dim=1))


class Attention(nn.Module):
    """Self-attention among all cells (Vaswani et al. 2017), keys half as wide as values, and a depth-wise 3x3
    convolution of the values that says where they stand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = attention_heads(channels)
        if channels % self.heads:
            raise ValueError(f"{channels} channels are not of {self.heads} equal attention heads")
        self.value_width = channels // self.heads
        self.key_width = self.value_width // 2
        self.qkv = ConvBlock(channels, channels + 2 * self.heads * self.key_width, activation=None)
        self.position = ConvBlock(channels, channels, 3, groups=channels, activation=None)
        self.project = ConvBlock(channels, channels, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.qkv(x).flatten(2).unflatten(1, (self.heads, 2 * self.key_width + self.value_width))
        query, key, value = rows.split(
            (self.key_width, self.key_width, self.value_width), dim=2
        )  # (B, heads, c, cells)
        weights = ((query * self.key_width**-0.5).transpose(2, 3) @ key).softmax(
            dim=3
        )  # scaled first: float16 has room
        seen = (value @ weights.transpose(2, 3)).reshape(x.shape)
        return self.project(seen + self.position(value.reshape(x.shape)))


class AttentionBlock(nn.Module):
    """Attention, then two 1x1 convolutions; each added to its input when ``shortcut``."""

    def __init__(self, channels: int, *, shortcut: bool, activation: str) -> None:
        super().__init__()
        self.attention = Attention(channels)
        self.expand = ConvBlock(channels, 2 * channels, activation=activation)
        self.reduce = ConvBlock(2 * channels, channels, activation=None)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(x)
        x = x + y if self.shortcut else y
        y = self.reduce(self.expand(x))
        return x + y if self.shortcut else y


def attention_heads(channels: int) -> int:
    return max(channels // HEAD_CHANNELS, 1)
