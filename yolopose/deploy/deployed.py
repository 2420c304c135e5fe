"""The deployed form of a network: letterboxed uint8 images in, people out. Export traces it to ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from yolopose.runtime.contract import NmsInfo, PoseInfo

from ..model.heads import as_rows
from ..model.pose_net import PoseNet, fuse_conv_bn
from .consensus import Consensus
from .nms import Candidates, Survivors, keep_best, select_candidates, suppress, take


class People(NamedTuple):
    """The outputs of every artifact; M rows per image, rows past ``num_people`` are zero."""

    num_people: Tensor  # (B,) int32
    boxes: Tensor  # (B, M, 4) float32 xyxy in letterboxed pixels
    scores: Tensor  # (B, M) float32, descending
    labels: Tensor  # (B, M) int32
    keypoints: Tensor  # (B, M, K, 3) float32 x, y in letterboxed pixels, score in 0..1
    num_candidates: Tensor  # (B,) int32
    flags: Tensor  # (B,) int32 bits: 1 candidates cut at C, 2 people cut at M, 4 NMS rounds not converged


class FindPeople(nn.Module):
    """From candidates to the outputs of the artifact: NMS, then the keypoints of the survivors.

    nms_free: the network gives each person once. sigmas: of the K keypoints (``Skeleton.sigmas``).
    """

    def __init__(self, nms: NmsInfo, pose: PoseInfo, sigmas: Sequence[float], nms_free: bool) -> None:
        super().__init__()
        if nms_free and pose.keypoints == "consensus":
            raise ValueError("consensus keypoints need candidates: this network gives each person once")
        self.nms, self.pose, self.nms_free = nms, pose, nms_free
        self.consensus = Consensus(pose, sigmas, nms.class_aware) if pose.keypoints == "consensus" else None

    def select(self, scores: Tensor, score_threshold: Tensor) -> Candidates:
        """``select_candidates`` for scores (B, N) float32."""
        return select_candidates(scores, score_threshold, self.nms.candidates, supporters=self.consensus is not None)

    def forward(
        self,
        candidates: Candidates,
        boxes: Tensor,
        labels: Tensor,
        decode: Callable[[Tensor], tuple[Tensor, Tensor]],
        iou_threshold: Tensor,
    ) -> tuple[Tensor, ...]:
        """``People``, then pose scores (B, M) and spread (B, M, K) where ``pose`` asks for them.

        boxes (B, 4, C) and labels (B, C) int64 of the candidates; decode: anchors (B, n) int64 -> xy (B, K, 2, n) px,
        keypoint scores (B, K, n).
        """
        if self.nms_free:
            people = keep_best(candidates, iou_threshold, self.nms)
        else:
            people = suppress(candidates, boxes, labels if self.nms.class_aware else None, iou_threshold, self.nms)
        if self.consensus is None:
            xy, visibility = decode(torch.gather(candidates.anchors, 1, people.rows))
            keypoints = torch.cat((xy, visibility[:, :, None]), dim=2).permute(0, 3, 1, 2)  # (B, M, K, 3)
            return people_of(candidates, people, boxes, labels, keypoints, self.nms)
        keypoints, pose_scores, spread = self.consensus(candidates, people, boxes, labels, decode)
        found = people_of(candidates, people, boxes, labels, keypoints, self.nms)
        zero = torch.zeros((), dtype=torch.float32, device=boxes.device)
        pose_scores = torch.where(people.valid, pose_scores, zero)
        if not self.pose.spread:
            return *found, pose_scores
        return *found, pose_scores, torch.where(people.valid[:, :, None], spread, zero)


def people_of(
    candidates: Candidates, people: Survivors, boxes: Tensor, labels: Tensor, keypoints: Tensor, nms: NmsInfo
) -> People:
    """Assemble the outputs.

    boxes (B, 4, C) and labels (B, C) int64 of the candidates; keypoints (B, M, K, 3) of the survivors.
    """
    alive = people.valid
    zero = torch.zeros((), dtype=torch.float32, device=boxes.device)
    return People(
        num_people=people.total.to(torch.int32),
        boxes=torch.where(alive[:, :, None], take(boxes, people.rows).permute(0, 2, 1), zero),
        scores=people.scores,
        labels=torch.where(alive, torch.gather(labels, 1, people.rows), 0).to(torch.int32),
        keypoints=torch.where(alive[:, :, None, None], keypoints, zero),
        num_candidates=candidates.total.to(torch.int32),
        flags=(candidates.total > nms.candidates).to(torch.int32)
        + people.people_cut.to(torch.int32) * 2
        + (~people.converged).to(torch.int32) * 4,
    )


def _reverse_input_channels(net: PoseNet) -> None:
    """Make an RGB network take BGR: reorder the weights of its first convolution, at no cost at run time.

    The input of a space-to-depth stem is several blocks of three channels; each block is reversed.
    """
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    out, channels, height, width = first.weight.shape
    blocks = first.weight.detach().reshape(out, channels // 3, 3, height, width).flip(2)
    first.weight = nn.Parameter(blocks.reshape(out, channels, height, width), requires_grad=False)


class DeployedNet(nn.Module):
    """``net`` with folded batch norm, normalization before it and NMS after it (none for a one-to-one head).

    It takes BGR, whatever the channel order of ``net``. Only boxes of the C candidates and keypoints of the M
    survivors and their supporters are decoded.
    """

    def __init__(self, net: PoseNet, nms: NmsInfo, pose: PoseInfo | None = None) -> None:
        super().__init__()
        self.net = fuse_conv_bn(net)
        self.find_people = FindPeople(nms, pose or PoseInfo(), net.skeleton.sigmas, net.one_to_one)
        if net.input.channel_order == "rgb":
            _reverse_input_channels(self.net)

    def forward(self, images: Tensor, score_threshold: Tensor, iou_threshold: Tensor) -> tuple[Tensor, ...]:
        """images: (B, H, W, 3) uint8 BGR, letterboxed; score_threshold, iou_threshold: (B, 1) float32."""
        pixels = images.float().permute(0, 3, 1, 2)
        if self.net.input.scale != 1.0:
            pixels = pixels * self.net.input.scale
        head = self.net.head
        raw = head(self.net.features(pixels))
        class_scores = head.scores(raw.objectness, raw.classes)  # (B, classes, N)
        best, anchor_labels = class_scores[:, 0], None
        if class_scores.shape[1] > 1:
            best, anchor_labels = class_scores.max(dim=1)
        candidates = self.find_people.select(best, score_threshold)
        priors = raw.priors.expand(images.shape[0], -1, -1)
        boxes = head.decode_boxes(take(raw.boxes, candidates.anchors), take(priors, candidates.anchors))
        labels = torch.zeros_like(candidates.anchors)
        if anchor_labels is not None:
            labels = torch.gather(anchor_labels, 1, candidates.anchors)

        def decode(anchors: Tensor) -> tuple[Tensor, Tensor]:
            return head.decode_keypoints(take(raw.keypoints, anchors), take(priors, anchors))

        return self.find_people(candidates, boxes, labels, decode, iou_threshold)


class BareNet(nn.Module):
    """The network alone with folded batch norm: float32 NCHW in, undecoded head rows out; no normalization, no NMS.

    The second baseline of the benchmark: the time of the network itself.
    """

    def __init__(self, net: PoseNet) -> None:
        super().__init__()
        self.net = fuse_conv_bn(net)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, 3, H, W) float32 -> (B, F, N), F = 5 + classes + 3K where boxes are 4 numbers."""
        raw = self.net.head(self.net.features(images))
        return as_rows(raw)
