"""Wider networks that compute what the narrow one computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from yolopose.model.sizes import SIZES, build, widened

from .tables import small_config

NARROW = {
    name: replace(SIZES[name], width=width)
    for name, width in (
        ("yolox-pose-nano", 0.125),
        ("yolov5s6-pose-ti-lite", 0.125),
        ("yolov5s6-pose", 0.125),
        ("yolov7-w6-pose", 0.125),
    )
}


def with_statistics(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    net = build(NARROW[name])
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("factor", [2, 3])
def test_the_outputs_stay(name: str, factor: int) -> None:
    net = with_statistics(name)
    wide = widened(net, factor)  # type: ignore[arg-type]
    assert wide.config.width == factor * 0.125
    assert sum(p.numel() for p in wide.parameters()) > 2 * sum(p.numel() for p in net.parameters())
    images = torch.rand(1, 3, 64, 64) * (255 if wide.input.scale == 1 else 1)
    with torch.no_grad():
        for before, after in zip(net(images), wide(images), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def test_copies_of_a_channel_are_read_unequally() -> None:
    """Equal shares would give copies equal gradients: they would stay copies for ever."""
    wide = widened(with_statistics("yolox-pose-nano"), 2)  # type: ignore[arg-type]
    weight = next(p for name, p in wide.named_parameters() if p.dim() == 4 and p.shape[1] >= 16)
    assert not torch.isclose(weight[:, 0::2], weight[:, 1::2]).any(dim=(1, 2, 3)).all()
    assert (weight[:, 0::2] * weight[:, 1::2] >= 0).all()


def test_a_published_width_gets_the_published_name() -> None:
    net = build(SIZES["yolox-pose-nano"])
    assert widened(net.eval(), 2).config.name == "yolox-pose-s"


def test_what_cannot_be_widened_is_refused() -> None:
    net = build(NARROW["yolox-pose-nano"])
    with pytest.raises(ValueError, match="at least 2, not 1"):
        widened(net, 1)
    with pytest.raises(ValueError, match="cannot be widened"):
        widened(build(small_config("yolov8-pose")), 2)
    uneven = build(replace(SIZES["yolov5s6-pose-ti-lite"], width=0.1))
    with pytest.raises(ValueError, match="not 2 times"):
        widened(uneven, 2)
