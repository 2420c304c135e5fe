"""Shapes of what is exported: what is asked, and what the contract then says."""

from __future__ import annotations

from dataclasses import dataclass

from yolopose.model.input_spec import InputSpec
from yolopose.runtime.contract import InputInfo, Range

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
