"""What a network's artifact promises: the contract before anything was compared."""

from __future__ import annotations

from dataclasses import dataclass

from yolopose.model.pose_net import PoseNet
from yolopose.runtime.contract import Contract, InputInfo, ModelInfo, NmsInfo, PrecisionInfo, Provenance, Range
from yolopose.runtime.machine import installed_versions

OPSET = 18  # newest that every engine takes: ONNX Runtime's CUDA provider lacks Resize-19 and ReduceMax-20 kernels
MAX_SIZE = 4096  # pixels, of a file with dynamic height and width
MAX_BATCH = 64  # of a file with dynamic batch; longer lists are run in parts
_TOOLS = ("yolopose", "torch", "onnx", "onnxscript", "onnxsim")


@dataclass(frozen=True)
class ShapeConfig:
    """What of the input is fixed in the file. ``None`` leaves it to the runtime; sizes in pixels."""

    shape_hw: tuple[int, int] | None = None
    batch: int | None = None


def input_info(net: PoseNet, size: int | None, shape: ShapeConfig) -> InputInfo:
    """Legal sizes of the artifact; size: the best square one, None: the network's own.

    Raises ValueError for those that the network cannot take.
    """
    multiple, shape_hw, batch = net.input.multiple, shape.shape_hw, shape.batch
    best = net.input.size if size is None else size
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
        pad_value=net.input.pad_value,
        pad_side=net.input.pad_side,
    )


def contract_from_net(
    net: PoseNet, graph_sha256: str, given: InputInfo, nms: NmsInfo, precision: PrecisionInfo
) -> Contract:
    """Without parity: nothing is claimed before it was compared."""
    versions = installed_versions()
    return Contract(
        model=ModelInfo(name=net.config.name, family=net.config.family, classes=tuple(net.classes)),
        skeleton=net.skeleton,
        input=given,
        nms=nms,
        precision=precision,
        provenance=Provenance(
            graph_sha256=graph_sha256,
            weights_sha256=net.weights_sha256,
            versions={name: versions[name] for name in _TOOLS if name in versions},
            weights_licence=net.weights_licence,
        ),
    )
