"""CSP-Darknet backbones and path aggregation necks: three levels (YOLOX) and four (YOLOv5-P6).

Each network is written out layer by layer. The necks (PANet, Liu et al. 2018) go from coarse to fine and back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import SPP, ConvBlock, CSPBlock, stem_block, upsample_2x


class CSPDarknet(nn.Module):
    """Backbone of YOLOX: images (B, 3, H, W) -> features of stride 8, 16 and 32.

    ``base``: channels of the stem (64 x width). ``repeats``: number of bottlenecks in the short and in the long stages
    (3 x depth, 9 x depth).
    """

    def __init__(
        self, base: int, repeats: tuple[int, int], *, stem: str, focus_order: str, activation: str, spp_activation: str
    ) -> None:
        super().__init__()
        short, long = repeats
        act = activation
        self.channels = (4 * base, 8 * base, 16 * base)
        self.stem = stem_block(stem, base, order=focus_order, activation=act)
        self.down2 = ConvBlock(base, 2 * base, 3, 2, activation=act)
        self.csp2 = CSPBlock(2 * base, 2 * base, short, activation=act)
        self.down3 = ConvBlock(2 * base, 4 * base, 3, 2, activation=act)
        self.csp3 = CSPBlock(4 * base, 4 * base, long, activation=act)
        self.down4 = ConvBlock(4 * base, 8 * base, 3, 2, activation=act)
        self.csp4 = CSPBlock(8 * base, 8 * base, long, activation=act)
        self.down5 = ConvBlock(8 * base, 16 * base, 3, 2, activation=act)
        self.spp = SPP(16 * base, 16 * base, kernel=5, activation=spp_activation)
        self.csp5 = CSPBlock(16 * base, 16 * base, short, shortcut=False, activation=act)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.csp2(self.down2(self.stem(images)))  # stride 4
        p3 = self.csp3(self.down3(x))
        p4 = self.csp4(self.down4(p3))
        p5 = self.csp5(self.spp(self.down5(p4)))
        return p3, p4, p5


class CSPDarknetP6(nn.Module):
    """Backbone of YOLOv5-P6: images (B, 3, H, W) -> features of stride 8, 16, 32 and 64.

    ``widths``: channels of the stem and of strides 4, 8, 16, 32 and 64 (64, 128, 256, 512, 768, 1024 at full width).
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        repeats: tuple[int, int],
        *,
        stem: str,
        focus_order: str,
        activation: str,
        spp_activation: str,
    ) -> None:
        super().__init__()
        short, long = repeats
        c1, c2, c3, c4, c5, c6 = widths
        act = activation
        self.channels = (c3, c4, c5, c6)
        self.stem = stem_block(stem, c1, order=focus_order, activation=act)
        self.down2 = ConvBlock(c1, c2, 3, 2, activation=act)
        self.csp2 = CSPBlock(c2, c2, short, activation=act)
        self.down3 = ConvBlock(c2, c3, 3, 2, activation=act)
        self.csp3 = CSPBlock(c3, c3, long, activation=act)
        self.down4 = ConvBlock(c3, c4, 3, 2, activation=act)
        self.csp4 = CSPBlock(c4, c4, long, activation=act)
        self.down5 = ConvBlock(c4, c5, 3, 2, activation=act)
        self.csp5 = CSPBlock(c5, c5, short, activation=act)
        self.down6 = ConvBlock(c5, c6, 3, 2, activation=act)
        self.spp = SPP(c6, c6, kernel=3, activation=spp_activation)
        self.csp6 = CSPBlock(c6, c6, short, shortcut=False, activation=act)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = self.csp2(self.down2(self.stem(images)))  # stride 4
        p3 = self.csp3(self.down3(x))
        p4 = self.csp4(self.down4(p3))
        p5 = self.csp5(self.down5(p4))
        p6 = self.csp6(self.spp(self.down6(p5)))
        return p3, p4, p5, p6


class PAN(nn.Module):
    """Neck of YOLOX: (p3, p4, p5) -> three maps of the same strides and channels."""

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
        top4 = self.reduce4(self.fuse4(torch.cat((upsample_2x(top5), p4), dim=1)))
        n3 = self.out3(torch.cat((upsample_2x(top4), p3), dim=1))
        n4 = self.out4(torch.cat((self.down3(n3), top4), dim=1))
        n5 = self.out5(torch.cat((self.down4(n4), top5), dim=1))
        return [n3, n4, n5]


class PANP6(nn.Module):
    """Neck of YOLOv5-P6: (p3, p4, p5, p6) -> four maps of the same strides and channels."""

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
        top5 = self.reduce5(self.fuse5(torch.cat((upsample_2x(top6), p5), dim=1)))
        top4 = self.reduce4(self.fuse4(torch.cat((upsample_2x(top5), p4), dim=1)))
        n3 = self.out3(torch.cat((upsample_2x(top4), p3), dim=1))
        n4 = self.out4(torch.cat((self.down3(n3), top4), dim=1))
        n5 = self.out5(torch.cat((self.down4(n4), top5), dim=1))
        n6 = self.out6(torch.cat((self.down5(n5), top6), dim=1))
        return [n3, n4, n5, n6]
