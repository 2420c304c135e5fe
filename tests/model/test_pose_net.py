"""The whole network: inputs and outputs, batch norm folding, and cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from yolopose.model.blocks import Attention
from yolopose.model.pose_net import PoseNet, Predictions, fuse_conv_bn, gmacs, num_parameters
from yolopose.model.sizes import SIZES, build


def small(name: str = "yolox-pose-nano", **changes: object) -> PoseNet:
    torch.manual_seed(0)
    return build(replace(SIZES[name], width=0.0625, **changes)).eval()


def test_training_and_evaluation_return_the_same_type() -> None:
    net, images = small(), torch.zeros(2, 3, 64, 64)
    for mode in (True, False):
        assert isinstance(net.train(mode)(images), Predictions)


@torch.no_grad()
def test_images_of_a_batch_are_independent() -> None:
    net, images = small("yolov5s6-pose"), torch.rand(3, 3, 64, 128)
    together = net(images)
    for index in range(3):
        alone = net(images[index : index + 1])
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[index], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 64, 64), torch.zeros(1, 1, 64, 64), torch.zeros(1, 3, 64, 65), torch.zeros(0, 3, 64, 64)],
)
def test_rejects_images_of_wrong_shape(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must be"):
        small()(images)


def test_rejects_uint8_images() -> None:
    with pytest.raises(ValueError, match="uint8"):
        small()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_properties_come_from_the_config() -> None:
    net = small(classes=("a", "b"))
    assert net.classes == ("a", "b")
    assert net.skeleton == net.config.skeleton
    assert net.input == net.config.input
    assert (net.weights_sha256, net.weights_licence, net.source_format) == (None, None, "new")


@torch.no_grad()
def test_untrained_networks_predict_few_people_near_their_cells() -> None:
    """Scores are low and keypoints lie near the cell of their anchor, in every family."""
    for name in ("yolox-pose-nano", "yolov5s6-pose", "yolov7-w6-pose"):
        for changes in ({}, {"legacy_layout": True}) if name != "yolox-pose-nano" else ({}, {"head": "edgeai"}):
            net = small(name, **changes)
            images = torch.rand(1, 3, 128, 128) / net.input.scale / 255
            raw = net.head(net.features(images))
            predictions = net(images)
            assert raw.objectness.sigmoid().mean() < 0.12
            assert raw.objectness.sigmoid().max() < 0.3
            cells = (raw.priors[:, :2] * raw.priors[:, 2:3]).transpose(1, 2)[:, :, None]
            assert ((predictions.keypoints - cells).abs() <= 0.75 * raw.priors[0, 2][None, :, None, None]).all()


@pytest.mark.parametrize("name", ["yolox-pose-nano", "yolov5s6-pose", "yolov5s6-pose-ti-lite", "yolov7-w6-pose"])
@torch.no_grad()
def test_fused_network_gives_the_same_outputs(name: str) -> None:
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
    assert net.training, "the given network must not change"
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    for actual, expected in zip(fused(images), net.eval()(images), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-3)
    assert gmacs(fused, (128, 128)) == gmacs(net, (128, 128))
    for actual, expected in zip(fuse_conv_bn(fused)(images), fused(images), strict=True):
        assert torch.equal(actual, expected)


def test_gmacs_of_a_convolution_and_a_linear_layer() -> None:
    """Outputs times kernel times input channels of a group; biases are not counted."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 5, padding=2, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 16 * 8, 10),
    )
    expected = 8 * 16 * 8 * 9 * 3 + 8 * 16 * 8 * 25 * 2 + 8 * 16 * 8 * 10
    assert gmacs(net, (32, 16)) == expected / 1e9
    assert gmacs(net, (32, 16), device="cpu") == expected / 1e9
    assert num_parameters(net) == 8 * 27 + 8 + 8 * 50 + 8 + 8 * 16 * 8 * 10 + 10


def test_gmacs_of_attention_include_its_matrix_products() -> None:
    cells, heads = 4 * 6, 2
    net = nn.Sequential(nn.Conv2d(3, 128, 1), Attention(128))
    convolutions = cells * (3 * 128 + 128 * 256 + 128 * 128 + 128 * 9)
    products = heads * cells * cells * (32 + 64)  # query times key, weights times value
    assert gmacs(net, (4, 6)) == (convolutions + products) / 1e9
