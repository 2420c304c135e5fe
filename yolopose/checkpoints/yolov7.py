"""Reader for YOLOv7-W6-pose (WongKinYiu/yolov7, branch pose): a pickled network with implicit vectors in its head.

Written from facts about the files; runs none of that repository's code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import Skeleton

from ..model.config import RGB_UNIT, NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import named
from . import pickled, transfer
from .archive import Document
from .edgeai_yolov5 import KEYPOINT_RULES, PACKAGE, ends_in

FORMAT = "yolov7-pose"

_CHAIN: pickled.Layout = (("Conv", -1), ("Conv", -2), *(4 * (("Conv", -1),)))
_STAGE: pickled.Layout = (("Conv", -1), *_CHAIN, ("Concat", [-1, -3, -5, -6]), ("Conv", -1))
_ELAN: pickled.Layout = (*_CHAIN, ("Concat", [-1, -2, -3, -4, -5, -6]), ("Conv", -1))


def _up(skip: int) -> pickled.Layout:
    return (("Conv", -1), ("Upsample", -1), ("Conv", skip), ("Concat", [-1, -2]), *_ELAN)


def _down(skip: int) -> pickled.Layout:
    return (("Conv", -1), ("Concat", [-1, skip]), *_ELAN)


LAYOUT: pickled.Layout = (
    ("ReOrg", -1), ("Conv", -1), *(5 * _STAGE), ("SPPCSPC", -1),
    *_up(37), *_up(28), *_up(19), *_down(71), *_down(59), *_down(47),
    *(("Conv", source) for source in (83, 93, 103, 113)), ("IKeypoint", [114, 115, 116, 117]),
)  # fmt: skip
HEAD_LAYER = 118

_ELAN_STARTS = {  # number of the first layer -> name in PoseNet
    3: "backbone.elan2", 12: "backbone.elan3", 21: "backbone.elan4", 30: "backbone.elan5", 39: "backbone.elan6",
    52: "neck.top5", 64: "neck.top4", 76: "neck.out3", 86: "neck.out4", 96: "neck.out5", 106: "neck.out6",
}  # fmt: skip
_ELAN_PARTS = {0: "branch1", 1: "branch2", 2: "chain1", 3: "chain2", 4: "chain3", 5: "chain4", 7: "final"}
_CONVOLUTIONS = {  # layer number -> name in PoseNet
    1: "backbone.stem.conv", 2: "backbone.down2", 11: "backbone.down3", 20: "backbone.down4", 29: "backbone.down5",
    38: "backbone.down6", 48: "neck.reduce6", 50: "neck.lateral5", 60: "neck.reduce5", 62: "neck.lateral4",
    72: "neck.reduce4", 74: "neck.lateral3", 84: "neck.down3", 94: "neck.down4", 104: "neck.down5",
    114: "neck.final3", 115: "neck.final4", 116: "neck.final5", 117: "neck.final6",
    **{start + step: f"{name}.{part}" for start, name in _ELAN_STARTS.items() for step, part in _ELAN_PARTS.items()},
}  # fmt: skip
_SPP = {1: "conv1", 2: "short", 3: "conv3", 4: "conv4", 5: "conv5", 6: "conv6", 7: "final"}
RULES: transfer.Rules = (
    *((rf"model\.{index}\.", f"{new}.") for index, new in _CONVOLUTIONS.items()),
    *((rf"model\.47\.cv{index}\.", f"backbone.spp.{new}.") for index, new in _SPP.items()),
    (rf"model\.{HEAD_LAYER}\.(ia|im)\.", r"\1."),
    *((rf"model\.{HEAD_LAYER}\.{old}", new) for old, new in KEYPOINT_RULES),
)
DROPPED = (f"model.{HEAD_LAYER}.anchors", f"model.{HEAD_LAYER}.anchor_grid")


def recognizes(content: Any) -> bool:
    return ends_in(content, "IKeypoint")


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """The modules give everything; the implicit vectors are folded into the box convolutions."""
    network = pickled.network_of(document.content, PACKAGE)
    assert network is not None
    layers = pickled.layers_of(network)
    pickled.check_layout(layers, LAYOUT, "YOLOv7-W6-pose", document)
    pickled.check_norms(network, document)
    facts = pickled.anchor_head_facts(layers[-1], document)
    activation = pickled.activation_of(pickled.modules_of(network, document), document)
    inert = {name: tensor for name, tensor in pickled.named_tensors(network, document).items() if name not in DROPPED}
    depthwise = f"model.{HEAD_LAYER}.m_kpt.0.0.conv.weight" in inert
    tensors = folded_implicit(transfer.rename_all(inert, RULES, document), document)
    config = NetConfig(
        name="",
        family="yolov7-pose",
        depth=pickled.multiplier(network, "depth_multiple", document),
        width=pickled.multiplier(network, "width_multiple", document),
        input=replace(RGB_UNIT, size=960),
        skeleton=transfer.skeleton_for(facts.num_keypoints, skeleton, document),
        classes=transfer.class_names(facts.num_classes, document, vars(network).get("names")),
        activation=activation,
        spp_activation=activation,
        focus_order="columns",  # ReOrg
        head="anchor",
        keypoint_branch="depthwise" if depthwise else "plain",
        legacy_layout=True,
        anchors=facts.anchors,
    )
    return transfer.filled_net(named(config), tensors, document, FORMAT)


def folded_implicit(tensors: dict[str, Tensor], document: Document) -> dict[str, Tensor]:
    """``tensors`` without the implicit vectors ``ia`` and ``im``, which are folded into the box convolutions.

    The network adds one learned vector a to the input of each box convolution and multiplies its output by another, m.
    m * (W (x + a) + b) is a convolution with weight mW and bias m(Wa + b); it is computed in float64.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("ia.", "im."))}
    for level in range(4):
        box = f"head.box_predictions.{level}"
        try:
            add, multiply = (tensors[f"{kind}.{level}.implicit"].double().flatten() for kind in ("ia", "im"))
            weight, bias = kept[f"{box}.weight"].double(), kept[f"{box}.bias"].double()
            if (*bias.shape, *add.shape, 1, 1) != weight.shape or bias.shape != multiply.shape:  # would broadcast
                raise RuntimeError(f"{len(multiply)} and {len(add)} values for a convolution {tuple(weight.shape)}")
            shifted = bias + torch.einsum("oi,i->o", weight[:, :, 0, 0], add)
            kept[f"{box}.weight"] = (weight * multiply.view(-1, 1, 1, 1)).float()
            kept[f"{box}.bias"] = (shifted * multiply).float()
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{document.path}: the implicit vectors of level {level} do not fit ({error})"
            ) from error
    return kept
