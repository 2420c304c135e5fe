"""What is put behind a foreign network, in PyTorch: its rows to the outputs of an artifact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolopose.deploy.deployed import People, people_of, take
from yolopose.deploy.nms import keep_best, select_candidates, suppress
from yolopose.runtime.contract import NmsInfo

from .layout import Layout


class Tail(nn.Module):
    """The outputs that ``layout`` names, then the thresholds, to ``People``. NMS where the network has none.

    Boxes are turned into corners for the C candidates and keypoints gathered for the M survivors only.
    """

    def __init__(self, layout: Layout, nms: NmsInfo) -> None:
        super().__init__()
        self.layout, self.nms = layout, nms

    def forward(self, *inputs: Tensor) -> People:
        *outputs, score_threshold, iou_threshold = inputs
        layout = self.layout
        all_boxes, between, points = self._parts(outputs)
        first = layout.scores - 4
        scores = between[:, first : first + layout.num_classes]  # (B, classes, N)
        if layout.objectness is not None:
            scores = scores * between[:, layout.objectness - 4, None]
        best, labels_of_all = scores[:, 0], None
        if layout.num_classes > 1:
            best, labels_of_all = scores.max(dim=1)
        elif layout.label is not None:
            labels_of_all = between[:, layout.label - 4].to(torch.int64)
        candidates = select_candidates(best, score_threshold, self.nms.candidates)
        boxes = self._corners(take(all_boxes, candidates.anchors))
        labels = torch.zeros_like(candidates.anchors)
        if labels_of_all is not None:
            labels = torch.gather(labels_of_all, 1, candidates.anchors)
        if layout.finished:
            people = keep_best(candidates, iou_threshold, self.nms)
        else:
            people = suppress(candidates, boxes, labels if self.nms.class_aware else None, iou_threshold, self.nms)
        anchors = torch.gather(candidates.anchors, 1, people.rows)  # (B, M)
        keypoints = take(points, anchors).unflatten(1, (layout.num_keypoints, 3)).permute(0, 3, 1, 2)  # (B, M, K, 3)
        return people_of(candidates, people, boxes, labels, keypoints, self.nms)

    def _parts(self, outputs: list[Tensor]) -> tuple[Tensor, ...]:
        """Boxes (B, 4, N), what stands between, keypoints (B, 3K, N).

        Split, not sliced: a slice before a gather is optimised away, and OpenVINO wants data and indices of one size.
        A list of people may be empty, and nothing is gathered from nothing: it gets a row of zeros.
        """
        rows = [nn.functional.pad(output, (0, 0, 0, 1))[None] if output.dim() == 2 else output for output in outputs]
        rows = [output.flatten(2) if output.dim() == 4 else output for output in rows]
        whole = torch.cat(rows, dim=self.layout.features_axis) if len(rows) > 1 else rows[0]
        features = whole if self.layout.features_axis == 1 else whole.transpose(1, 2)
        sizes = [4, self.layout.keypoints - 4, 3 * self.layout.num_keypoints]
        if (rest := features.shape[1] - sum(sizes)) > 0:
            sizes.append(rest)
        return torch.split(features, sizes, dim=1)[:3]

    def _corners(self, boxes: Tensor) -> Tensor:
        """(B, 4, C) xyxy."""
        if self.layout.box == "xyxy":
            return boxes
        centre, half = boxes[:, :2], boxes[:, 2:] / 2
        return torch.cat((centre - half, centre + half), dim=1)
