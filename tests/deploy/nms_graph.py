"""The NMS of the deployed graph alone, as torch module and as ONNX graph, for tests with given boxes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from yolopose.deploy.nms import select_candidates, suppress
from yolopose.runtime.contract import NmsInfo


class NmsGraph(nn.Module):
    def __init__(self, config: NmsInfo) -> None:
        super().__init__()
        self.config = config

    def forward(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, score_threshold: Tensor, iou_threshold: Tensor
    ) -> tuple[Tensor, ...]:
        """boxes (B, 4, N), scores (B, N), labels (B, N), thresholds (B, 1) -> anchors, valid, total, cut, converged."""
        candidates = select_candidates(scores, score_threshold, self.config.candidates)
        chosen = torch.gather(boxes, 2, candidates.anchors[:, None].expand(-1, 4, -1))
        chosen_labels = torch.gather(labels, 1, candidates.anchors)
        people = suppress(candidates, chosen, chosen_labels, iou_threshold, self.config)
        anchors = torch.gather(candidates.anchors, 1, people.rows)
        return anchors, people.valid, candidates.total, people.people_cut, people.converged


@dataclass(frozen=True)
class Outcome:
    """NMS of one image: kept anchors by descending score, number of candidates, flags as in the contract."""

    anchors: list[int]
    count: int
    flags: int


@cache
def session(config: NmsInfo) -> onnxruntime.InferenceSession:
    inputs = (
        torch.rand(2, 4, 7),
        torch.rand(2, 7),
        torch.zeros(2, 7, dtype=torch.int64),
        torch.full((2, 1), 0.25),
        torch.full((2, 1), 0.65),
    )
    batch, anchors = Dim("batch", min=1), Dim("anchors", min=2)
    axes = ({0: batch, 2: anchors}, {0: batch, 1: anchors}, {0: batch, 1: anchors}, {0: batch}, {0: batch})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            NmsGraph(config), inputs, dynamo=True, dynamic_shapes=axes, opset_version=18, verbose=False
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run(config: NmsInfo, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray | None = None) -> list[Outcome]:
    """Run the ONNX graph at the thresholds of ``config``. boxes (B, N, 4) xyxy, scores (B, N), labels (B, N)."""
    if labels is None:
        labels = np.zeros(scores.shape, np.int64)
    graph = session(config)
    batch = len(boxes)
    feeds = (
        np.ascontiguousarray(boxes.transpose(0, 2, 1), dtype=np.float32),
        scores.astype(np.float32),
        labels.astype(np.int64),
        np.full((batch, 1), config.score_threshold, np.float32),
        np.full((batch, 1), config.iou_threshold, np.float32),
    )
    outputs = graph.run(None, {i.name: feed for i, feed in zip(graph.get_inputs(), feeds, strict=True)})
    outcomes = []
    for anchors, valid, count, cut, converged in zip(*outputs, strict=True):
        flags = (int(count) > config.candidates) + 2 * bool(cut) + 4 * (not converged)
        outcomes.append(Outcome(anchors[valid].tolist(), int(count), flags))
    return outcomes
