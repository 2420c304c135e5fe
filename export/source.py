"""The source of an export: a checkpoint's network or a third-party ONNX file, as the steps of an export see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import onnx

from yolopose.deploy.reference import ReferenceEstimator
from yolopose.model.config import InputSpec
from yolopose.model.pose_net import PoseNet
from yolopose.runtime.console import usage_errors
from yolopose.runtime.contract import InputInfo, ModelInfo, NmsInfo, PoseInfo, Range
from yolopose.runtime.errors import UsageError
from yolopose.runtime.skeleton import Skeleton

from .config import MAX_BATCH, MAX_SIZE, ShapeConfig
from .onnx_export import onnx_from_net

# Where the suppression of a source happens: yolopose adds it, the file holds it, or the head needs none.
Suppression = Literal["added", "in the source file", "not needed"]


@dataclass(frozen=True)
class Source:
    """What is known about the weights, and how to make a graph and a reference from them.

    format              "mmpose checkpoint", "ONNX, ultralytics layout", ...
    input               what the network itself takes
    weights_sha256      None where the weights come from no file
    weights_license     None where the file does not say
    build               (NMS, fixed dimensions, pose) -> the deployed graph, without contract
    reference           (NMS, (height, width), pose) -> the estimator that the artifact is compared with
    shape               dimensions that the source itself fixes
    third_party         from an ONNX file that another tool wrote
    """

    format: str
    model: ModelInfo
    skeleton: Skeleton
    input: InputSpec
    weights_sha256: str | None
    weights_license: str | None
    build: Callable[[NmsInfo, ShapeConfig, PoseInfo], onnx.ModelProto]
    reference: Callable[[NmsInfo, tuple[int, int], PoseInfo], ReferenceEstimator]
    suppression: Suppression = "added"
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    third_party: bool = False

    @property
    def description(self) -> str:
        """One line for people."""
        nms = {"added": "", "in the source file": ", NMS inside", "not needed": ", a head without NMS"}
        return f"{self.model.name} ({self.format}), {self.skeleton.num_keypoints} keypoints{nms[self.suppression]}"

    @property
    def nms_free(self) -> bool:
        """The network gives each person once: NMS is inside, or its head needs none."""
        return self.suppression != "added"

    @property
    def reference_name(self) -> str:
        """Name of what the artifact is compared with."""
        return "the source file" if self.third_party else "PyTorch"

    def resolve_nms(self, nms: NmsInfo) -> NmsInfo:
        """The suppression that applies to this source; without NMS, there are as many candidates as people."""
        if self.nms_free:
            return replace(nms, candidates=nms.max_people, class_aware=False)
        return replace(nms, class_aware=len(self.model.classes) > 1)

    def resolve_pose(self, keypoints: str | None, spread: bool) -> PoseInfo:
        """The source of the keypoints; None: what suits this network. Raises UsageError where nobody is suppressed."""
        wanted = keypoints or ("best" if self.nms_free and not spread else "consensus")
        if self.nms_free and wanted == "consensus":
            flag = "--keypoint-spread" if keypoints is None else "--keypoints consensus"
            raise UsageError(
                f"{flag}: {self.model.name} gives each person once, so that it has no other candidates; leave it out"
            )
        with usage_errors():  # spread of the best candidate alone
            return PoseInfo(keypoints=wanted, spread=spread)

    def resolve_shape(self, requested: ShapeConfig) -> ShapeConfig:
        """Fixed dimensions of source and request together. Raises UsageError where they disagree."""
        fixed = self.shape
        for flag, own, wanted in (
            ("--imgsz", fixed.shape_hw, requested.shape_hw),
            ("--batch", fixed.batch, requested.batch),
        ):
            if own is not None and wanted is not None and own != wanted:
                raise UsageError(f"{flag} {wanted}: the source is fixed to {own}; export it again with dynamic shapes")
        return ShapeConfig(fixed.shape_hw or requested.shape_hw, fixed.batch or requested.batch)


def source_from_net(net: PoseNet) -> Source:
    """A network that ``yolopose.load`` gave."""

    def reference(nms: NmsInfo, shape_hw: tuple[int, int], pose: PoseInfo) -> ReferenceEstimator:
        thresholds = (nms.score_threshold, nms.iou_threshold)
        return ReferenceEstimator(net, *thresholds, nms.max_people, shape_hw, max_candidates=nms.candidates, pose=pose)

    return Source(
        format=f"{net.source_format} checkpoint",
        model=ModelInfo(name=net.config.name, family=net.config.family, classes=tuple(net.classes)),
        skeleton=net.skeleton,
        input=net.input,
        weights_sha256=net.weights_sha256,
        weights_license=net.weights_licence,
        build=partial(onnx_from_net, net),
        reference=reference,
        suppression="not needed" if net.one_to_one else "added",
    )


def input_info(spec: InputSpec, size: int | None, shape: ShapeConfig) -> InputInfo:
    """Sizes that the artifact accepts.

    spec    what the network takes
    size    default square size of a dynamic file, in pixels; None: the network's own
    shape   dimensions that are fixed

    Raises UsageError for sizes that the network cannot take.
    """
    multiple, shape_hw, batch = spec.multiple, shape.shape_hw, shape.batch
    best = spec.size if size is None else size
    for side in shape_hw or (best,):
        if side % multiple or not multiple <= side <= MAX_SIZE:
            raise UsageError(f"--imgsz {side}: sizes must be multiples of {multiple} from {multiple} to {MAX_SIZE}")
    if shape_hw is None:
        height = width = Range(multiple, best, MAX_SIZE, multiple)
    else:
        height, width = (Range(side, side, side) for side in shape_hw)
    with usage_errors():  # a batch beyond the contract's limit
        return InputInfo(
            height=height,
            width=width,
            batch=Range(1, 1, MAX_BATCH) if batch is None else Range(batch, batch, batch),
            pad_value=spec.pad_value,
            pad_side=spec.pad_side,
        )
