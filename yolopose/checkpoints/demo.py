"""The demo network, until trained weights ship: YOLOX-Pose-nano of a fixed seed, made so that people come out.

It has learnt nothing. Batch norm statistics come from synthetic scenes, and objectness is shifted and stretched until a
few anchors a picture pass the usual threshold: boxes, NMS, keypoints, parity and time are real; where the people are is
not.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import nn

from yolopose.runtime.letterbox import letterbox

from ..data.synthetic import SyntheticScenes
from ..model.heads.anchor_free import AnchorFreeHead
from ..model.pose_net import PoseNet
from ..model.sizes import build

SEED = 20220415
SIZE = 416
SCENES = 8
SPREAD = 0.5  # standard deviation that the objectness logits are stretched to
CALM = 0.2  # random boxes, keypoints and their scores are scaled by this, to lie about their anchors
LOG_SIZE = 2.0  # boxes of about e^2 strides: 59, 118 or 236 px
CLASS_LOGIT = 4.0  # a class score of 0.98
PEOPLE = 6  # anchors an image that pass score 0.25, about


def demo_net() -> PoseNet:
    """The same network on every call, in evaluation mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        net = build("yolox-pose-nano")
        images = _images(net)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain mean over the pictures
        net.train()
        net(images)
        net.eval()
        _spread_objectness(net, images)
        _calm(net)
    net.source_format = "demo"
    net.weights_sha256 = _sha256(net)
    return net


def _sha256(net: PoseNet) -> str:
    """Of the weights themselves: they come from no file."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _images(net: PoseNet) -> torch.Tensor:
    scenes = SyntheticScenes(SCENES, size_wh=(SIZE, SIZE), seed=SEED)
    pictures = [letterbox(scenes[i].image, (SIZE, SIZE), pad_value=net.input.pad_value)[0] for i in range(SCENES)]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def _spread_objectness(net: PoseNet, images: torch.Tensor) -> None:
    """Class logits to about ``CLASS_LOGIT``, objectness so that ``PEOPLE`` anchors an image exceed a score of 0.25."""
    head = net.head
    assert isinstance(head, AnchorFreeHead)
    for prediction in _convolutions(head.class_predictions):
        nn.init.constant_(_bias(prediction), CLASS_LOGIT)
    logits = head(net.features(images)).objectness[:, 0]
    mean, factor = float(logits.mean()), SPREAD / float(logits.std())
    rank = PEOPLE * len(images)
    border = float(((logits - mean) * factor).flatten().topk(rank).values[-1])
    share = 0.25 * (1 + math.exp(-CLASS_LOGIT))  # objectness that makes the score 0.25
    wanted = math.log(share / (1 - share))
    for prediction in _convolutions(head.objectness_predictions):
        prediction.weight.mul_(factor)
        _bias(prediction).sub_(mean).mul_(factor).add_(wanted - border)


def _calm(net: PoseNet) -> None:
    """Sizes are exponentials of random numbers otherwise, and rounding errors grow with them."""
    head = net.head
    assert isinstance(head, AnchorFreeHead)
    for predictions in (head.box_predictions, head.keypoint_predictions, head.visibility_predictions):
        for prediction in _convolutions(predictions):
            prediction.weight.mul_(CALM)
    for prediction in _convolutions(head.box_predictions):
        _bias(prediction)[2:] = LOG_SIZE


def _convolutions(modules: nn.ModuleList) -> list[nn.Conv2d]:
    return [module for module in modules if isinstance(module, nn.Conv2d)]


def _bias(convolution: nn.Conv2d) -> torch.Tensor:
    assert convolution.bias is not None
    return convolution.bias
