"""Cost of a network: parameters and multiply-accumulates.

Counted are the multiply-accumulates of convolutions and linear layers, without biases. thop, whose figures most
papers and READMEs of these networks quote, adds four for every output of a batch norm: about one per cent more.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def num_parameters(net: nn.Module) -> int:
    """Learnable numbers, batch norm's scale and shift included, its running statistics not."""
    return sum(parameter.numel() for parameter in net.parameters())


def gmacs(net: nn.Module, shape_hw: tuple[int, int], device: str = "meta") -> float:
    """Multiply-accumulates of one image of ``shape_hw`` pixels, in units of 10^9.

    Runs on the ``meta`` device: shapes only, so a large network costs no time and no memory. A foreign network whose
    forward pass looks at values needs ``device`` "cpu".
    """
    total = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel_h, kernel_w = module.kernel_size
            total += output.numel() * kernel_h * kernel_w * module.in_channels // module.groups
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features

    shadow = copy.deepcopy(net).to(device).eval()
    for module in shadow.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        shadow(torch.zeros(1, 3, *shape_hw, device=device))
    return total / 1e9
