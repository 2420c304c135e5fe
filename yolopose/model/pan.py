"""Necks: path aggregation over three levels (YOLOX) and four (YOLOv5-P6). Coarse to fine, then back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import ConvBlock, CSPBlock, upsample_twice


class PAN(nn.Module):
    """(p3, p4, p5) -> the same three strides and channels."""

    def __init__(self, channels: tuple[int, ...], repeats: int, *, activation: str) -> None:
        super().__init__()
        c3, c4, c5 = channels

        def csp(in_channels: int, out_channels: int) -> CSPBlock:
            return CSPBlock(in_channels, out_channels, repeats, shortcut=False, activation=activation)

        self.channels = channels
        self.reduce5 = ConvBlock(c5, c4, activation=activation)
        self.fuse4 = csp(2 * c4, c4)
        self.reduce4 = ConvBlock(c4, c3, activation=activation)
        self.out3 = csp(2 * c3, c3)
        self.down3 = ConvBlock(c3, c3, 3, 2, activation=activation)
        self.out4 = csp(2 * c3, c4)
        self.down4 = ConvBlock(c4, c4, 3, 2, activation=activation)
        self.out5 = csp(2 * c4, c5)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        p3, p4, p5 = features
        top5 = self.reduce5(p5)
        top4 = self.reduce4(self.fuse4(torch.cat((upsample_twice(top5), p4), dim=1)))
        n3 = self.out3(torch.cat((upsample_twice(top4), p3), dim=1))
        n4 = self.out4(torch.cat((self.down3(n3), top4), dim=1))
        n5 = self.out5(torch.cat((self.down4(n4), top5), dim=1))
        return [n3, n4, n5]


class PANP6(nn.Module):
    """(p3, p4, p5, p6) -> the same four strides and channels."""

    def __init__(self, channels: tuple[int, ...], repeats: int, *, activation: str) -> None:
        super().__init__()
        c3, c4, c5, c6 = channels

        def csp(in_channels: int, out_channels: int) -> CSPBlock:
            return CSPBlock(in_channels, out_channels, repeats, shortcut=False, activation=activation)

        self.channels = channels
        self.reduce6 = ConvBlock(c6, c5, activation=activation)
        self.fuse5 = csp(2 * c5, c5)
        self.reduce5 = ConvBlock(c5, c4, activation=activation)
        self.fuse4 = csp(2 * c4, c4)
        self.reduce4 = ConvBlock(c4, c3, activation=activation)
        self.out3 = csp(2 * c3, c3)
        self.down3 = ConvBlock(c3, c3, 3, 2, activation=activation)
        self.out4 = csp(2 * c3, c4)
        self.down4 = ConvBlock(c4, c4, 3, 2, activation=activation)
        self.out5 = csp(2 * c4, c5)
        self.down5 = ConvBlock(c5, c5, 3, 2, activation=activation)
        self.out6 = csp(2 * c5, c6)

    def forward(self, features: tuple[Tensor, Tensor, Tensor, Tensor]) -> list[Tensor]:
        p3, p4, p5, p6 = features
        top6 = self.reduce6(p6)
        top5 = self.reduce5(self.fuse5(torch.cat((upsample_twice(top6), p5), dim=1)))
        top4 = self.reduce4(self.fuse4(torch.cat((upsample_twice(top5), p4), dim=1)))
        n3 = self.out3(torch.cat((upsample_twice(top4), p3), dim=1))
        n4 = self.out4(torch.cat((self.down3(n3), top4), dim=1))
        n5 = self.out5(torch.cat((self.down4(n4), top5), dim=1))
        n6 = self.out6(torch.cat((self.down5(n5), top6), dim=1))
        return [n3, n4, n5, n6]
