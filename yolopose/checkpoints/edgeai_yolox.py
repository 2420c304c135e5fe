"""Reader for YOLOX-Pose of edgeai-yolox (Texas Instruments): ``{"start_epoch", "model": state dict, "optimizer"}``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import Skeleton

from ..model.config import BGR_BYTES, NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import named
from . import transfer
from .archive import Document

FORMAT = "edgeai-yolox"
MARK = "head.kpts_preds.0.weight"  # a tensor that only this format has

# conv1, conv2 and conv3 of a CSP block; those of the bottlenecks inside keep their names.
_CSP_PARTS = (("conv1", "main"), ("conv2", "short"), ("conv3", "final"), ("m", "blocks"))
_CSP_BLOCKS = (
    (r"backbone\.backbone\.dark2\.1", "backbone.csp2"),
    (r"backbone\.backbone\.dark3\.1", "backbone.csp3"),
    (r"backbone\.backbone\.dark4\.1", "backbone.csp4"),
    (r"backbone\.backbone\.dark5\.2", "backbone.csp5"),
    (r"backbone\.C3_p4", "neck.fuse4"),
    (r"backbone\.C3_p3", "neck.out3"),
    (r"backbone\.C3_n3", "neck.out4"),
    (r"backbone\.C3_n4", "neck.out5"),
)
RULES: transfer.Rules = (
    (r"backbone\.backbone\.stem\.0\.", "backbone.stem.down."),
    (r"backbone\.backbone\.stem\.1\.", "backbone.stem.conv."),
    (r"backbone\.backbone\.stem\.", "backbone.stem."),
    *((rf"backbone\.backbone\.dark{n}\.0\.", f"backbone.down{n}.") for n in (2, 3, 4, 5)),
    (r"backbone\.backbone\.dark5\.1\.", "backbone.spp."),
    *((rf"{old}\.{a}\.", f"{new}.{b}.") for old, new in _CSP_BLOCKS for a, b in _CSP_PARTS),
    (r"backbone\.lateral_conv0\.", "neck.reduce5."),
    (r"backbone\.reduce_conv1\.", "neck.reduce4."),
    (r"backbone\.bu_conv2\.", "neck.down3."),
    (r"backbone\.bu_conv1\.", "neck.down4."),
    (r"head\.stems\.", "head.stems."),
    (r"head\.cls_convs\.", "head.class_towers."),
    (r"head\.reg_convs\.", "head.box_towers."),
    (r"head\.kpts_convs\.", "head.keypoint_towers."),
    (r"head\.cls_preds\.", "head.class_predictions."),
    (r"head\.reg_preds\.", "head.box_predictions."),
    (r"head\.obj_preds\.", "head.objectness_predictions."),
    (r"head\.kpts_preds\.", "head.keypoint_predictions."),
)


def recognizes(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("model"), dict) and MARK in content["model"]


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """Width, depth, classes and keypoints come from tensor shapes, the activation from the stem.

    A state dict does not hold the activation. That repository has two kinds of pose network: the plain one (focus stem,
    SiLU) and the ti-lite one (convolutional stem, ReLU everywhere).
    """
    tensors = transfer.require_tensors(document.content["model"], document)
    num_keypoints, remainder = divmod(transfer.shape_of(tensors, MARK, document, FORMAT)[0], 3)
    if remainder:
        rows = 3 * num_keypoints + remainder
        raise CheckpointError(f"{document.path}: {MARK} has {rows} rows, not a multiple of three per keypoint")
    lite = "backbone.backbone.stem.0.conv.weight" in tensors
    stem = transfer.shape_of(tensors, f"backbone.backbone.stem.{'1' if lite else 'conv'}.conv.weight", document, FORMAT)
    activation = "relu" if lite else "silu"
    config = NetConfig(
        name="",
        family="yolox-pose",
        depth=transfer.depth_from_repeats(
            transfer.count_blocks(tensors, "backbone.backbone.dark2.1.m."),
            transfer.count_blocks(tensors, "backbone.backbone.dark3.1.m."),
            document,
        ),
        width=stem[0] / 64,
        input=replace(BGR_BYTES, pad_side="bottom-right"),
        skeleton=transfer.skeleton_for(num_keypoints, skeleton, document),
        classes=transfer.class_names(
            transfer.shape_of(tensors, "head.cls_preds.0.weight", document, FORMAT)[0], document
        ),
        activation=activation,
        spp_activation=activation,
        stem="conv-focus" if lite else "focus",
        head="edgeai",
    )
    return transfer.filled_net(named(config), transfer.rename_all(tensors, RULES, document), document, FORMAT)
