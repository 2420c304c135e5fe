"""Backbone and neck of YOLOv7-W6-pose, for its published weights. Strides 8, 16, 32 and 64.

Layers and widths follow the published model description (WongKinYiu/yolov7, branch pose, cfg/yolov7-w6-pose.yaml).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import ConvBlock, Focus, PoolPyramid, upsample_2x


class ELAN(nn.Module):
    """Two 1x1 branches, a chain of four 3x3 convolutions after the second, and a last 1x1 over the concatenation.

    ``gather_all``: all four outputs of the chain are concatenated (neck), else the second and the fourth (backbone).
    """

    def __init__(
        self, in_channels: int, hidden: int, chain: int, out_channels: int, *, gather_all: bool, activation: str
    ) -> None:
        super().__init__()
        self.gather_all = gather_all
        self.branch1 = ConvBlock(in_channels, hidden, activation=activation)
        self.branch2 = ConvBlock(in_channels, hidden, activation=activation)
        self.chain1 = ConvBlock(hidden, chain, 3, activation=activation)
        self.chain2 = ConvBlock(chain, chain, 3, activation=activation)
        self.chain3 = ConvBlock(chain, chain, 3, activation=activation)
        self.chain4 = ConvBlock(chain, chain, 3, activation=activation)
        gathered = 2 * hidden + (4 if gather_all else 2) * chain
        self.final = ConvBlock(gathered, out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y1, y2 = self.branch1(x), self.branch2(x)
        c1 = self.chain1(y2)
        c2 = self.chain2(c1)
        c3 = self.chain3(c2)
        c4 = self.chain4(c3)
        parts = (c4, c3, c2, c1, y2, y1) if self.gather_all else (c4, c2, y2, y1)
        return self.final(torch.cat(parts, dim=1))


class SPPCSPC(nn.Module):
    """Spatial pyramid pooling inside a cross stage partial block; windows 5, 9 and 13."""

    def __init__(self, in_channels: int, out_channels: int, *, activation: str) -> None:
        super().__init__()
        c = out_channels
        self.conv1 = ConvBlock(in_channels, c, activation=activation)
        self.short = ConvBlock(in_channels, c, activation=activation)
        self.conv3 = ConvBlock(c, c, 3, activation=activation)
        self.conv4 = ConvBlock(c, c, activation=activation)
        self.pyramid = PoolPyramid(5)
        self.conv5 = ConvBlock(4 * c, c, activation=activation)
        self.conv6 = ConvBlock(c, c, 3, activation=activation)
        self.final = ConvBlock(2 * c, out_channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv4(self.conv3(self.conv1(x)))
        y = self.conv6(self.conv5(self.pyramid(y)))
        return self.final(torch.cat((y, self.short(x)), dim=1))


class YOLOv7W6Backbone(nn.Module):
    """Images (B, 3, H, W) -> features of stride 8, 16, 32 and 64; the coarsest passes through SPPCSPC.

    ``widths``: channels of the stem and of strides 4, 8, 16, 32 and 64 (64, 128, 256, 512, 768, 1024 at full width).
    ``halves``: hidden channels of the five stages (64, 128, 256, 384, 512).
    """

    def __init__(self, widths: tuple[int, ...], halves: tuple[int, ...], *, focus_order: str, activation: str) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, c6 = widths
        h2, h3, h4, h5, h6 = halves
        act = activation

        def elan(hidden: int, width: int) -> ELAN:
            return ELAN(width, hidden, hidden, width, gather_all=False, activation=act)

        self.channels = (c3, c4, c5, h6)
        self.stem = Focus(3, c1, order=focus_order, activation=act)
        self.down2 = ConvBlock(c1, c2, 3, 2, activation=act)
        self.elan2 = elan(h2, c2)
        self.down3 = ConvBlock(c2, c3, 3, 2, activation=act)
        self.elan3 = elan(h3, c3)
        self.down4 = ConvBlock(c3, c4, 3, 2, activation=act)
        self.elan4 = elan(h4, c4)
        self.down5 = ConvBlock(c4, c5, 3, 2, activation=act)
        self.elan5 = elan(h5, c5)
        self.down6 = ConvBlock(c5, c6, 3, 2, activation=act)
        self.elan6 = elan(h6, c6)
        self.spp = SPPCSPC(c6, h6, activation=act)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.elan2(self.down2(self.stem(images)))  # stride 4
        p3 = self.elan3(self.down3(x))
        p4 = self.elan4(self.down4(p3))
        p5 = self.elan5(self.down5(p4))
        p6 = self.spp(self.elan6(self.down6(p5)))
        return p3, p4, p5, p6


class YOLOv7W6Neck(nn.Module):
    """(p3, p4, p5, p6) -> maps of the same strides for the head.

    Channels, finest level first, at full width: ``halves`` inside the neck (128, 256, 384, 512), ``chains`` of the
    3x3 chains (64, 128, 192, 256), ``outputs`` of the maps for the head (256, 512, 768, 1024).
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        halves: tuple[int, ...],
        chains: tuple[int, ...],
        outputs: tuple[int, ...],
        *,
        activation: str,
    ) -> None:
        super().__init__()
        c3, c4, c5, c6 = channels
        h3, h4, h5, h6 = halves
        k3, k4, k5, k6 = chains

        def conv(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> ConvBlock:
            return ConvBlock(in_channels, out_channels, kernel, stride, activation=activation)

        def elan(in_channels: int, hidden: int, chain: int) -> ELAN:
            return ELAN(in_channels, hidden, chain, hidden, gather_all=True, activation=activation)

        self.channels = outputs
        self.reduce6, self.lateral5, self.top5 = conv(c6, h5), conv(c5, h5), elan(2 * h5, h5, k5)
        self.reduce5, self.lateral4, self.top4 = conv(h5, h4), conv(c4, h4), elan(2 * h4, h4, k4)
        self.reduce4, self.lateral3, self.out3 = conv(h4, h3), conv(c3, h3), elan(2 * h3, h3, k3)
        self.down3, self.out4 = conv(h3, h4, 3, 2), elan(2 * h4, h4, k4)
        self.down4, self.out5 = conv(h4, h5, 3, 2), elan(2 * h5, h5, k5)
        self.down5, self.out6 = conv(h5, h6, 3, 2), elan(h6 + c6, h6, k6)
        self.final3, self.final4 = conv(h3, outputs[0], 3), conv(h4, outputs[1], 3)
        self.final5, self.final6 = conv(h5, outputs[2], 3), conv(h6, outputs[3], 3)

    def forward(self, features: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
        p3, p4, p5, p6 = features
        t5 = self.top5(torch.cat((self.lateral5(p5), upsample_2x(self.reduce6(p6))), dim=1))
        t4 = self.top4(torch.cat((self.lateral4(p4), upsample_2x(self.reduce5(t5))), dim=1))
        n3 = self.out3(torch.cat((self.lateral3(p3), upsample_2x(self.reduce4(t4))), dim=1))
        n4 = self.out4(torch.cat((self.down3(n3), t4), dim=1))
        n5 = self.out5(torch.cat((self.down4(n4), t5), dim=1))
        n6 = self.out6(torch.cat((self.down5(n5), p6), dim=1))
        return [self.final3(n3), self.final4(n4), self.final5(n5), self.final6(n6)]
