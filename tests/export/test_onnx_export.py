"""The graph itself: its interface as the contract has it, and its results against PyTorch for any batch and size."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import yolopose
from tests.test_structure import ROOT
from yolopose.deploy.deployed import INPUT_NAMES, OUTPUT_NAMES, DeployedNet
from yolopose.deploy.reference import greedy_nms
from yolopose.export.onnx_export import ShapeConfig, bare_onnx_from_net, onnx_from_net
from yolopose.model.net_config import NetConfig
from yolopose.model.pose_net import PoseNet
from yolopose.runtime.contract import NmsInfo
from yolopose.runtime.skeleton import Skeleton

NMS = NmsInfo(candidates=60, rounds=8, max_people=20, score_threshold=0.3)
TRIANGLE = Skeleton("triangle", ("left", "right", "top"), ((0, 1),), ((0, 2), (1, 2)), (0.05, 0.05, 0.1))


@torch.no_grad()
def lively(net: PoseNet) -> PoseNet:
    """Random weights that give people: batch norm at work, scores spread over 0..1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics become those of the pictures: no signal dies on its way
    images = torch.rand(2, 3, 128, 192) * (255 if net.input.scale == 1 else 1)
    net.train()
    net(images)
    net.eval()
    if hasattr(net.head, "box_predictions"):
        for prediction in (*net.head.box_predictions, *net.head.keypoint_predictions):
            prediction.weight.mul_(0.1)  # sizes are exponentials: stay in the picture
    raw = net.head(net.features(images))
    head = net.head
    scores = head.scores
    centre, width = float(raw.objectness.mean()), float(raw.objectness.std())
    class_centre, class_width = float(raw.classes.mean()), float(raw.classes.std()) + 1e-6

    def spread_scores(objectness: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return scores((objectness - centre) / width * 1.5 - 1.0, (classes - class_centre) / class_width + 2.0)

    head.scores = spread_scores  # type: ignore[method-assign]
    return net


@pytest.fixture(scope="module")
def several_classes() -> tuple[PoseNet, onnx.ModelProto]:
    """YOLOX-Pose, three classes, three keypoints, everything dynamic."""
    torch.manual_seed(3)
    config = yolopose.SIZES["yolox-pose-nano"]
    net = lively(yolopose.build(_narrow(config), TRIANGLE, ("adult", "child", "doll")))
    return net, onnx_from_net(net, replace(NMS, class_aware=True))


def _narrow(config: NetConfig) -> NetConfig:
    return replace(config, width=0.125, depth=0.33)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def feeds(images: np.ndarray, nms: NmsInfo = NMS) -> dict[str, np.ndarray]:
    ones = np.ones((len(images), 1), np.float32)
    return {"images": images, "score_threshold": ones * nms.score_threshold, "iou_threshold": ones * nms.iou_threshold}


def test_interface_is_that_of_the_contract(several_classes: tuple[PoseNet, onnx.ModelProto]) -> None:
    _, model = several_classes
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert dims == {
        "images": ["batch", "height", "width", 3],
        "score_threshold": ["batch", 1],
        "iou_threshold": ["batch", 1],
        "num_people": ["batch"],
        "boxes": ["batch", 20, 4],
        "scores": ["batch", 20],
        "labels": ["batch", 20],
        "keypoints": ["batch", 20, 3, 3],
        "num_candidates": ["batch"],
        "flags": ["batch"],
    }
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    integers = {"num_people", "labels", "num_candidates", "flags"}
    expected = {name: onnx.TensorProto.INT32 if name in integers else onnx.TensorProto.FLOAT for name in types}
    assert types == {**expected, "images": onnx.TensorProto.UINT8}
    assert (*[v.name for v in model.graph.input], *[v.name for v in model.graph.output]) == (
        *INPUT_NAMES,
        *OUTPUT_NAMES,
    )


def test_graph_is_standard_small_and_says_nothing_of_this_machine(
    several_classes: tuple[PoseNet, onnx.ModelProto],
) -> None:
    _, model = several_classes
    assert [opset.domain for opset in model.opset_import] == [""]
    assert model.opset_import[0].version <= 18
    assert model.graph.node[0].op_type == "Cast"
    readers = [node.op_type for node in model.graph.node if "images" in node.input]
    assert readers == ["Cast"]
    following = [node.op_type for node in model.graph.node if model.graph.node[0].output[0] in node.input]
    assert set(following) <= {"Transpose", "Shape"}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert max(tensor.ByteSize() for tensor in model.graph.initializer) < 400_000  # no folded C x C matrices
    content = model.SerializeToString()
    assert str(ROOT).encode() not in content
    assert not re.search(rb"site-packages|\.py\b|/home/|/root/|/tmp/", content)


@pytest.mark.parametrize("shape_hw", [(32, 32), (64, 320), (160, 96)])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_pytorch_for_any_batch_and_size(
    several_classes: tuple[PoseNet, onnx.ModelProto], shape_hw: tuple[int, int], batch: int
) -> None:
    """Against ``net(images)`` and greedy NMS of each image; 32 x 32 has fewer anchors (21) than candidates (60)."""
    net, model = several_classes
    images = np.random.default_rng(batch).integers(0, 256, (batch, *shape_hw, 3), dtype=np.uint8)
    outputs = dict(zip(OUTPUT_NAMES, session_of(model).run(None, feeds(images)), strict=True))
    with torch.inference_mode():
        predictions = net(torch.from_numpy(images).permute(0, 3, 1, 2).float() * net.input.scale)
    found = 0
    for i in range(batch):
        boxes, class_scores, keypoints, keypoint_scores = (part[i].numpy() for part in predictions)
        scores, labels = class_scores.max(axis=1), class_scores.argmax(axis=1)
        best = np.flatnonzero(scores > np.float32(NMS.score_threshold))
        assert outputs["num_candidates"][i] == len(best)
        assert bool(outputs["flags"][i] & 1) == (len(best) > NMS.candidates)
        best = best[np.argsort(-scores[best], kind="stable")][: NMS.candidates]
        kept = best[greedy_nms(boxes[best], scores[best], labels[best], NMS.iou_threshold)]
        assert bool(outputs["flags"][i] & 2) == (len(kept) > NMS.max_people)
        kept = kept[: NMS.max_people]
        count = outputs["num_people"][i]
        assert count == len(kept)
        np.testing.assert_allclose(
            outputs["scores"][i, :count], scores[kept], atol=1e-3
        )  # random networks amplify rounding
        # scores near 1 are equal up to rounding, and then their order is anybody's: compare from left to right
        ours, kept = np.argsort(outputs["boxes"][i, :count, 0]), kept[np.argsort(boxes[kept, 0])]
        np.testing.assert_allclose(outputs["boxes"][i, ours], boxes[kept], rtol=1e-5, atol=0.05)
        np.testing.assert_array_equal(outputs["labels"][i, ours], labels[kept])
        np.testing.assert_allclose(outputs["keypoints"][i, ours, :, :2], keypoints[kept], rtol=1e-5, atol=0.05)
        np.testing.assert_allclose(outputs["keypoints"][i, ours, :, 2], keypoint_scores[kept], atol=1e-3)
        for name in ("boxes", "scores", "labels", "keypoints"):
            assert not outputs[name][i, count:].any(), f"{name} past num_people is not zero"
        found += int(count)
    assert found > 0


def test_thresholds_are_inputs_per_image(several_classes: tuple[PoseNet, onnx.ModelProto]) -> None:
    _, model = several_classes
    images = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), dtype=np.uint8).repeat(3, axis=0)
    given = feeds(images)
    given["score_threshold"] = np.array([[0.3], [0.99], [np.nan]], np.float32)
    people = session_of(model).run(["num_people"], given)[0]
    assert people[0] > 0
    assert people[1] <= people[0]
    assert people[2] == 0  # nothing exceeds NaN


