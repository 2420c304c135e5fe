"""What an imported network is compared with: the file as it came, run by ONNX Runtime, then plain greedy NMS."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import torch

from yolopose.deploy.reference import NO_SUPPRESSION, ReferenceEstimator
from yolopose.model.pose_net import Predictions
from yolopose.runtime.contract import NmsInfo
from yolopose.runtime.letterbox import Placement, as_bgr_image, letterbox

from .layout import Layout
from .source import Source


class SourceReference(ReferenceEstimator):
    """Shares nothing with the grafted graph but the network itself and the letterbox."""

    def __init__(self, source: Source, layout: Layout, nms: NmsInfo, shape_hw: tuple[int, int]) -> None:
        self.layout, self.shape_hw = layout, shape_hw
        self.score_threshold, self.max_people, self.max_candidates = nms.score_threshold, nms.max_people, nms.candidates
        self.iou_threshold = NO_SUPPRESSION if layout.finished else nms.iou_threshold
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._rows = source.batch or 1
        self._input = source.input
        content = source.model.SerializeToString()
        self._session: Any = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

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
        """outputs: of one image, each (N, F) or (F, N), keypoints perhaps (N, K, 3)."""
        layout = self.layout
        if layout.features_axis == 1:
            outputs = [output.T for output in outputs]
        flat = [output.reshape(len(output), int(np.prod(output.shape[1:]))) for output in outputs]  # perhaps no row
        rows = np.concatenate(flat, axis=1)
        boxes = rows[:, :4]
        if layout.box == "xywh":
            half = boxes[:, 2:] / 2
            boxes = np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)
        scores = rows[:, layout.scores : layout.scores + layout.num_classes]
        if layout.objectness is not None:
            scores = scores * rows[:, layout.objectness, None]
        if layout.label is not None:  # one column of scores a class, so that the class is the largest
            classes = rows[:, layout.label].astype(np.int64)
            spread = np.zeros((len(rows), int(classes.max(initial=0)) + 1), np.float32)
            spread[np.arange(len(rows)), classes] = scores[:, 0]
            scores = spread
        points = rows[:, layout.keypoints : layout.keypoints + 3 * layout.num_keypoints]
        points = points.reshape(len(rows), layout.num_keypoints, 3)
        return Predictions(
            *(
                torch.from_numpy(np.ascontiguousarray(part, np.float32))[None]
                for part in (boxes, scores, points[..., :2], points[..., 2])
            )
        )
