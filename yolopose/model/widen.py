"""A wider network that computes what a trained one computes: training goes on from there instead of from chance.

Chen, Goodfellow, Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer", ICLR 2016: every channel is repeated,
and whoever reads the copies shares one weight among them. The shares are unequal, so that the copies get different
gradients.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .pose_net import PoseNet
from .sizes import build, named

LEAST_SHARE = 0.3  # beside a random number of 0..1: no copy of a channel is left with nearly nothing


def widened(net: PoseNet, factor: int, *, seed: int = 0) -> PoseNet:
    """A network of ``factor`` times the channels with the outputs of ``net``, up to rounding; in evaluation mode.

    Copies of a channel stand side by side, so that concatenations and additions need no care.
    Raises ValueError for a factor below 2 and for a network whose channels do not all grow by it.
    """
    if net.config.table is not None:
        raise ValueError(f"{net.config.name} cannot be widened: its layers come one by one from another's file")
    if factor < 2:
        raise ValueError(f"a network is widened by a whole factor of at least 2, not {factor}")
    config = named(replace(net.config, width=net.config.width * factor))
    wide = build(config)
    generator = torch.Generator().manual_seed(seed)
    narrow, tensors = net.state_dict(), {}
    for name, wanted in wide.state_dict().items():
        tensors[name] = _grown(narrow[name], wanted.shape, factor, generator, name)
    wide.load_state_dict(tensors)
    wide.weights_licence = net.weights_licence
    return wide.eval()


def _grown(tensor: Tensor, shape: torch.Size, factor: int, generator: torch.Generator, name: str) -> Tensor:
    """``tensor`` (outputs, inputs, kernel; or one value a channel) with its channels repeated to ``shape``."""
    fits = len(shape) == tensor.dim() and all(
        wide == narrow or (axis < 2 and wide == factor * narrow)
        for axis, (wide, narrow) in enumerate(zip(shape, tensor.shape, strict=False))
    )
    if not fits:
        raise ValueError(
            f"{name} is {tuple(tensor.shape)}, and {tuple(shape)} in the wider network: not {factor} times"
        )
    if tensor.dim() and shape[0] != tensor.shape[0]:
        tensor = tensor.repeat_interleave(factor, 0)
    if tensor.dim() > 1 and shape[1] != tensor.shape[1]:
        shares = torch.rand((tensor.shape[0], tensor.shape[1], factor), generator=generator) + LEAST_SHARE
        shares = (shares / shares.sum(2, keepdim=True)).reshape(tensor.shape[0], -1, *(1 for _ in shape[2:]))
        tensor = tensor.repeat_interleave(factor, 1) * shares
    return tensor