def test_fixed_shapes_give_the_same(several_classes: tuple[PoseNet, onnx.ModelProto]) -> None:
    net, dynamic = several_classes
    fixed = onnx_from_net(net, replace(NMS, class_aware=True), ShapeConfig((96, 160), 2))
    assert [dim.dim_value for dim in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 96, 160, 3]
    images = np.random.default_rng(4).integers(0, 256, (2, 96, 160, 3), dtype=np.uint8)
    for a, b in zip(
        session_of(fixed).run(None, feeds(images)), session_of(dynamic).run(None, feeds(images)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)


@pytest.mark.slow
def test_same_weights_same_bytes(several_classes: tuple[PoseNet, onnx.ModelProto]) -> None:
    net, model = several_classes
    again = onnx_from_net(net, replace(NMS, class_aware=True))
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_rgb_networks_take_bgr_after_deployment() -> None:
    """The first convolution's channels are turned, block by block where it sees several pixels at once."""
    torch.manual_seed(0)
    for name, width in (("yolov5s6-pose", 0.0625), ("yolov5s6-pose-ti-lite", 0.0625)):
        net = lively(yolopose.build(replace(yolopose.SIZES[name], width=width)))
        assert net.input.channel_order == "rgb"
        images = torch.randint(0, 256, (1, 128, 128, 3), dtype=torch.uint8)
        with torch.inference_mode():
            deployed = DeployedNet(net, NMS).eval()(images, torch.tensor([[0.3]]), torch.tensor([[0.65]]))
            rgb = images.flip(3).permute(0, 3, 1, 2).float() / 255
            scores = net(rgb).scores[0].amax(dim=1)
        assert deployed.num_candidates[0] == int((scores > 0.3).sum()) > 0
        assert torch.allclose(deployed.scores[0, 0], scores.max(), atol=1e-5)


def test_bare_network_is_the_head_without_anything_around(several_classes: tuple[PoseNet, onnx.ModelProto]) -> None:
    net, _ = several_classes
    session = onnxruntime.InferenceSession(bare_onnx_from_net(net, (64, 96)), providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, 64, 96) * 255
    (head,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        raw = net.head(net.features(images))
    expected = torch.cat((raw.boxes, raw.objectness, raw.classes, raw.keypoints), dim=1)
    np.testing.assert_allclose(head, expected, rtol=1e-4, atol=1e-3)
