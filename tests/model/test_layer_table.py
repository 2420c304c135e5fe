"""Networks from a table of layers: what a table may be, and that it gives the network that it describes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from yolopose.model.blocks import Attention, SplitJoin
from yolopose.model.config import NetConfig
from yolopose.model.layer_table import DistanceSettings, Layer, LayerTable
from yolopose.model.pose_net import fuse_conv_bn
from yolopose.model.sizes import build

from .tables import TABLES, V8, conv, small_config

families = pytest.mark.parametrize("family", TABLES)


@families
def test_config_survives_json(family: str) -> None:
    config = small_config(family)
    assert NetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@families
@torch.no_grad()
def test_predictions_of_any_size(family: str) -> None:
    torch.manual_seed(0)
    net = build(small_config(family)).eval()
    for height, width in ((32, 32), (64, 96)):
        found = net(torch.rand(2, 3, height, width))
        count = sum((height // stride) * (width // stride) for stride in (8, 16))
        assert found.boxes.shape == (2, count, 4)
        assert found.keypoints.shape == (2, count, 17, 2)
        assert all(torch.isfinite(part).all() for part in found)
        assert (found.boxes[..., 2:] > found.boxes[..., :2]).all()  # in a network not yet trained, too
        assert found.scores.max() < 0.3


@families
@torch.no_grad()
def test_folded_batch_norm_changes_nothing(family: str) -> None:
    torch.manual_seed(0)
    net = build(small_config(family))
    net(torch.rand(4, 3, 64, 64))  # statistics other than 0 and 1
    net.eval()
    x = torch.rand(2, 3, 64, 64)
    for a, b in zip(net(x), fuse_conv_bn(net)(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_keypoints_and_boxes_are_decoded_as_written() -> None:
    """Of one cell at column 2, row 1, stride 8, by hand."""
    priors = torch.tensor([2.0, 1.0, 8.0]).view(1, 3, 1)
    raw = torch.tensor([0.5, -0.25, 0.0]).repeat(17).view(1, 51, 1)
    plain, half = build(small_config("yolov8-pose")).head, build(small_config("yolo26-pose")).head
    assert plain.decode_keypoints(raw, priors)[0][0, 0, :, 0].tolist() == [(1.0 + 2) * 8, (-0.5 + 1) * 8]
    assert half.decode_keypoints(raw, priors)[0][0, 0, :, 0].tolist() == [(0.5 + 2.5) * 8, (-0.25 + 1.5) * 8]
    assert plain.decode_keypoints(raw, priors)[1][0, 0, 0].item() == 0.5
    box = torch.tensor([1.0, 0.5, 2.0, 0.25]).view(1, 4, 1)  # left, top, right, bottom in strides
    assert half.decode_boxes(box, priors)[0, :, 0].tolist() == [1.5 * 8, 1.0 * 8, 4.5 * 8, 1.75 * 8]
    bins = torch.full((4, 16), -50.0)
    bins[0, 1] = bins[1, 0] = bins[1, 1] = bins[2, 2] = bins[3, 15] = 50.0  # 1; between 0 and 1; 2; 15
    found = plain.decode_boxes(bins.view(1, 64, 1), priors)[0, :, 0]
    assert found.tolist() == [1.5 * 8, 1.0 * 8, 4.5 * 8, 16.5 * 8]


@torch.no_grad()
def test_attention_is_that_of_pytorch() -> None:
    """Written out once more with scaled_dot_product_attention."""
    torch.manual_seed(0)
    block = Attention(128).eval()
    assert (block.heads, block.value_width, block.key_width) == (2, 64, 32)
    x = torch.randn(2, 128, 3, 5)
    parts = block.qkv(x).view(2, 2, 128, 15)
    query, key, value = (parts[:, :, a:b].transpose(2, 3) for a, b in ((0, 32), (32, 64), (64, 128)))
    seen = nn.functional.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(x.shape)
    flat = parts[:, :, 64:].reshape(x.shape)
    torch.testing.assert_close(block(x), block.project(seen + block.position(flat)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("first", [True, False])
def test_one_half_is_worked_on_and_keeps_its_place(first: bool) -> None:
    """C2 works on the first half, C2PSA on the second."""
    torch.manual_seed(0)
    block = SplitJoin(6, 10, 4, [nn.Conv2d(4, 4, 1)], first=first, activation="silu").eval()
    x = torch.randn(1, 6, 3, 3)
    halves = [part.contiguous() for part in block.split(x).split(4, dim=1)]
    halves[0 if first else 1] = block.blocks[0](halves[0 if first else 1])
    torch.testing.assert_close(block(x), block.final(torch.cat(halves, dim=1)))


def test_sizes_are_multiples_of_the_coarsest_map() -> None:
    """Also where the head does not look at it."""
    table = replace(V8, levels=V8.levels[:1])
    assert (table.strides, table.multiple) == ((8,), 16)
    with pytest.raises(ValueError, match="attention heads"):
        Attention(129)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "other"}, "no layer 'other'"),
        ({"block": "other"}, "of 'other'"),
        ({"sources": ()}, "of 0 inputs"),
        ({"sources": (0, 1)}, "of 2 inputs"),
        ({"channels": 20_000}, "20000"),
        ({"hidden": -1}, "-1"),
        ({"repeats": 0}, "0 repeats"),
        ({"kernel": 2}, "a kernel of 2"),
        ({"stride": 3}, "a stride of 3"),
        ({"channels": 8.0}, "a layer 'conv' of"),
        ({"kernel": 3.0}, "a layer 'conv' of"),
        ({"shortcut": "no"}, "'no'"),
    ],
)
def test_layers_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(conv(-1, 8), **change)


@pytest.mark.parametrize(
    ("layers", "levels", "said"),
    [
        ((), (0,), "a table of 0 layers"),
        ((conv(-1, 8),), (), "0 of them for the head"),
        ((conv(0, 8),), (0,), "the first layer is no convolution of the images"),
        ((Layer("upsample", (-1,)),), (0,), "the first layer is no convolution of the images"),
        ((conv(-1, 8), conv(1, 8)), (1,), "no layer before it"),
        ((conv(-1, 8), conv(-1, 8)), (1,), "no layer before it"),
        ((conv(-1, 8),), (1,), "the head takes the output of"),
        ((conv(-1, 8), conv(0, 8)), (1, 0), "finest first"),
        ((conv(-1, 8), conv(0, 8), Layer("concat", (0, 1))), (2,), "joins maps of strides"),
        ((conv(-1, 8), Layer("upsample", (0,)), Layer("upsample", (1,))), (2,), "finer than the images"),
        ((conv(-1, 8), Layer("pool", (0,), 16, kernel=5, shortcut=True)), (1,), "adds 8 channels to 16"),
        ((conv(-1, 8), *(Layer("concat", (n, n)) for n in range(40))), (40,), "layer 12 has 32768 channels"),
        ((conv(-1, 8), *(replace(V8.layers[2], sources=(n,), repeats=100) for n in range(8))), (1,), "more blocks"),
    ],
)
def test_tables_that_cannot_be(layers: tuple[Layer, ...], levels: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LayerTable(layers, levels, V8.head)


def test_heads_that_cannot_be() -> None:
    for wrong in ({"box_width": 0}, {"bins": 0}, {"bins": 65}, {"bins": 1.0}, {"half_cell": 1}):
        with pytest.raises(ValueError, match="a head of"):
            DistanceSettings(**({"box_width": 8, "class_width": 8, "keypoint_width": 8} | wrong))
    with pytest.raises(ValueError, match="lacks its table"):
        replace(small_config("yolov8-pose"), table=None)
    with pytest.raises(ValueError, match="cannot have the head"):
        replace(small_config("yolov8-pose"), head="anchor")
