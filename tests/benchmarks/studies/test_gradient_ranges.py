"""Gradients of ONNX graphs: the graph in PyTorch equals ONNX Runtime, and gradients say which errors matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from yolopose.benchmarks.studies.differentiable import DifferentiableGraph, NotDifferentiable
from yolopose.benchmarks.studies.gradient_ranges import NobodyFound, gradient_ranges, groups_of_tensors
from yolopose.data.synthetic import SyntheticScenes
from yolopose.export.graph import feed, open_session
from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import tensors_to_sample
from yolopose.export.int8.ranges import collect_samples
from yolopose.runtime import read_contract
from yolopose.runtime.letterbox import letterbox


def frames(artifact: Path, count: int) -> list[np.ndarray]:
    given = read_contract(artifact).input
    scenes = SyntheticScenes(count, seed=3)
    shape_hw = (given.height.opt, given.width.opt)
    return [
        letterbox(scenes[i].image, shape_hw, pad_value=given.pad_value, pad_side=given.pad_side)[0]
        for i in range(count)
    ]


def test_the_graph_in_pytorch_equals_onnx_runtime(trained_artifact: Path) -> None:
    model = onnx.load(trained_artifact)
    graph, session = DifferentiableGraph(model), open_session(model)
    for frame in frames(trained_artifact, 2):
        given = feed([frame], 1e-4)
        outputs, _ = graph.run(given)
        assert int(outputs["num_people"][0]) > 0
        for value, expected in zip(outputs.values(), session.run(None, given), strict=True):
            np.testing.assert_allclose(value.detach().numpy(), expected, atol=2e-3, rtol=1e-4)


def test_gradients_predict_a_small_change(trained_artifact: Path) -> None:
    model = onnx.load(trained_artifact)
    body = find_body(model)
    name = body.layers[3].input
    graph = DifferentiableGraph(model)
    (frame,) = frames(trained_artifact, 1)
    outputs, kept = graph.run(feed([frame], 1e-4), [name])
    keypoint = outputs["keypoints"][0, 0, 0, 0]
    (gradient,) = torch.autograd.grad(keypoint, kept[name])
    assert gradient.abs().max() > 0
    # One element of the tensor is shifted in the graph, so far that the keypoint should move by 0.02 px.
    position = np.unravel_index(int(gradient.abs().argmax()), gradient.shape)
    step = 0.02 / float(gradient[position])
    shift = np.zeros(gradient.shape, np.float32)
    shift[position] = step
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        node.input[:] = [f"{name} shifted" if given == name else given for given in node.input]
    changed.graph.initializer.append(onnx.numpy_helper.from_array(shift, "shift"))
    index = next(i for i, node in enumerate(changed.graph.node) if name in node.output)
    changed.graph.node.insert(index + 1, helper.make_node("Add", [name, "shift"], [f"{name} shifted"]))
    moved = DifferentiableGraph(changed).run(feed([frame], 1e-4))[0]["keypoints"][0, 0, 0, 0]
    assert float((moved - keypoint).detach()) == pytest.approx(0.02, rel=0.2)


def test_unknown_operators_are_named() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    node = helper.make_node("NonMaxSuppression", ["x", "x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("y", TensorProto.INT64, None)])
    with pytest.raises(NotDifferentiable, match="NonMaxSuppression"):
        DifferentiableGraph(helper.make_model(graph))


def test_ranges_need_people(trained_artifact: Path) -> None:
    model = onnx.load(trained_artifact)
    body = find_body(model)
    contract = read_contract(trained_artifact)
    gray = [np.full((contract.input.height.opt, contract.input.width.opt, 3), 114, np.uint8)]
    samples = collect_samples(model, tensors_to_sample(body, "openvino"), gray)
    with pytest.raises(NobodyFound):
        gradient_ranges(
            model, gray, groups_of_tensors(body, "openvino"), samples, contract.skeleton, False, lambda items, *_: items
        )
