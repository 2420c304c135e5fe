"""A third-party ONNX file as the source of an export, and the reference that its artifact is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from yolopose.deploy.reference import NO_SUPPRESSION, ReferenceEstimator
from yolopose.model.pose_net import Predictions
from yolopose.runtime.contract import ModelInfo, NmsInfo, PoseInfo
from yolopose.runtime.errors import UnknownCheckpoint, UsageError
from yolopose.runtime.images import as_bgr_image
from yolopose.runtime.letterbox import Placement, letterbox
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton, generic_skeleton

from ..config import ShapeConfig
from ..graph import open_session
from ..source import Source
from .layouts import Layout, recognize
from .onnx_file import OnnxFile, read_onnx_file, with_dynamic_batch
from .wrap import wrap


def source_from_onnx(
    path: Path, layout_name: str | None, skeleton: Skeleton | None, say: Callable[[str], None]
) -> Source:
    """The network in ``path``; its batch becomes dynamic where the graph allows.

    layout_name, skeleton   given by the user; None: as the file says

    Raises CheckpointError and UnknownCheckpoint, as ``read_onnx_file`` and ``recognize`` do, and UsageError for a
    skeleton with another number of keypoints.
    """
    source = read_onnx_file(path)
    layout = recognize(source, layout_name)
    say(f"{source.describe()}: {layout.name} layout, recognized by {layout.why}")
    height, width = source.shape_hw
    if (height is None) != (width is None):
        raise UnknownCheckpoint(f"{path} fixes one side of its images and leaves the other dynamic: export it again")
    batch, wrapped = source.batch, source
    if batch is not None and not layout.nms_free and (model := with_dynamic_batch(source)) is not None:
        say(f"its batch of {batch} becomes dynamic: the graph gives the same for several images")
        batch, wrapped = None, replace(source, model=model)

    known_skeleton = _skeleton(path, layout, skeleton)

    def build(nms: NmsInfo, shape: ShapeConfig, pose: PoseInfo) -> onnx.ModelProto:
        return wrap(wrapped, layout, known_skeleton, nms, shape, pose)

    return Source(
        format=f"ONNX, {layout.name} layout",
        model=ModelInfo(name=_name(source), family=layout.name, classes=_classes(source, layout)),
        skeleton=known_skeleton,
        input=layout.input,
        weights_sha256=source.sha256,
        weights_license=_string(source.metadata.get("license")),
        build=build,
        reference=partial(OnnxFileReference, source, layout, known_skeleton.sigmas),
        suppression=layout.suppression,
        shape=ShapeConfig(None if height is None or width is None else (height, width), batch),
        third_party=True,
    )


def _skeleton(path: Path, layout: Layout, given: Skeleton | None) -> Skeleton:
    if given is not None:
        if given.num_keypoints != layout.num_keypoints:
            raise UsageError(
                f"skeleton {given.name!r} has {given.num_keypoints} keypoints, {path} has {layout.num_keypoints}"
            )
        return given
    known = (skeleton for skeleton in (COCO_17, LSP_14) if skeleton.num_keypoints == layout.num_keypoints)
    return next(known, None) or generic_skeleton(layout.num_keypoints)


def _classes(source: OnnxFile, layout: Layout) -> tuple[str, ...]:
    names = source.metadata.get("names")
    if isinstance(names, dict) and all(isinstance(name, str) for name in names.values()):
        found = tuple(str(names[key]) for key in sorted(names))
        if len(found) == layout.num_classes or layout.label is not None:
            return found or ("person",)
    if layout.num_classes == 1:
        return ("person",)
    return tuple(f"class_{i}" for i in range(layout.num_classes))


def _name(source: OnnxFile) -> str:
    return (_string(source.metadata.get("description")) or source.path.stem).strip()[:80]


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


class OnnxFileReference(ReferenceEstimator):
    """Runs the file as it came in ONNX Runtime, decodes its outputs in numpy, then plain greedy NMS.

    Shares nothing with the wrapped graph but the network itself and the letterbox.
    """

    def __init__(
        self,
        source: OnnxFile,
        layout: Layout,
        sigmas: Sequence[float],
        nms: NmsInfo,
        shape_hw: tuple[int, int],
        pose: PoseInfo,
    ) -> None:
        self.layout, self.shape_hw = layout, shape_hw
        self.pose, self.sigmas = pose, tuple(sigmas)
        self.score_threshold, self.max_people, self.max_candidates = nms.score_threshold, nms.max_people, nms.candidates
        self.iou_threshold = NO_SUPPRESSION if layout.nms_free else nms.iou_threshold
        self._rows, self._input = source.batch or 1, source.input
        self._session = open_session(source.model)

    def predict(self, image: np.ndarray, color: str = "bgr") -> tuple[Predictions, Placement]:
        spec = self.layout.input
        frame, placement = letterbox(
            as_bgr_image(image, color), self.shape_hw, pad_value=spec.pad_value, pad_side=spec.pad_side
        )
        pixels = frame[..., ::-1] if spec.channel_order == "rgb" else frame
        one = pixels.transpose(2, 0, 1).astype(np.float32) * np.float32(spec.scale)
        outputs = self._session.run(list(self.layout.outputs), {self._input: np.repeat(one[None], self._rows, axis=0)})
        return self._predictions([output if output.ndim == 2 else output[0] for output in outputs]), placement

    def _predictions(self, outputs: list[np.ndarray]) -> Predictions:
        """outputs: of one image, each (N, F) or (F, N); keypoints may be (N, K, 3)."""
        layout = self.layout
        if layout.features_axis == 1:
            outputs = [output.T for output in outputs]
        flat = [output.reshape(len(output), int(np.prod(output.shape[1:]))) for output in outputs]  # N may be 0
        rows = np.concatenate(flat, axis=1)
        boxes = rows[:, :4]
        if layout.box == "xywh":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)
        scores = rows[:, layout.scores : layout.scores + layout.num_classes]
        if layout.objectness is not None:
            scores = scores * rows[:, layout.objectness, None]
        if layout.label is not None:  # one column of scores per class, so that the class is the column of the largest
            classes = rows[:, layout.label].astype(np.int64)
            spread = np.zeros((len(rows), int(classes.max(initial=0)) + 1), np.float32)
            spread[np.arange(len(rows)), classes] = scores[:, 0]
            scores = spread
        numbers = layout.keypoint_numbers
        points = rows[:, layout.keypoints : layout.keypoints + numbers * layout.num_keypoints]
        points = points.reshape(len(rows), layout.num_keypoints, numbers)
        visibility = points[..., 2] if numbers == 3 else np.ones(points.shape[:2])
        return Predictions(
            *(
                torch.from_numpy(np.ascontiguousarray(part, np.float32))[None]
                for part in (boxes, scores, points[..., :2], visibility)
            )
        )
