"""Building blocks of the convolutional networks. Every tensor is (B, C, H, W).

Blocks of YOLOv8, YOLO11 and YOLO26: stages that split their channels, and attention among the cells of a map.

From the published descriptions (https://arxiv.org/abs/2408.15857, https://arxiv.org/abs/2410.17725) and from what
checkpoints of these networks hold. Every tensor is (B, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# All the networks that we read were trained with these, not with PyTorch's defaults (1e-5, 0.1); a state dict does not
# hold them, and a wrong epsilon shifts every output a little.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03

ACTIVATIONS = ("silu", "relu")
FOCUS_ORDERS = ("columns", "rows")


def activation_module(name: str | None) -> nn.Module:
    """``None``: no activation."""
    if name is None:
        return nn.Identity()
    if name == "silu":
        return nn.SiLU(inplace=True)
    if name == "relu":
        return nn.ReLU(inplace=True)
    raise ValueError(f"activation must be one of {ACTIVATIONS}, got {name!r}")


def upsample_twice(x: Tensor) -> Tensor:
    """Nearest neighbour, (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, activation (None: without)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: str | None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 (or ``kernel``) to ``hidden`` channels, by default as many, then 3x3, plus the input when ``shortcut``."""

    def __init__(
        self, channels: int, *, shortcut: bool, activation: str, kernel: int = 1, hidden: int | None = None
    ) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        self.conv1 = ConvBlock(channels, hidden, kernel, activation=activation)
        self.conv2 = ConvBlock(hidden, channels, 3, activation=activation)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSPBlock(nn.Module):
    """Cross stage partial block with three convolutions (C3 of YOLOv5, CSPLayer of YOLOX; ``kernel`` 3: C3k)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        repeats: int,
        *,
        shortcut: bool = True,
        activation: str,
        kernel: int = 1,
    ) -> None:
        super().__init__()
        hidden = out_channels // 2
        self.main = ConvBlock(in_channels, hidden, activation=activation)
        self.short = ConvBlock(in_channels, hidden, activation=activation)
        self.final = ConvBlock(2 * hidden, out_channels, activation=activation)
        self.blocks = nn.Sequential(
            *(Bottleneck(hidden, shortcut=shortcut, activation=activation, kernel=kernel) for _ in range(repeats))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.final(torch.cat((self.blocks(self.main(x)), self.short(x)), dim=1))


class PoolPyramid(nn.Module):
    """The input and its max-pooled copies of growing window, stacked along channels: C -> 4C.

    Windows k, 2k-1, 3k-2: each is one more k x k pool over the one before, which gives exactly the numbers of
    the large windows (a maximum of maxima) at a fraction of the cost. k=3: 3, 5, 7; k=5: 5, 9, 13.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        once = self.pool(x)
        twice = self.pool(once)
        return torch.cat((x, once, twice, self.pool(twice)), dim=1)


class SPP(nn.Module):
    """Spatial pyramid pooling between two 1x1 convolutions, the first perhaps linear; plus the input if so."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        activation: str,
        linear: bool = False,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = ConvBlock(in_channels, hidden, activation=None if linear else activation)
        self.pyramid = PoolPyramid(kernel)
        self.conv2 = ConvBlock(4 * hidden, out_channels, activation=activation)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.pyramid(self.conv1(x)))
        return x + y if self.shortcut else y


class Focus(nn.Module):
    """Space to depth (factor 2), then a convolution.

    The step itself has no weights, so nothing in a state dict tells in which order the four pixels of a 2x2 cell are
    stacked, and code bases differ: ``columns`` is top left, bottom left, top right, bottom right (Ultralytics, YOLOX,
    mmpose, ReOrg of yolov7); ``rows`` is top left, top right, bottom left, bottom right (edgeai-yolov5).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, *, order: str = "columns", activation: str
    ) -> None:
        super().__init__()
        if order not in FOCUS_ORDERS:
            raise ValueError(f"order of a focus stem must be one of {FOCUS_ORDERS}, got {order!r}")
        self.order = order
        self.conv = ConvBlock(4 * in_channels, out_channels, kernel, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[:, :, 0::2], x[:, :, 1::2]
        top_left, top_right = top[..., 0::2], top[..., 1::2]
        bottom_left, bottom_right = bottom[..., 0::2], bottom[..., 1::2]
        if self.order == "columns":
            cells = (top_left, bottom_left, top_right, bottom_right)
        else:
            cells = (top_left, top_right, bottom_left, bottom_right)
        return self.conv(torch.cat(cells, dim=1))


class ConvFocus(nn.Module):
    """Stem of the ti-lite networks: a strided convolution to 12 channels in place of the space-to-depth step."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, *, activation: str) -> None:
        super().__init__()
        self.down = ConvBlock(in_channels, 4 * in_channels, 3, 2, activation=activation)
        self.conv = ConvBlock(4 * in_channels, out_channels, kernel, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.down(x))


def stem_block(kind: str, out_channels: int, *, order: str, activation: str) -> nn.Module:
    """First layer, 3 -> ``out_channels``, half the height and width. ``kind``: "focus" or "conv-focus"."""
    if kind == "focus":
        return Focus(3, out_channels, order=order, activation=activation)
    if kind == "conv-focus":
        return ConvFocus(3, out_channels, activation=activation)
    raise ValueError(f"stem must be 'focus' or 'conv-focus', got {kind!r}")


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
