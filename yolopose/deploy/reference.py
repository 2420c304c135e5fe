"""The PyTorch reference, with which an artifact is compared: the network as loaded, full decode, greedy NMS.

It shares only the network and the letterbox with the deployed graph: batch norm is not folded, all anchors are decoded,
and NMS has no fixed number of rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from yolopose.runtime.contract import PoseInfo
from yolopose.runtime.images import as_bgr_image
from yolopose.runtime.letterbox import Placement, letterbox
from yolopose.runtime.result import PoseResult, pose_scores_of

from ..model.pose_net import PoseNet, Predictions
from .consensus import Poses, consensus_of

NO_SUPPRESSION = 1.0  # as an IoU threshold


def greedy_nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Indices (m,) that greedy NMS keeps, by descending score; of equal scores the lower index comes first.

    boxes: (n, 4) float32 xyxy; scores: (n,); labels: (n,) integer; boxes with different labels do not suppress each
    other.
    """
    order = np.argsort(-scores, kind="stable")
    if iou_threshold >= 1:  # no IoU exceeds it
        return order
    boxes, labels = boxes[order], labels[order]
    extent = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    area = extent[:, 0] * extent[:, 1]
    alive = np.ones(len(order), dtype=bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        rest = slice(i + 1, None)
        overlap = np.minimum(boxes[i, 2:], boxes[rest, 2:]) - np.maximum(boxes[i, :2], boxes[rest, :2])
        intersection = np.prod(np.maximum(overlap, 0), axis=1)
        union = area[i] + area[rest] - intersection
        alive[rest] &= ~((intersection > np.float32(iou_threshold) * union) & (labels[rest] == labels[i]))
    return order[alive]


def default_pose(net: PoseNet) -> PoseInfo:
    """Where the keypoints of ``net`` come from by default: consensus, if several candidates find the same person.

    Measured for each kind of head: docs/experiments.md, "Consensus keypoints".
    """
    return PoseInfo("best" if net.one_to_one else "consensus")


class ReferenceEstimator:
    """Maps images to people with PyTorch; called like ``PoseEstimator``. No NMS for a one-to-one head.

    score_threshold, iou_threshold: 0..1. shape_hw: letterboxed size in pixels; None: the square size of the network.
    max_candidates: anchors that enter NMS or support people, best first; None: all. pose: source of the keypoints;
    None: ``default_pose``. The network runs on its own device, NMS on the CPU.
    """

    def __init__(
        self,
        net: PoseNet,
        score_threshold: float = 0.25,
        iou_threshold: float = 0.65,
        max_people: int = 100,
        shape_hw: tuple[int, int] | None = None,
        max_candidates: int | None = None,
        pose: PoseInfo | None = None,
    ) -> None:
        self.net = net.eval()
        self.sigmas = net.skeleton.sigmas
        self.pose = pose or default_pose(net)
        self.score_threshold = score_threshold
        self.iou_threshold = NO_SUPPRESSION if net.one_to_one else iou_threshold
        self.max_people = max_people
        self.max_candidates = max_candidates
        self.shape_hw = shape_hw or (net.input.size, net.input.size)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray], color: str = "bgr") -> PoseResult | list[PoseResult]:
        """images: one (H, W, 3) uint8 image or a list of images -> people in pixels of each image."""
        if isinstance(images, np.ndarray):
            return self.one(images, color)
        return [self.one(image, color) for image in images]

    def tensor(self, letterboxed: np.ndarray) -> torch.Tensor:
        """(h, w, 3) uint8 BGR -> (1, 3, h, w) float32 in the channel order and value range of the network."""
        device = next(self.net.parameters()).device
        pixels = torch.from_numpy(letterboxed).to(device).permute(2, 0, 1)[None].float()
        if self.net.input.channel_order == "rgb":
            pixels = pixels.flip(1)
        return pixels * self.net.input.scale

    @torch.inference_mode()
    def predict(self, image: np.ndarray, color: str = "bgr") -> tuple[Predictions, Placement]:
        """Predictions of all anchors for one image (batch of 1) in letterboxed pixels, and where the image lies."""
        spec = self.net.input
        letterboxed, placement = letterbox(
            as_bgr_image(image, color), self.shape_hw, pad_value=spec.pad_value, pad_side=spec.pad_side
        )
        return self.net(self.tensor(letterboxed)), placement

    def one(self, image: np.ndarray, color: str = "bgr") -> PoseResult:
        """People of one image."""
        return self.people(*self.predict(image, color))

    def people(self, predictions: Predictions, placement: Placement, pose: PoseInfo | None = None) -> PoseResult:
        """Greedy NMS of the predictions of one image at the current thresholds; people in pixels of the image.

        pose: source of the keypoints; None: that of the estimator.
        """
        pose = pose or self.pose
        classes = predictions.scores[0].cpu().numpy()
        best = classes.max(axis=1)
        order = np.argsort(-best, kind="stable")[: self.max_candidates]
        order = order[best[order] > 0]  # not NaN
        boxes, classes, keypoints, keypoint_scores = (part[0].cpu().numpy()[order] for part in predictions)
        scores, labels = best[order], classes.argmax(axis=1)
        above = int((scores > np.float32(self.score_threshold)).sum())
        kept = greedy_nms(boxes[:above], scores[:above], labels[:above], self.iou_threshold)[: self.max_people]
        spread = None
        if pose.keypoints == "consensus":
            found = consensus_of(kept, boxes, scores, labels, keypoints, keypoint_scores, pose, self.sigmas)
            spread = placement.lengths_to_image(found.spread) if pose.spread else None
        else:
            pose_scores = pose_scores_of(scores[kept], keypoint_scores[kept])
            found = Poses(keypoints[kept], keypoint_scores[kept], pose_scores, np.zeros_like(keypoint_scores[kept]))
        return PoseResult(
            boxes=placement.boxes_to_image(boxes[kept]),
            scores=scores[kept],
            labels=labels[kept].astype(np.int32),
            keypoints=placement.to_image(found.keypoints),
            keypoint_scores=found.keypoint_scores,
            pose_scores=found.pose_scores,
            keypoint_spread=spread,
            num_candidates=int((best > np.float32(self.score_threshold)).sum()),
        )

    def threshold_for(self, candidates: int, images: Sequence[np.ndarray]) -> float:
        """The score threshold with about ``candidates`` candidates per image (median over ``images``)."""
        best = [self.predict(image)[0].scores.amax(dim=2)[0] for image in images]
        ranked = [float(scores.topk(min(candidates + 1, len(scores))).values[-1]) for scores in best if len(scores)]
        return float(np.median(ranked)) if ranked else self.score_threshold
