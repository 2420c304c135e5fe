"""Reader for YOLOXPose of mmpose: ``{"meta", "state_dict"}``, as published and as mmengine writes it in training."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from yolopose.runtime.errors import CheckpointError
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

from ..model.config import BGR_BYTES, InputSpec, NetConfig
from ..model.pose_net import PoseNet
from ..model.sizes import named
from . import transfer
from .archive import Document
from .pickle_values import InertArray

FORMAT = "mmpose"
MARK = "head.head_module.out_kpt_vis.0.weight"  # a tensor that only this format has
DROPPED = ("head.loss_oks.sigmas",)  # a buffer of the loss, not of the network
ACTIVATION_NAMES = {**transfer.ACTIVATION_NAMES, "Swish": "silu"}

_CSP = "(main|short|final)_conv", r"\1"
RULES: transfer.Rules = (
    (r"backbone\.stem\.", "backbone.stem."),
    *((rf"backbone\.stage{n}\.0\.", f"backbone.down{n + 1}.") for n in (1, 2, 3, 4)),
    (r"backbone\.stage4\.1\.", "backbone.spp."),
    *((rf"backbone\.stage{n}\.1\.{_CSP[0]}", rf"backbone.csp{n + 1}.{_CSP[1]}") for n in (1, 2, 3)),
    *((rf"backbone\.stage{n}\.1\.blocks", f"backbone.csp{n + 1}.blocks") for n in (1, 2, 3)),
    (rf"backbone\.stage4\.2\.{_CSP[0]}", rf"backbone.csp5.{_CSP[1]}"),
    (r"backbone\.stage4\.2\.blocks", "backbone.csp5.blocks"),
    (r"neck\.reduce_layers\.0\.", "neck.reduce5."),
    (r"neck\.reduce_layers\.1\.", "neck.reduce4."),
    *(
        (rf"neck\.{old}\.{tail}", f"neck.{new}.{new_tail}")
        for old, new in (
            (r"top_down_blocks\.0", "fuse4"),
            (r"top_down_blocks\.1", "out3"),
            (r"bottom_up_blocks\.0", "out4"),
            (r"bottom_up_blocks\.1", "out5"),
        )
        for tail, new_tail in (_CSP, ("blocks", "blocks"))
    ),
    (r"neck\.downsamples\.0\.", "neck.down3."),
    (r"neck\.downsamples\.1\.", "neck.down4."),
    (r"neck\.out_convs\.", "head.stems."),
    (r"head\.head_module\.conv_cls\.", "head.class_towers."),
    (r"head\.head_module\.conv_reg\.", "head.box_towers."),
    (r"head\.head_module\.conv_pose\.", "head.keypoint_towers."),
    (r"head\.head_module\.out_cls\.", "head.class_predictions."),
    (r"head\.head_module\.out_bbox\.", "head.box_predictions."),
    (r"head\.head_module\.out_obj\.", "head.objectness_predictions."),
    (r"head\.head_module\.out_kpt\.", "head.keypoint_predictions."),
    (r"head\.head_module\.out_kpt_vis\.", "head.visibility_predictions."),
)

_ACTIVATION = r"act_cfg['\"]?\s*[=:]\s*(?:dict\(|\{)\s*['\"]?type['\"]?\s*[=:]\s*['\"](\w+)"
_INPUT_SIZE = r"input_size['\"]?\s*[=:]\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)"


def recognizes(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("state_dict"), dict) and MARK in content["state_dict"]


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """Width, depth, classes and keypoints come from tensor shapes; activation and size from the stored config."""
    tensors = transfer.require_tensors(document.content["state_dict"], document)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in DROPPED}
    config_text = _config_text(document.content.get("meta"))
    activation = _activation(config_text, document)
    num_classes = transfer.shape_of(tensors, "head.head_module.out_cls.0.weight", document, FORMAT)[0]
    config = NetConfig(
        name="",
        family="yolox-pose",
        depth=transfer.depth_from_repeats(
            transfer.count_blocks(tensors, "backbone.stage1.1.blocks."),
            transfer.count_blocks(tensors, "backbone.stage2.1.blocks."),
            document,
        ),
        width=transfer.shape_of(tensors, "backbone.stem.conv.conv.weight", document, FORMAT)[0] / 64,
        input=_input_spec(config_text),
        skeleton=_skeleton(transfer.shape_of(tensors, MARK, document, FORMAT)[0], skeleton, document),
        classes=transfer.class_names(num_classes, document),
        activation=activation,
        spp_activation=activation,
        head="mmpose",
    )
    return transfer.filled_net(named(config), transfer.rename_all(tensors, RULES, document), document, FORMAT)


def _config_text(meta: Any) -> str:
    """The training config as Python source, in either of two spellings; "" if the file has none."""
    text = meta.get("cfg") if isinstance(meta, dict) else None
    return text if isinstance(text, str) else ""


def _activation(config_text: str, document: Document) -> str:
    """SiLU unless the config names another activation. Raises CheckpointError for several or unsupported ones."""
    found = re.findall(_ACTIVATION, config_text)
    kinds = {ACTIVATION_NAMES.get(name, name) for name in found} or {"silu"}
    if len(kinds) > 1 or not kinds <= {"silu", "relu"}:
        raise CheckpointError(
            f"{document.path}: activations {sorted(set(found))} are not supported; all must be SiLU, or all ReLU"
        )
    return kinds.pop()


def _input_spec(config_text: str) -> InputSpec:
    """BGR bytes in a centered letterbox; the size in the config, rounded up to a multiple of 32, else 640."""
    found = re.search(_INPUT_SIZE, config_text)
    size = max(int(found[1]), int(found[2])) if found else BGR_BYTES.size
    return replace(BGR_BYTES, size=max(-(-size // 32) * 32, 32))


def _skeleton(num_keypoints: int, given: Skeleton | None, document: Document) -> Skeleton:
    """The caller's skeleton, else that of the file if it fits the network, else by the number of keypoints."""
    described = skeleton_in(document.content.get("meta"))
    if given is None and described is not None and described.num_keypoints == num_keypoints:
        return described
    return transfer.skeleton_for(num_keypoints, given, document)


def skeleton_in(meta: Any) -> Skeleton | None:
    """The skeleton in ``meta["dataset_meta"]``, or the built-in one with the same names of keypoints.

    None if the file has no complete and valid description. Keys as mmpose writes them: keypoint_id2name {0: name},
    flip_indices (a permutation), skeleton_links [(a, b)], sigmas (array).
    """
    described = meta.get("dataset_meta") if isinstance(meta, dict) else None
    if not isinstance(described, dict):
        return None
    try:
        by_id = described["keypoint_id2name"]
        names = tuple(by_id[index] for index in range(len(by_id)))
        if len(names) > transfer.MAX_KEYPOINTS or not all(isinstance(name, str) for name in names):
            return None
        for built_in in (COCO_17, LSP_14):
            if [_plain(name) for name in names] == [_plain(name) for name in built_in.names]:
                return built_in
        sigmas = described["sigmas"]
        values = sigmas.value() if isinstance(sigmas, InertArray) else sigmas
        if values is None:
            return None
        flip = [int(index) for index in described["flip_indices"]]
        dataset = described.get("dataset_name")
        return Skeleton(
            name=dataset if isinstance(dataset, str) and dataset else f"mmpose-{len(names)}",
            names=names,
            flip_pairs=tuple((a, b) for a, b in enumerate(flip) if a < b),
            limbs=tuple((int(a), int(b)) for a, b in described.get("skeleton_links", ())),
            sigmas=tuple(float(value) for value in values),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None  # the number of keypoints decides then


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
