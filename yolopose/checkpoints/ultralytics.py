"""Pose networks of Ultralytics (YOLOv8, YOLO11, YOLO26): a pickled network, rebuilt from its own modules.

Their code and weights are under AGPL-3.0; this reader is written from facts about the files, runs none of their code.
Which layers there are, and how wide, is read from what was pickled (ultralytics_layers.py), so that every size and
every change of depth or width is read, and a layer that is not known is refused by name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint
from yolopose.runtime.skeleton import Skeleton

from ..model.input_spec import RGB_UNIT, InputSpec
from ..model.layer_table import DistanceSettings, LayerTable
from ..model.net_config import NetConfig
from ..model.pose_net import PoseNet
from . import pickled, transfer
from .archive import Document
from .stand_ins import InertTensor, StandIn, brief, stand_in_name
from .ultralytics_layers import check_modules, layer_rules, read_layer

FORMAT = "ultralytics"
HEADS = {"Pose": "yolov8-pose", "Pose26": "yolo26-pose"}
TASKS = {
    "DetectionModel": "detection", "SegmentationModel": "segmentation", "ClassificationModel": "classification",
    "OBBModel": "oriented boxes", "RTDETRDetectionModel": "detection", "WorldModel": "detection",
}  # fmt: skip
ONE_TO_ONE = "one2one_"
LICENCE = 200  # characters of it that are kept
LICENCE_UNSAID = "AGPL-3.0 (Ultralytics' own; the file does not say)"


def recognises(content: Any) -> bool:
    return _network(content) is not None


def read(document: Document, skeleton: Skeleton | None) -> PoseNet:
    """The averaged network where there is one. Raises UnknownCheckpoint for networks of other tasks."""
    network = _network(document.content)
    assert network is not None
    layers = pickled.layers_of(network)
    head = layers[-1] if layers else None
    kind = pickled.kind_of(head)
    if kind not in HEADS:
        found = TASKS.get(pickled.kind_of(network), f"{pickled.kind_of(network)} ending in {kind or 'nothing'}")
        raise UnknownCheckpoint(f"{document.path} is a network of Ultralytics for {found}, not for poses")
    pickled.check_norms(network, document)
    tensors = pickled.named_tensors(network, document)
    at_head = f"model.{len(layers) - 1}."
    settings, dropped = _head_settings(head, at_head, tensors, document)
    check_modules(network, dropped, document)
    rows = [read_layer(number, layer, tensors, document) for number, layer in enumerate(layers[:-1])]
    try:
        table = LayerTable(tuple(rows), _sources(head, document), settings)
    except ValueError as error:
        raise CheckpointError(f"{document.path}: its layers do not fit each other: {error}") from error
    _check_strides(head, table.strides, document)
    points, classes = _counts(head, document)
    config = NetConfig(
        name="",
        family=_family(kind, layers),
        depth=1.0,
        width=1.0,
        input=_input(document.content, network, table.multiple),
        skeleton=transfer.skeleton_for(points, skeleton, document),
        classes=transfer.class_names(classes, document, vars(network).get("names")),
        head="distance",
        table=table,
    )
    config = replace(config, name=_name(config, network))
    rules = {f"model.{number}.": layer_rules(number, row, table.neck_begins) for number, row in enumerate(rows)}
    rules[at_head] = _head_rules(at_head, settings, kind)
    renamed: dict[str, Tensor] = {}
    for start, some in _by_layer(tensors).items():
        kept = {name: tensor for name, tensor in some.items() if not name.startswith(dropped)}
        renamed |= transfer.rename_all(kept, rules.get(start, ()), document)
    net = transfer.filled_net(config, renamed, document)
    net.source_format = FORMAT
    licence = document.content.get("license")
    net.weights_licence = licence[:LICENCE] if isinstance(licence, str) and licence else LICENCE_UNSAID
    return net


def _by_layer(tensors: dict[str, InertTensor]) -> dict[str, dict[str, InertTensor]]:
    """By the start of their names, such as "model.7."."""
    found: dict[str, dict[str, InertTensor]] = {}
    for name, tensor in tensors.items():
        found.setdefault(".".join(name.split(".", 2)[:2]) + ".", {})[name] = tensor
    return found


def _network(content: Any) -> StandIn | None:
    if not isinstance(content, dict):
        return None
    for key in ("ema", "model"):
        network = content.get(key)
        if isinstance(network, StandIn) and stand_in_name(network).startswith("ultralytics.nn.tasks."):
            return network
    return None


def _sources(head: Any, document: Document) -> tuple[int, ...]:
    sources = vars(head).get("f")
    if not isinstance(sources, list) or not all(type(source) is int for source in sources):
        raise CheckpointError(f"{document.path}: the head takes {brief(sources)}, which are no layers")
    return tuple(sources)


def _counts(head: Any, document: Document) -> tuple[int, int]:
    """Keypoints and classes."""
    state = vars(head)
    shape, classes = state.get("kpt_shape"), state.get("nc")
    if not isinstance(shape, list | tuple) or len(shape) != 2 or not all(type(n) is int for n in (*shape, classes)):
        raise CheckpointError(f"{document.path}: the pickled head lacks its keypoints or classes")
    if shape[1] != 3:
        raise UnknownCheckpoint(
            f"{document.path}: its keypoints are {list(shape)}, without visibility: train it with kpt_shape [K, 3], "
            "the runtime promises a score for each keypoint"
        )
    return shape[0], classes


def _head_settings(
    head: Any, prefix: str, tensors: dict[str, InertTensor], document: Document
) -> tuple[DistanceSettings, tuple[str, ...]]:
    """What the head is made of, and the starts of names of what only its training needs.

    Of two branches the one is taken that gives each person once.
    """
    one_to_one = pickled.children(head).get(f"{ONE_TO_ONE}cv2") is not None  # None after their ``fuse``
    last = pickled.kind_of(head) == "Pose26"
    start = ONE_TO_ONE if one_to_one else ""

    def outputs(name: str) -> int:
        return transfer.shape_of(tensors, f"{prefix}{start}{name}.weight", document, "Ultralytics'")[0]

    separable = f"{prefix}{start}cv3.0.0.0.conv.weight" in tensors
    bins, rest = divmod(outputs("cv2.0.2"), 4)
    if rest or bins != vars(head).get("reg_max"):
        raise CheckpointError(f"{document.path}: boxes of {4 * bins + rest} numbers, and not of four distances")
    settings = DistanceSettings(
        box_width=outputs("cv2.0.0.conv"),
        class_width=outputs("cv3.0.0.1.conv" if separable else "cv3.0.0.conv"),
        keypoint_width=outputs("cv4.0.0.conv"),
        bins=bins,
        depthwise_classes=separable,
        half_cell=last,
        one_to_one=one_to_one,
    )
    if bins > 1:
        _check_bins(tensors.get(f"{prefix}dfl.conv.weight"), bins, document)
    towers = ("cv2.", "cv3.", "cv4.", *(("cv4_kpts.",) if last else ()))
    dropped = [f"{prefix}dfl.", f"{prefix}flow_model.", f"{prefix}cv4_sigma.", f"{prefix}{ONE_TO_ONE}cv4_sigma."]
    return settings, (*dropped, *(f"{prefix}{tower}" for tower in towers if one_to_one))


def _check_bins(weight: InertTensor | None, bins: int, document: Document) -> None:
    """The mean of a distribution is taken by a convolution there, with constants for weights."""
    values = None if weight is None else document.tensor(weight, "dfl").flatten().float()
    if values is None or not torch.equal(values, torch.arange(bins, dtype=torch.float32)):
        raise CheckpointError(f"{document.path}: the values of the {bins} bins of a distance are not 0 to {bins - 1}")


def _check_strides(head: Any, strides: tuple[int, ...], document: Document) -> None:
    stored = vars(head).get("stride")
    if isinstance(stored, InertTensor) and document.tensor(stored, "stride").tolist() != list(strides):
        raise CheckpointError(f"{document.path}: the head has other strides than its layers give, {strides}")


def _family(kind: str, layers: list[Any]) -> str:
    kinds = {pickled.kind_of(layer) for layer in layers}
    return "yolo11-pose" if kind == "Pose" and "C3k2" in kinds else HEADS[kind]


def _name(config: NetConfig, network: StandIn) -> str:
    """As published: yolov8n-pose, yolov8x-pose-p6; without a letter where the file tells no size."""
    description = vars(network).get("yaml")
    scale = description.get("scale") if isinstance(description, dict) else None
    letter = scale if isinstance(scale, str) and re.fullmatch("[nsmlx]", scale) else ""
    assert config.table is not None
    more = "-p6" if config.table.strides[-1] == 64 else ""
    return f"{config.family.removesuffix('-pose')}{letter}-pose{more}"


def _input(content: Any, network: StandIn, multiple: int) -> InputSpec:
    """The size that it was trained with."""
    told = [source for source in (content.get("train_args"), vars(network).get("args")) if isinstance(source, dict)]
    sizes: list[Any] = [source.get("imgsz") for source in told]
    size = next((size for size in sizes if type(size) is int and multiple <= size <= transfer.MAX_INPUT), 640)
    return replace(RGB_UNIT, multiple=multiple, size=size // multiple * multiple)


def _head_rules(prefix: str, settings: DistanceSettings, kind: str) -> list[tuple[str, str]]:
    theirs = re.escape(prefix + (ONE_TO_ONE if settings.one_to_one else ""))
    predictions = r"cv4_kpts\.(\d+)\." if kind == "Pose26" else r"cv4\.(\d+)\.2\."
    return [
        (rf"{theirs}cv2\.(\d+)\.2\.", r"head.box_predictions.\1."),
        (rf"{theirs}cv3\.(\d+)\.2\.", r"head.class_predictions.\1."),
        (rf"{theirs}{predictions}", r"head.keypoint_predictions.\1."),
        (rf"{theirs}cv2\.(\d+)\.", r"head.box_towers.\1."),
        (rf"{theirs}cv3\.(\d+)\.", r"head.class_towers.\1."),
        (rf"{theirs}cv4\.(\d+)\.", r"head.keypoint_towers.\1."),
    ]
