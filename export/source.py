"""Shapes of what is exported: what is asked, and what the contract then says.

What an export begins from, as its steps see it: a network of ours, or one that was taken up from another's ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import onnx

from yolopose.deploy.reference import ReferenceEstimator
from yolopose.model.config import InputSpec
from yolopose.runtime.contract import Contract, InputInfo, ModelInfo, NmsInfo, PrecisionInfo, Provenance, Range
from yolopose.runtime.machine import installed_versions
from yolopose.runtime.skeleton import Skeleton

OPSET = 18  # newest that every engine takes: ONNX Runtime's CUDA provider lacks Resize-19 and ReduceMax-20 kernels
MAX_SIZE = 4096  # pixels, of a file with dynamic height and width
MAX_BATCH = 64  # of a file with dynamic batch; longer lists are run in parts


@dataclass(frozen=True)
class ShapeConfig:
    """What of the input is fixed in the file. ``None`` leaves it to the runtime; sizes in pixels."""

    shape_hw: tuple[int, int] | None = None
    batch: int | None = None


def input_info(spec: InputSpec, size: int | None, shape: ShapeConfig) -> InputInfo:
    """Legal sizes of the artifact; size: the best square one, None: the network's own.

    Raises ValueError for those that the network cannot take.
    """
    multiple, shape_hw, batch = spec.multiple, shape.shape_hw, shape.batch
    best = spec.size if size is None else size
    for each in shape_hw or (best,):
        if each % multiple or not multiple <= each <= MAX_SIZE:
            raise ValueError(f"--imgsz {each}: sizes must be multiples of {multiple} from {multiple} to {MAX_SIZE}")
    if shape_hw is None:
        height = width = Range(multiple, best, MAX_SIZE, multiple)
    else:
        height, width = (Range(each, each, each) for each in shape_hw)
    return InputInfo(
        height=height,
        width=width,
        batch=Range(1, 1, MAX_BATCH) if batch is None else Range(batch, batch, batch),
        pad_value=spec.pad_value,
        pad_side=spec.pad_side,
    )


_TOOLS = ("yolopose", "torch", "onnx", "onnxscript", "onnxsim")


@dataclass(frozen=True)
class Source:
    """``build``: the deployed graph, without contract; ``reference``: what it is compared with, at these thresholds and
    this (height, width); ``shape``: what the source itself fixes."""

    description: str
    model: ModelInfo
    skeleton: Skeleton
    input: InputSpec
    weights_sha256: str | None
    weights_licence: str | None
    build: Callable[[NmsInfo, ShapeConfig], onnx.ModelProto]
    reference: Callable[[NmsInfo, tuple[int, int]], ReferenceEstimator]
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    third_party: bool = False  # taken up from a file of others
    nms_free: bool = False  # NMS is inside, or the head needs none

    @property
    def reference_name(self) -> str:
        """What it is compared with, in words."""
        return "the file itself" if self.third_party else "PyTorch"

    def resolve_nms(self, nms: NmsInfo) -> NmsInfo:
        """What of the asked suppression applies; where NMS is inside, as many candidates as people."""
        if self.nms_free:
            return replace(nms, candidates=nms.max_people, class_aware=False)
        return replace(nms, class_aware=len(self.model.classes) > 1)

    def shape_for(self, asked: ShapeConfig) -> ShapeConfig:
        """Raises ValueError where other sizes are asked than the source is fixed to."""
        fixed = self.shape
        for name, own, wanted in (
            ("--imgsz", fixed.shape_hw, asked.shape_hw),
            ("--batch", fixed.batch, asked.batch),
        ):
            if own is not None and wanted is not None and own != wanted:
                raise ValueError(f"{name} {wanted}: the source is fixed to {own}; export it again with dynamic shapes")
        return ShapeConfig(fixed.shape_hw or asked.shape_hw, fixed.batch or asked.batch)


def contract_of(
    source: Source, graph_sha256: str, given: InputInfo, nms: NmsInfo, precision: PrecisionInfo
) -> Contract:
    """Without parity: nothing is claimed before it was compared."""
    versions = installed_versions()
    return Contract(
        model=source.model,
        skeleton=source.skeleton,
        input=given,
        nms=nms,
        precision=precision,
        provenance=Provenance(
            graph_sha256=graph_sha256,
            weights_sha256=source.weights_sha256,
            versions={name: versions[name] for name in _TOOLS if name in versions},
            weights_licence=source.weights_licence,
        ),
    )
