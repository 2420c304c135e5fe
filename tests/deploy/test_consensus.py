"""Consensus keypoints: the graph in ONNX Runtime and OpenVINO against numpy, and what they promise."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

from tests.deploy.test_nms import scene
from yolopose.deploy.consensus import consensus_of
from yolopose.deploy.deployed import FindPeople
from yolopose.deploy.nms import take
from yolopose.deploy.reference import ReferenceEstimator, default_pose
from yolopose.export.graph import with_outputs
from yolopose.export.onnx_export import export_module
from yolopose.model.pose_net import Predictions
from yolopose.model.sizes import build
from yolopose.runtime.contract import NmsInfo, PoseInfo
from yolopose.runtime.letterbox import Placement
from yolopose.runtime.result import PoseResult

from ..model.tables import small_config

K = 3
SIGMAS = (0.03, 0.07, 0.1)
NMS = NmsInfo(candidates=60, rounds=60, max_people=20, class_aware=True, score_threshold=0.25, iou_threshold=0.5)
POSE = PoseInfo("consensus", support_iou=0.4, supporters=4, spread=True)
INPUTS = ("all_boxes", "all_scores", "all_labels", "points", "visible", "score_threshold", "iou_threshold")
Scene = tuple[np.ndarray, ...]  # boxes (N, 4), scores (N,), labels (N,), keypoints (N, K, 2), keypoint scores (N, K)


class Tail(nn.Module):
    """``FindPeople`` for predictions that are decoded already, channels first."""

    def __init__(self, nms: NmsInfo, pose: PoseInfo) -> None:
        super().__init__()
        self.find_people = FindPeople(nms, pose, SIGMAS, nms_free=False)

    def forward(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, points: Tensor, visible: Tensor, *thresholds: Tensor
    ) -> Any:
        score_threshold, iou_threshold = thresholds
        candidates = self.find_people.select(scores, score_threshold)

        def decode(anchors: Tensor) -> tuple[Tensor, Tensor]:
            return take(points.flatten(1, 2), anchors).unflatten(1, (K, 2)), take(visible, anchors)

        chosen = torch.gather(labels, 1, candidates.anchors)
        return self.find_people(candidates, take(boxes, candidates.anchors), chosen, decode, iou_threshold)


@cache
def graph(pose: PoseInfo) -> onnx.ModelProto:
    n, rows = 7, 2
    inputs = (
        torch.rand(rows, 4, n), torch.rand(rows, n), torch.zeros(rows, n, dtype=torch.int64), torch.rand(rows, K, 2, n),
        torch.rand(rows, K, n), torch.full((rows, 1), 0.25), torch.full((rows, 1), 0.65),
    )  # fmt: skip
    batch, anchors = Dim("batch", min=1), Dim("anchors", min=2)
    axes: Any = ({0: batch, 2: anchors}, {0: batch, 1: anchors}, {0: batch, 1: anchors}, {0: batch, 3: anchors},
                 {0: batch, 2: anchors}, ({0: batch}, {0: batch}))  # fmt: skip
    return export_module(Tail(NMS, pose), inputs, INPUTS, pose.outputs, axes)


@cache
def session(pose: PoseInfo) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph(pose).SerializeToString(), providers=["CPUExecutionProvider"])


def feeds(scenes: list[Scene], score_threshold: float = NMS.score_threshold) -> dict[str, np.ndarray]:
    boxes, scores, labels, points, visible = (np.stack(part) for part in zip(*scenes, strict=True))
    arrays = (
        boxes.transpose(0, 2, 1), scores, labels, points.transpose(0, 2, 3, 1), visible.transpose(0, 2, 1),
        np.full((len(scenes), 1), score_threshold, np.float32),
        np.full((len(scenes), 1), NMS.iou_threshold, np.float32),
    )  # fmt: skip
    return dict(zip(INPUTS, map(np.ascontiguousarray, arrays), strict=True))


def people_of(outputs: dict[str, np.ndarray], row: int) -> PoseResult:
    n = int(outputs["num_people"][row])
    keypoints = outputs["keypoints"][row, :n]
    return PoseResult(
        boxes=outputs["boxes"][row, :n], scores=outputs["scores"][row, :n], labels=outputs["labels"][row, :n],
        keypoints=keypoints[..., :2], keypoint_scores=keypoints[..., 2],
        pose_scores=outputs["pose_scores"][row, :n], keypoint_spread=outputs["keypoint_spread"][row, :n],
    )  # fmt: skip


def run(scenes: list[Scene], score_threshold: float = NMS.score_threshold) -> list[PoseResult]:
    found = session(POSE).run(None, feeds(scenes, score_threshold))
    outputs = dict(zip(POSE.outputs, found, strict=True))
    return [people_of(outputs, row) for row in range(len(scenes))]


class Reference(ReferenceEstimator):
    """The reference for given predictions, without a network."""

    def __init__(self) -> None:
        self.score_threshold, self.iou_threshold = NMS.score_threshold, NMS.iou_threshold
        self.max_people, self.max_candidates, self.pose, self.sigmas = NMS.max_people, NMS.candidates, POSE, SIGMAS


def reference(one: Scene) -> PoseResult:
    boxes, scores, labels, points, visible = one
    classes = np.zeros((len(scores), 3), np.float32)
    classes[np.arange(len(scores)), labels] = scores
    parts = (torch.from_numpy(part)[None] for part in (boxes, classes, points, visible))
    return Reference().people(Predictions(*parts), Placement(1, 1, 0, 0))


def made(seed: int, n: int, kind: str, classes: int = 1, damaged: bool = False) -> Scene:
    """Keypoints near the center of their box. damaged: some boxes and scores are NaN or infinite."""
    rng = np.random.default_rng(seed)
    boxes, scores = scene(rng, n, kind)
    centers = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2
    points = (centers + rng.normal(0, 8, (n, K, 2))).astype(np.float32)
    visible = rng.uniform(0, 1, (n, K)).astype(np.float32)
    visible[rng.random(n) < 0.1] = 0
    if damaged:
        broken = (rng.random(n) < 0.2) & (scores < 0.25)  # of people they are a wrong answer in any case
        boxes[broken, rng.integers(4)] = rng.choice([np.nan, np.inf, -np.inf])
        points[broken] = np.nan
        scores[(rng.random(n) < 0.1) & (scores < 0.25)] = np.nan
    return boxes, scores, rng.integers(classes, size=n), points, visible


def assert_equal(found: PoseResult, expected: PoseResult, px: float = 2e-3, score: float = 1e-5) -> None:
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=score)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=px)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=px)
    np.testing.assert_allclose(found.keypoint_scores, expected.keypoint_scores, atol=score)
    np.testing.assert_allclose(found.pose_scores, expected.pose_scores, atol=score)
    assert found.keypoint_spread is not None
    assert expected.keypoint_spread is not None
    np.testing.assert_allclose(found.keypoint_spread, expected.keypoint_spread, atol=px)


SCENES = {
    "seed": st.integers(0, 2**32 - 1),
    "n": st.integers(2, 150),
    "kind": st.sampled_from(["random", "crowded", "tied"]),
}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batch=st.integers(1, 3), classes=st.sampled_from([1, 3]), damaged=st.booleans(), **SCENES)
def test_graph_equals_numpy(seed: int, n: int, kind: str, batch: int, classes: int, damaged: bool) -> None:
    """Ties, crowds, fewer candidates than supporters, images without people, predictions that are not finite."""
    scenes = [made(seed + row, n, kind, classes, damaged) for row in range(batch)]
    for one, found in zip(scenes, run(scenes), strict=True):
        assert_equal(found, reference(one))


def test_openvino_equals_onnx_runtime() -> None:
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(graph(POSE).SerializeToString())
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for seed in range(20):
        scenes = [made(seed, 40, "crowded", 3, damaged=seed % 2 == 1), made(seed + 100, 40, "random", 3)]
        results = compiled(feeds(scenes))
        outputs = {name: results[name] for name in POSE.outputs}
        for row, expected in enumerate(run(scenes)):
            assert_equal(people_of(outputs, row), expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(threshold=st.floats(0.3, 0.9), **SCENES)
def test_people_do_not_depend_on_the_score_threshold(seed: int, n: int, kind: str, threshold: float) -> None:
    one = made(seed, min(n, 60), kind)
    (many,) = run([one])
    (few,) = run([one], threshold)
    assert_equal(few, many[many.scores > np.float32(threshold)], px=0, score=0)


def lone(boxes: list[list[float]], scores: list[float], points: list[float]) -> Scene:
    """Predictions whose keypoints all lie at (points[i], points[i]) with score 0.5."""
    n = len(scores)
    where = np.repeat(np.array(points, np.float32), K * 2).reshape(n, K, 2)
    return (
        np.array(boxes, np.float32), np.array(scores, np.float32), np.zeros(n, np.int64), where,
        np.full((n, K), 0.5, np.float32),
    )  # fmt: skip


def test_a_single_candidate_keeps_its_keypoints() -> None:
    (found,) = run([lone([[0, 0, 100, 100], [300, 300, 400, 400]], [0.8, 0.1], [50, 350])])
    assert found.keypoints.ravel().tolist() == [50.0] * 2 * K
    assert found.keypoint_spread is not None
    assert found.keypoint_spread.tolist() == [[0.0] * K]
    assert found.pose_scores == pytest.approx(0.8 * 0.5)


def test_mean_spread_and_pose_score_by_hand() -> None:
    """Two equal boxes: weights are the scores. A third below the IoU of support does not count."""
    box = [0.0, 0.0, 100.0, 100.0]
    (found,) = run([lone([box, box, [0, 0, 100, 39]], [0.6, 0.2, 0.5], [40, 60, 99])])
    mean, squared = 45.0, 2 * (0.75 * 25 + 0.25 * 225)  # in x and y
    np.testing.assert_allclose(found.keypoints[0], mean, rtol=1e-6)
    assert found.keypoint_spread is not None
    np.testing.assert_allclose(found.keypoint_spread[0], squared**0.5, rtol=1e-5)
    agreement = np.mean([np.exp(-squared / (2 * 0.53 * 1e4 * (2 * sigma) ** 2)) for sigma in SIGMAS])
    assert found.pose_scores[0] == pytest.approx(0.6 * 0.5 * agreement, rel=1e-4)


def test_only_candidates_of_the_same_class_support() -> None:
    boxes, scores, _, points, visible = lone([[0, 0, 100, 100]] * 2, [0.6, 0.2], [40, 60])
    (found,) = run([(boxes, scores, np.array([0, 1]), points, visible)])
    assert found.keypoints.ravel().tolist() == [40.0] * 2 * K


def test_the_best_supporters_count_where_there_are_more() -> None:
    """Hundreds of candidates a person: the four with the largest weights are averaged."""
    n = 300
    scores = np.linspace(0.9, 0.3, n)
    (found,) = run([lone([[0, 0, 100, 100]] * n, scores.tolist(), np.arange(n).tolist())])
    expected = np.average([0, 1, 2, 3], weights=scores[:4])
    np.testing.assert_allclose(found.keypoints, expected, rtol=1e-5)
    assert len(found) == 1


def test_one_keypoint_and_no_visible_keypoint() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 2, np.float32)
    scores, points = np.array([0.8, 0.4], np.float32), np.full((2, 1, 2), 5, np.float32)
    person, labels = np.array([0]), np.zeros(2, np.int64)
    one = consensus_of(person, boxes, scores, labels, points, np.ones((2, 1), np.float32), POSE, (0.05,))
    assert one.pose_scores == pytest.approx(0.8)
    nothing = consensus_of(person, boxes, scores, labels, points, np.zeros((2, 1), np.float32), POSE, (0.05,))
    assert nothing.pose_scores.tolist() == [0.0]


def test_a_person_without_area_keeps_its_keypoints() -> None:
    (found,) = run([lone([[50, 50, 50, 50], [50, 50, 50, 50]], [0.8, 0.7], [50, 60])])
    assert found.keypoints[:, 0, 0].tolist() == [50.0, 60.0]
    assert np.isfinite(found.pose_scores).all()


def test_best_keypoints_are_those_of_the_winner_and_have_no_more_outputs() -> None:
    box = [0.0, 0.0, 100.0, 100.0]
    pose = PoseInfo("best")
    outputs = session(pose).run(None, feeds([lone([box, box], [0.6, 0.2], [40, 60])]))
    assert len(outputs) == len(pose.outputs) == 7
    assert outputs[4][0, 0, :, :2].ravel().tolist() == [40.0] * 2 * K


def test_networks_that_give_each_person_once_have_no_consensus() -> None:
    with pytest.raises(ValueError, match="each person once"):
        FindPeople(NMS, POSE, SIGMAS, nms_free=True)


@pytest.mark.parametrize(("family", "keypoints"), [("yolov8-pose", "consensus"), ("yolo26-pose", "best")])
def test_default_of_a_network(family: str, keypoints: str) -> None:
    assert default_pose(build(small_config(family))).keypoints == keypoints


def test_no_intermediate_is_larger_than_the_matrix_of_overlaps() -> None:
    names = [name for node in graph(POSE).graph.node for name in node.output]
    model = with_outputs(graph(POSE), names).SerializeToString()
    values = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(
        None, feeds([made(0, 60, "crowded")])
    )
    assert max(value.size for value in values) == NMS.candidates**2


def test_no_operator_that_some_compilers_lack() -> None:
    """TensorRT for RTX has no float32 GEMM on some GPUs: the consensus adds no MatMul to those of the suppression."""
    operators = [node.op_type for node in graph(POSE).graph.node]
    best = [node.op_type for node in graph(PoseInfo()).graph.node]
    assert operators.count("MatMul") == best.count("MatMul")
    assert not {"NonZero", "Loop", "If", "Scan", "NonMaxSuppression"} & set(operators)
