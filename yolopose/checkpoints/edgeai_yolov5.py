"""YOLOv5-P6 pose of edgeai-yolov5 (Texas Instruments), the paper's own code: a pickled network.

Weights of that repository are under GPL-3.0; this reader is written from facts about the file, runs none of its code.
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
LICENCE = "GPL-3.0"

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
SHORTCUT_LAYERS = (2, 4, 6, 8)

_PLAIN = {
    1: "backbone.down2", 3: "backbone.down3", 5: "backbone.down4", 7: "backbone.down5", 9: "backbone.down6",
    12: "neck.reduce6", 16: "neck.reduce5", 20: "neck.reduce4", 24: "neck.down3", 27: "neck.down4", 30: "neck.down5",
}  # fmt: skip
_CSP = {
    2: "backbone.csp2", 4: "backbone.csp3", 6: "backbone.csp4", 8: "backbone.csp5", 11: "backbone.csp6",
    15: "neck.fuse5", 19: "neck.fuse4", 23: "neck.out3", 26: "neck.out4", 29: "neck.out5", 32: "neck.out6",
}  # fmt: skip
_PARTS = (("cv1", "main"), ("cv2", "short"), ("cv3", "final"))
KEYPOINT_RULES: transfer.Rules = (  # of the depth-wise branch: its last member is the prediction
    (r"m_kpt\.(\d+)\.11\.(?=weight|bias)", r"head.keypoint_predictions.\1."),
    (r"m_kpt\.(\d+)\.(\d+)\.", r"head.keypoint_towers.\1.\2."),
    (r"m_kpt\.(\d+)\.(?=weight|bias)", r"head.keypoint_predictions.\1."),
    (r"m\.", "head.box_predictions."),
)
RULES: transfer.Rules = (
    (r"model\.0\.conv_slice\.", "backbone.stem.down."),
    (r"model\.0\.conv\.", "backbone.stem.conv."),
    *((rf"model\.{index}\.", f"{ours}.") for index, ours in _PLAIN.items()),
    *((rf"model\.{index}\.{a}\.", f"{ours}.{b}.") for index, ours in _CSP.items() for a, b in _PARTS),
    *((rf"model\.{index}\.m\.(\d+)\.cv(\d)\.", rf"{ours}.blocks.\1.conv\2.") for index, ours in _CSP.items()),
    (r"model\.10\.cv(\d)\.", r"backbone.spp.conv\1."),
    *((rf"model\.{HEAD_LAYER}\.{theirs}", ours) for theirs, ours in KEYPOINT_RULES),
)
DROPPED = (f"model.{HEAD_LAYER}.anchors", f"model.{HEAD_LAYER}.anchor_grid")


def recognises(content: Any) -> bool:
    head = pickled.head_of(content)
    return pickled.kind_of(head) == "Detect" and "m_kpt" in pickled.children(head)


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """Everything comes from the pickled modules and their attributes; the model description gives width and depth."""
    network = pickled.network_of(document.content)
    assert network is not None
    layers = pickled.layers_of(network)
    pickled.check_layout(layers, LAYOUT, "a YOLOv5-P6 pose network", document)
    pickled.check_norms(network, document)
    _check_blocks(layers, document)
    facts = pickled.head_facts(layers[-1], document)
    modules = pickled.modules_of(network, document)
    of_spp = {name: module for name, module in modules.items() if name.startswith(f"model.{SPP_LAYER}.")}
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
        activation=pickled.activation_of({n: m for n, m in modules.items() if n not in of_spp}, document),
        spp_activation=pickled.activation_of(of_spp, document),
        stem="conv-focus" if lite else "focus",
        focus_order="rows" if "contract" in pickled.children(layers[0]) else "columns",
        head="anchor",
        keypoint_branch="depthwise" if f"model.{HEAD_LAYER}.m_kpt.0.0.conv.weight" in tensors else "plain",
        legacy_layout=True,
        anchors=facts.anchors,
    )
    net = transfer.filled_net(named(config), transfer.rename_all(tensors, RULES, document), document)
    net.source_format, net.weights_licence = FORMAT, LICENCE
    return net


def _check_blocks(layers: list[Any], document: Document) -> None:
    """What shapes do not show: which bottlenecks add their input, and the windows of the pyramid."""
    for index in _CSP:
        for block in pickled.children(pickled.children(layers[index]).get("m")).values():
            if vars(block).get("add") is not (index in SHORTCUT_LAYERS):
                raise CheckpointError(f"{document.path}: layer {index} adds its input where YOLOv5-P6 pose does not")
    pools = pickled.children(pickled.children(layers[SPP_LAYER]).get("m")).values()
    windows = [_window(pool) for pool in pools]
    if windows != [3, 5, 7]:
        raise CheckpointError(f"{document.path}: pyramid pooling over {windows} is not supported; [3, 5, 7] is")


def _window(pool: Any) -> int:
    """Side of the window that a max pool, or a chain of them, looks at."""
    parts = [pool] if pickled.kind_of(pool) == "MaxPool2d" else list(pickled.children(pool).values())
    return 1 + sum(int(vars(part).get("kernel_size", 0)) - 1 for part in parts)
