"""Folding batch norm away."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from yolopose.model.pose_net import fuse_conv_bn, gmacs
from yolopose.model.sizes import SIZES, build


@pytest.mark.parametrize("name", ["yolox-pose-nano", "yolov5s6-pose", "yolov5s6-pose-ti-lite", "yolov7-w6-pose"])
@torch.no_grad()
def test_fused_network_gives_the_same(name: str) -> None:
    torch.manual_seed(1)
    net = build(replace(SIZES[name], width=0.125))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.uniform_(-0.5, 0.5)
    images = torch.rand(1, 3, 128, 192)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    fused = fuse_conv_bn(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert not fused.training
    assert net.training, "the network that was given is left as it was"
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    for ours, theirs in zip(fused(images), net.eval()(images), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-3)
    assert gmacs(fused, (128, 128)) == gmacs(net, (128, 128))
    for ours, theirs in zip(fuse_conv_bn(fused)(images), fused(images), strict=True):
        assert torch.equal(ours, theirs)
