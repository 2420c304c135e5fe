"""Folding of batch norm into the convolution before it."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from .blocks import ConvBlock

Net = TypeVar("Net", bound=nn.Module)


def fuse_conv_bn(net: Net) -> Net:
    """A copy of ``net`` in evaluation mode whose batch norms live in the weights and biases of its convolutions."""
    fused = copy.deepcopy(net).eval()
    for module in fused.modules():
        if isinstance(module, ConvBlock) and isinstance(module.bn, nn.BatchNorm2d):
            module.conv = _folded(module.conv, module.bn)
            module.bn = nn.Identity()
    return fused


@torch.no_grad()
def _folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution with bias equal to ``bn(conv(x))`` in evaluation mode; the arithmetic is done in float64."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    gain = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
    before = conv.bias.double() if conv.bias is not None else torch.zeros_like(bn.running_mean, dtype=torch.float64)
    bias = bn.bias.double() + (before - bn.running_mean.double()) * gain
    folded = copy.deepcopy(conv)
    folded.weight = nn.Parameter((conv.weight.double() * gain.view(-1, 1, 1, 1)).to(conv.weight.dtype))
    folded.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return folded.requires_grad_(False)
