"""What the tensors of a network hold on real pictures: extremes, and rows of values to measure errors with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from yolopose.runtime.errors import ArtifactError

ROW_VALUES = 2048  # kept of each tensor and image; of 64 images and 300 tensors this is 150 MiB
MIN_POSITIONS = 16


@dataclass(frozen=True)
class Samples:
    """Of one tensor over all calibration images."""

    low: float  # least and largest of all values
    high: float
    rows: np.ndarray  # (n, channels) float32: all channels at random positions


def collect(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray], seed: int = 0
) -> dict[str, Samples]:
    """Run ``model`` (float32, inputs of the contract) and keep what ``tensors`` (N, C, H, W) hold.

    images: letterboxed (h, w, 3) uint8. Memory is bounded by ``ROW_VALUES`` a tensor and image. ArtifactError when a
    tensor holds values that are not finite.
    """
    session = open_session(with_outputs(model, tensors))
    rng = np.random.default_rng(seed)
    extremes = {name: (np.inf, -np.inf) for name in tensors}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for image in images:
        for name, value in zip(tensors, session.run(list(tensors), feed(image)), strict=True):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                raise ArtifactError(
                    f"the network computes values that are not finite ({name}): train or export it again"
                )
            extremes[name] = min(low, extremes[name][0]), max(high, extremes[name][1])
            flat = value[0].reshape(value.shape[1], -1)
            wanted = max(MIN_POSITIONS, ROW_VALUES // len(flat))
            rows[name].append(flat[:, rng.integers(flat.shape[1], size=wanted)].T.copy())
    return {name: Samples(*extremes[name], np.concatenate(rows[name])) for name in tensors}


def feed(image: np.ndarray, score_threshold: float = 0.25, iou_threshold: float = 0.65) -> dict[str, np.ndarray]:
    """One letterboxed image (h, w, 3) uint8 as the inputs of an artifact."""
    thresholds = (np.full((1, 1), value, np.float32) for value in (score_threshold, iou_threshold))
    return dict(zip(("images", "score_threshold", "iou_threshold"), (image[None], *thresholds), strict=True))


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
