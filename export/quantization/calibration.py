"""What the tensors of a network hold on real pictures: extremes, and rows of values to measure errors with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from yolopose.runtime.errors import ArtifactError

from ..graph_run import feed, in_batches, open_session, with_outputs

ROW_VALUES = 2048  # kept of each tensor and image; of 64 images and 300 tensors this is 150 MiB
MIN_POSITIONS = 16


@dataclass(frozen=True)
class Samples:
    """Of one tensor over all calibration images."""

    low: float  # least and largest of all values
    high: float
    rows: np.ndarray  # (n, channels) float32: all channels at random positions


def collect(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray], seed: int = 0, rows: int = 1
) -> dict[str, Samples]:
    """Run ``model`` (float32, inputs of the contract) and keep what ``tensors`` (N, C, H, W) hold.

    images: letterboxed (h, w, 3) uint8; rows: of a fixed batch. Memory is bounded by ``ROW_VALUES`` a tensor and image.
    ArtifactError when a tensor holds values that are not finite.
    """
    session = open_session(with_outputs(model, tensors))
    rng = np.random.default_rng(seed)
    extremes = {name: (np.inf, -np.inf) for name in tensors}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for batch in in_batches(images, rows):
        for name, value in zip(tensors, session.run(list(tensors), feed(batch, rows=rows)), strict=True):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                raise ArtifactError(
                    f"the network computes values that are not finite ({name}): train or export it again"
                )
            extremes[name] = min(low, extremes[name][0]), max(high, extremes[name][1])
            for one in value[: len(batch)]:
                flat = one.reshape(len(one), -1)
                wanted = max(MIN_POSITIONS, ROW_VALUES // len(flat))
                kept[name].append(flat[:, rng.integers(flat.shape[1], size=wanted)].T.copy())
    return {name: Samples(*extremes[name], np.concatenate(kept[name])) for name in tensors}
