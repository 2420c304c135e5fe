"""Layer tables: which values are valid, and the networks that are built from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from yolopose.model.layer_table import DistanceSettings, Layer, LayerTable
from yolopose.model.pose_net import fuse_conv_bn
from yolopose.model.sizes import build

from .tables import TABLES, V8, conv, small_config

families = pytest.mark.parametrize("family", TABLES)


@families
@torch.no_grad()
def test_predictions_for_any_image_size(family: str) -> None:
    torch.manual_seed(0)
    net = build(small_config(family)).eval()
    for height, width in ((32, 32), (64, 96)):
        found = net(torch.rand(2, 3, height, width))
        count = sum((height // stride) * (width // stride) for stride in (8, 16))
        assert found.boxes.shape == (2, count, 4)
        assert found.keypoints.shape == (2, count, 17, 2)
        assert all(torch.isfinite(part).all() for part in found)
        assert (found.boxes[..., 2:] > found.boxes[..., :2]).all()  # in an untrained network too
        assert found.scores.max() < 0.3


@families
@torch.no_grad()
def test_fused_network_gives_the_same_outputs(family: str) -> None:
    torch.manual_seed(0)
    net = build(small_config(family))
    net(torch.rand(4, 3, 64, 64))  # statistics other than 0 and 1
    net.eval()
    x = torch.rand(2, 3, 64, 64)
    for a, b in zip(net(x), fuse_conv_bn(net)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_image_sizes_are_multiples_of_the_coarsest_stride() -> None:
    """Even if the head does not use the coarsest map."""
    table = replace(V8, levels=V8.levels[:1])
    assert (table.strides, table.multiple) == ((8,), 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind of a layer must be one of .*, got 'other'"),
        ({"block": "other"}, "block of a layer must be one of .*, got 'other'"),
        ({"sources": ()}, "cannot have 0 inputs"),
        ({"sources": (0, 1)}, "cannot have 2 inputs"),
        ({"channels": 20_000}, "channels must lie in 0..16384, got 20000"),
        ({"hidden": -1}, "hidden -1"),
        ({"repeats": 0}, "repeats must lie in 1..300, got 0"),
        ({"kernel": 2}, "kernel must be one of .*, got 2"),
        ({"stride": 3}, "stride must be 1 or 2, got 3"),
        ({"channels": 8.0}, "layer 'conv': its numbers must be integers"),
        ({"kernel": 3.0}, "layer 'conv': its numbers must be integers"),
        ({"shortcut": "no"}, "flags must be bool, got 'no'"),
    ],
)
def test_rejects_invalid_layers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(conv(-1, 8), **change)


@pytest.mark.parametrize(
    ("layers", "levels", "message"),
    [
        ((), (0,), "got 0 layers and 1 levels"),
        ((conv(-1, 8),), (), "got 1 layers and 0 levels"),
        ((conv(0, 8),), (0,), "the first layer must be a convolution of the images"),
        ((Layer("upsample", (-1,)),), (0,), "the first layer must be a convolution of the images"),
        ((conv(-1, 8), conv(1, 8)), (1,), "sources must be earlier layers"),
        ((conv(-1, 8), conv(-1, 8)), (1,), "sources must be earlier layers"),
        ((conv(-1, 8),), (1,), "the head takes the output of"),
        ((conv(-1, 8), conv(0, 8)), (1, 0), "levels must be ordered finest first"),
        ((conv(-1, 8), conv(0, 8), Layer("concat", (0, 1))), (2,), "joins maps of strides"),
        ((conv(-1, 8), Layer("upsample", (0,)), Layer("upsample", (1,))), (2,), "finer than the images"),
        ((conv(-1, 8), Layer("pool", (0,), 16, kernel=5, shortcut=True)), (1,), "adds 8 channels to 16"),
        ((conv(-1, 8), *(Layer("concat", (n, n)) for n in range(40))), (40,), "layer 12 has 32768 channels"),
        (
            (conv(-1, 8), *(replace(V8.layers[2], sources=(n,), repeats=100) for n in range(8))),
            (1,),
            "300 blocks and 400 inputs at most",
        ),
    ],
)
def test_rejects_invalid_tables(layers: tuple[Layer, ...], levels: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerTable(layers, levels, V8.head)


def test_rejects_invalid_head_settings() -> None:
    valid = {"box_width": 8, "class_width": 8, "keypoint_width": 8}
    for change, message in (
        ({"box_width": 0}, r"1 to 16384 channels, got \(0, 8, 8\)"),
        ({"bins": 0}, "1 to 64 bins, got 0"),
        ({"bins": 65}, "1 to 64 bins, got 65"),
        ({"bins": 1.0}, "needs integers, got .* 1.0 bins"),
        ({"half_cell": 1}, "flags of type bool"),
    ):
        with pytest.raises(ValueError, match=message):
            DistanceSettings(**(valid | change))
