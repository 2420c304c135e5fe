"""The whole network: what it takes and gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from yolopose.model.pose_net import PoseNet, Predictions
from yolopose.model.sizes import SIZES, build


def small(name: str = "yolox-pose-nano", **changes: object) -> PoseNet:
    torch.manual_seed(0)
    return build(replace(SIZES[name], width=0.0625, **changes)).eval()


def test_one_type_of_answer_in_training_and_evaluation() -> None:
    net, images = small(), torch.zeros(2, 3, 64, 64)
    for mode in (True, False):
        assert isinstance(net.train(mode)(images), Predictions)


@torch.no_grad()
def test_images_of_a_batch_do_not_mix() -> None:
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
def test_images_of_another_shape(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="images must be"):
        small()(images)


def test_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        small()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_facts_follow_the_config() -> None:
    net = small(classes=("a", "b"))
    assert net.classes == ("a", "b")
    assert net.skeleton == net.config.skeleton
    assert net.input == net.config.input
    assert (net.weights_sha256, net.weights_licence, net.source_format) == (None, None, "new")


@torch.no_grad()
def test_untrained_networks_start_modestly() -> None:
    """Few people are seen, keypoints lie near the cell of their anchor, in every family."""
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
