"""Runs of a graph in the middle of an export, on ONNX Runtime's CPU provider: images in, any tensors out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from yolopose.runtime.contract import INPUT_NAMES, InputInfo
from yolopose.runtime.letterbox import Placement, as_bgr_image, letterbox

from .images import ExportImages

_Item = TypeVar("_Item")


def letterboxed(images: ExportImages, given: InputInfo) -> list[tuple[np.ndarray, Placement]]:
    """Each image as the runtime gives it to the artifact: (h, w, 3) uint8, and where the image lies in it."""
    shape_hw = given.height.opt, given.width.opt
    return [
        letterbox(as_bgr_image(images.read(i)), shape_hw, pad_value=given.pad_value, pad_side=given.pad_side)
        for i in range(len(images))
    ]


def feed(
    images: Sequence[np.ndarray], score_threshold: float = 0.25, iou_threshold: float = 0.65, rows: int = 1
) -> dict[str, np.ndarray]:
    """Letterboxed images (h, w, 3) uint8 as the inputs of an artifact; rows: of a fixed batch, the last image again in
    those left over."""
    thresholds = (np.full((max(rows, len(images)), 1), value, np.float32) for value in (score_threshold, iou_threshold))
    filled = [*images, *[images[-1]] * (rows - len(images))]
    return dict(zip(INPUT_NAMES, (np.stack(filled), *thresholds), strict=True))


def in_batches(images: Iterable[_Item], rows: int) -> Iterator[list[_Item]]:
    """Lists of ``rows`` items; the last may be shorter."""
    rest = iter(images)
    while batch := list(islice(rest, rows)):
        yield batch


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are ``tensors`` alone; what they do not need is not computed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors)
    return copy


def open_session(model: onnx.ModelProto, threads: int | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
