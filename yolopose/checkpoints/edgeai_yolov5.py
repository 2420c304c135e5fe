"""Reader for YOLOv5-P6 pose of edgeai-yolov5 (Texas Instruments), the code of the paper: a pickled network.

Weights of that repository are under GPL-3.0. This reader was written from facts about the files and runs none of its
code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import Skeleton

from ..model.config import RGB_UNIT, NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import named
from . import pickled, transfer
from .archive import Document

FORMAT = "edgeai-yolov5"
LICENSE = "GPL-3.0"
PACKAGE = "models.yolo"  # of the class of the network

_DOWN_AND_CSP: pickled.Layout = (("Conv", -1), ("C3", -1))


def _up(skip: int) -> pickled.Layout:
    return (("Conv", -1), ("Upsample", -1), ("Concat", [-1, skip]), ("C3", -1))


def _down(skip: int) -> pickled.Layout:
    return (("Conv", -1), ("Concat", [-1, skip]), ("C3", -1))


LAYOUT: pickled.Layout = (
    ("Focus|ConvFocus", -1),
    *(4 * _DOWN_AND_CSP), ("Conv", -1), ("SPP", -1), ("C3", -1),
    *_up(8), *_up(6), *_up(4), *_down(20), *_down(16), *_down(12),
    ("Detect", [23, 26, 29, 32]),
)  # fmt: skip
SPP_LAYER, HEAD_LAYER = 10, 33
SHORTCUT_LAYERS = (2, 4, 6, 8)  # their bottlenecks add the input
POOL_WINDOWS = [3, 5, 7]

_CONVOLUTIONS = {  # layer number -> name in PoseNet
    1: "backbone.down2", 3: "backbone.down3", 5: "backbone.down4", 7: "backbone.down5", 9: "backbone.down6",
    12: "neck.reduce6", 16: "neck.reduce5", 20: "neck.reduce4", 24: "neck.down3", 27: "neck.down4", 30: "neck.down5",
}  # fmt: skip
_CSP = {  # layer number -> name in PoseNet
    2: "backbone.csp2", 4: "backbone.csp3", 6: "backbone.csp4", 8: "backbone.csp5", 11: "backbone.csp6",
    15: "neck.fuse5", 19: "neck.fuse4", 23: "neck.out3", 26: "neck.out4", 29: "neck.out5", 32: "neck.out6",
}  # fmt: skip
_CSP_PARTS = (("cv1", "main"), ("cv2", "short"), ("cv3", "final"))
KEYPOINT_RULES: transfer.Rules = (  # of the head; the last member of a depth-wise branch is the prediction
    (r"m_kpt\.(\d+)\.11\.(?=weight|bias)", r"head.keypoint_predictions.\1."),
    (r"m_kpt\.(\d+)\.(\d+)\.", r"head.keypoint_towers.\1.\2."),
    (r"m_kpt\.(\d+)\.(?=weight|bias)", r"head.keypoint_predictions.\1."),
    (r"m\.", "head.box_predictions."),
)
RULES: transfer.Rules = (
    (r"model\.0\.conv_slice\.", "backbone.stem.down."),
    (r"model\.0\.conv\.", "backbone.stem.conv."),
    *((rf"model\.{index}\.", f"{new}.") for index, new in _CONVOLUTIONS.items()),
    *((rf"model\.{index}\.{a}\.", f"{new}.{b}.") for index, new in _CSP.items() for a, b in _CSP_PARTS),
    *((rf"model\.{index}\.m\.(\d+)\.cv(\d)\.", rf"{new}.blocks.\1.conv\2.") for index, new in _CSP.items()),
    (r"model\.10\.cv(\d)\.", r"backbone.spp.conv\1."),
    *((rf"model\.{HEAD_LAYER}\.{old}", new) for old, new in KEYPOINT_RULES),
)
DROPPED = (f"model.{HEAD_LAYER}.anchors", f"model.{HEAD_LAYER}.anchor_grid")


def recognizes(content: Any) -> bool:
    return ends_in(content, "Detect")


def ends_in(content: Any, kind: str) -> bool:
    """Whether this is a pickled network whose last layer is a head ``kind`` with a keypoint branch."""
    layers = pickled.layers_of(pickled.network_of(content, PACKAGE))
    return bool(layers) and pickled.kind_of(layers[-1]) == kind and "m_kpt" in pickled.children(layers[-1])


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """The modules and their attributes give everything, except width and depth: these are in the model description."""
    network = pickled.network_of(document.content, PACKAGE)
    assert network is not None
    layers = pickled.layers_of(network)
    pickled.check_layout(layers, LAYOUT, "a YOLOv5-P6 pose network", document)
    pickled.check_norms(network, document)
    _check_blocks(layers, document)
    facts = pickled.anchor_head_facts(layers[-1], document)
    modules = pickled.modules_of(network, document)
    spp_modules = {name: module for name, module in modules.items() if name.startswith(f"model.{SPP_LAYER}.")}
    other_modules = {name: module for name, module in modules.items() if name not in spp_modules}
    lite = pickled.kind_of(layers[0]) == "ConvFocus"
    tensors = {name: inert for name, inert in pickled.named_tensors(network, document).items() if name not in DROPPED}
    config = NetConfig(
        name="",
        family="yolov5-pose",
        depth=pickled.multiplier(network, "depth_multiple", document),
        width=pickled.multiplier(network, "width_multiple", document),
        input=replace(RGB_UNIT, size=640 if lite else 960),
        skeleton=transfer.skeleton_for(facts.num_keypoints, skeleton, document),
        classes=transfer.class_names(facts.num_classes, document, vars(network).get("names")),
        activation=pickled.activation_of(other_modules, document),
        spp_activation=pickled.activation_of(spp_modules, document),
        stem="conv-focus" if lite else "focus",
        focus_order="rows" if "contract" in pickled.children(layers[0]) else "columns",
        head="anchor",
        keypoint_branch="depthwise" if f"model.{HEAD_LAYER}.m_kpt.0.0.conv.weight" in tensors else "plain",
        legacy_layout=True,
        anchors=facts.anchors,
    )
    net = transfer.filled_net(named(config), transfer.rename_all(tensors, RULES, document), document, FORMAT)
    net.weights_licence = LICENSE
    return net


def _check_blocks(layers: list[Any], document: Document) -> None:
    """Checks what tensor shapes do not show: which bottlenecks add their input, and the windows of the pooling."""
    for index in _CSP:
        for block in pickled.children(pickled.children(layers[index]).get("m")).values():
            if vars(block).get("add") is not (index in SHORTCUT_LAYERS):
                adds = "does not add" if index in SHORTCUT_LAYERS else "adds"
                raise CheckpointError(f"{document.path}: a block of layer {index} {adds} its input, unlike YOLOv5-P6")
    pools = pickled.children(pickled.children(layers[SPP_LAYER]).get("m")).values()
    windows = [_window(pool) for pool in pools]
    if windows != POOL_WINDOWS:
        raise CheckpointError(f"{document.path}: pooling windows {windows} are not supported; {POOL_WINDOWS} are")


def _window(pool: Any) -> int:
    """Side of the window of a max pool, or of a chain of them."""
    parts = [pool] if pickled.kind_of(pool) == "MaxPool2d" else list(pickled.children(pool).values())
    return 1 + sum(int(vars(part).get("kernel_size", 0)) - 1 for part in parts)
