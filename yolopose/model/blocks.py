"""Building blocks of the convolutional networks. Every tensor is (B, C, H, W).

``SplitGather``, ``SplitJoin`` and the attention blocks are those of YOLOv8, YOLO11 and YOLO26, written from the
published descriptions (https://arxiv.org/abs/2408.15857, https://arxiv.org/abs/2410.17725) and from the contents of
checkpoints of these networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# All supported networks were trained with these values, not with PyTorch's defaults (1e-5, 0.1). A state dict does not
# hold them, and a wrong epsilon shifts every output slightly.
BN_EPS = 1e-3
BN_MOMENTUM = 0.03

ACTIVATIONS = ("silu", "relu")
FOCUS_ORDERS = ("columns", "rows")
ATTENTION_HEAD_CHANNELS = 64  # of one attention head; a map with fewer channels has one head


def activation_module(name: str | None) -> nn.Module:
    """The activation ``name``, one of ACTIVATIONS; None gives the identity."""
    if name is None:
        return nn.Identity()
    if name == "silu":
        return nn.SiLU(inplace=True)
    if name == "relu":
        return nn.ReLU(inplace=True)
    raise ValueError(f"activation must be one of {ACTIVATIONS}, got {name!r}")


def upsample_2x(x: Tensor) -> Tensor:
    """Nearest-neighbor upsampling, (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, activation (None: no activation)."""

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
    """A convolution of size ``kernel`` to ``hidden`` channels (default: ``channels``), then a 3x3 convolution.

    ``shortcut`` adds the input to the output.
    """

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
    """The input and three max-pooled copies of growing window, concatenated: C -> 4C channels.

    The windows are k, 2k-1 and 3k-2 (k=3: 3, 5, 7; k=5: 5, 9, 13). Each is one more k x k pool over the previous
    result. A maximum of maxima equals the maximum over the large window, at a fraction of the cost.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        once = self.pool(x)
        twice = self.pool(once)
        return torch.cat((x, once, twice, self.pool(twice)), dim=1)


class SPP(nn.Module):
    """Spatial pyramid pooling between two 1x1 convolutions.

    ``linear``: the first convolution has no activation. ``shortcut`` adds the input to the output.
    """

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

    The rearrangement has no weights, so a state dict does not say in which order the four pixels of a 2x2 cell are
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
    """Stem of the ti-lite networks: a strided convolution to 12 channels instead of the space-to-depth step."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, *, activation: str) -> None:
        super().__init__()
        self.down = ConvBlock(in_channels, 4 * in_channels, 3, 2, activation=activation)
        self.conv = ConvBlock(4 * in_channels, out_channels, kernel, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.down(x))


def stem_block(kind: str, out_channels: int, *, order: str, activation: str) -> nn.Module:
    """First layer: 3 -> ``out_channels``, half the height and width. ``kind``: "focus" or "conv-focus"."""
    if kind == "focus":
        return Focus(3, out_channels, order=order, activation=activation)
    if kind == "conv-focus":
        return ConvFocus(3, out_channels, activation=activation)
    raise ValueError(f"stem must be 'focus' or 'conv-focus', got {kind!r}")


class SplitGather(nn.Module):
    """C2f and C3k2: the channels are split into two halves, the second passes through ``blocks`` one by one.

    Both halves and the output of every block are concatenated, then convolved.
    """

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
    """C2 and C2PSA: one half of the channels passes through ``blocks``; both halves are joined in their order.

    ``first``: it is the first half (C2), else the second (C2PSA).
    """

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
    """Self-attention among all cells of a map (Vaswani et al. 2017), keys half as wide as values.

    A depth-wise 3x3 convolution of the values is added as position encoding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = attention_heads(channels)
        if channels % self.heads:
            raise ValueError(f"{channels} channels cannot be divided into {self.heads} equal attention heads")
        self.value_width = channels // self.heads
        self.key_width = self.value_width // 2
        self.qkv = ConvBlock(channels, channels + 2 * self.heads * self.key_width, activation=None)
        self.position = ConvBlock(channels, channels, 3, groups=channels, activation=None)
        self.project = ConvBlock(channels, channels, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.qkv(x).flatten(2).unflatten(1, (self.heads, 2 * self.key_width + self.value_width))
        # each (B, heads, width, cells)
        query, key, value = rows.split((self.key_width, self.key_width, self.value_width), dim=2)
        # The query is scaled before the product, so that the product stays within the range of float16.
        weights = ((query * self.key_width**-0.5).transpose(2, 3) @ key).softmax(dim=3)
        attended = (value @ weights.transpose(2, 3)).reshape(x.shape)
        return self.project(attended + self.position(value.reshape(x.shape)))


class AttentionBlock(nn.Module):
    """Attention, then two 1x1 convolutions; ``shortcut`` adds the input of each step to its output."""

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
    """Number of attention heads of a map with so many channels."""
    return max(channels // ATTENTION_HEAD_CHANNELS, 1)
