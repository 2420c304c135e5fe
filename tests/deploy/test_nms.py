"""NMS of the graph against greedy NMS in numpy and against the ONNX operator NonMaxSuppression."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.deploy.nms_graph import NmsGraph, run
from yolopose.deploy.nms import pairwise_overlaps
from yolopose.deploy.reference import greedy_nms
from yolopose.runtime.contract import NmsInfo

CONFIG = NmsInfo(candidates=60, rounds=8, max_people=40, score_threshold=0.25, iou_threshold=0.5)
DEEP = NmsInfo(candidates=60, rounds=60, max_people=60, score_threshold=0.25, iou_threshold=0.5)
SMALL = NmsInfo(candidates=10, rounds=4, max_people=3, score_threshold=0.25, iou_threshold=0.5)


def scene(rng: np.random.Generator, n: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) boxes and (n,) scores. crowded: around a few centers; tied: also with only four different scores."""
    centers = rng.uniform(0, 640, (n, 2))
    if kind in ("crowded", "tied"):
        centers = rng.uniform(0, 640, (max(n // 8, 1), 2))[rng.integers(max(n // 8, 1), size=n)] + rng.normal(
            0, 12, (n, 2)
        )
    size = rng.uniform(30, 150, (n, 2))
    boxes = np.concatenate([centers - size / 2, centers + size / 2], axis=1).astype(np.float32)
    scores = rng.choice([0.3, 0.5, 0.7, 0.9], n) if kind == "tied" else rng.uniform(0, 1, n)
    return boxes, scores.astype(np.float32)


def greedy(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, config: NmsInfo) -> list[int]:
    """Greedy NMS of the C best candidates, at most M people."""
    candidates = np.flatnonzero(scores > np.float32(config.score_threshold))
    candidates = candidates[np.argsort(-scores[candidates], kind="stable")][: config.candidates]
    kept = greedy_nms(boxes[candidates], scores[candidates], labels[candidates], config.iou_threshold)
    return candidates[kept][: config.max_people].tolist()


def chain(n: int) -> tuple[np.ndarray, np.ndarray]:
    """n boxes in a row by descending score, each overlapping only its neighbors: a suppression chain n deep."""
    x = np.arange(n, dtype=np.float32) * 30
    boxes = np.stack([x, np.zeros(n, np.float32), x + 100, np.full(n, 100, np.float32)], axis=1)
    return boxes, np.linspace(0.95, 0.3, n).astype(np.float32)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 150),
    batch=st.integers(1, 4),
    classes=st.sampled_from([1, 3]),
    kind=st.sampled_from(["random", "crowded", "tied"]),
)
def test_equals_greedy_nms_without_flags(seed: int, n: int, batch: int, classes: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    scenes = [scene(rng, n, kind) for _ in range(batch)]
    boxes, scores = np.stack([s[0] for s in scenes]), np.stack([s[1] for s in scenes])
    labels = rng.integers(classes, size=(batch, n))
    for i, outcome in enumerate(run(CONFIG, boxes, scores, labels)):
        assert outcome.count == int((scores[i] > 0.25).sum())
        assert bool(outcome.flags & 1) == (outcome.count > CONFIG.candidates)
        if not outcome.flags & 4:
            assert outcome.anchors == greedy(boxes[i], scores[i], labels[i], CONFIG)
    # with as many rounds as candidates only the deepest possible chain does not converge
    for i, outcome in enumerate(run(DEEP, boxes, scores, labels)):
        assert not outcome.flags & 4
        assert outcome.anchors == greedy(boxes[i], scores[i], labels[i], DEEP)


def nonmaxsuppression_session(max_output: int) -> onnxruntime.InferenceSession:
    """The ONNX operator; its result is an unknown number of rows [batch, class, box]."""
    names = ["boxes", "scores", "max_output", "iou", "score"]
    node = helper.make_node("NonMaxSuppression", names, ["selected"])
    graph = helper.make_graph(
        [node],
        "nms",
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["b", "n", 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", 1, "n"]),
        ],
        [helper.make_tensor_value_info("selected", TensorProto.INT64, ["k", 3])],
        [
            helper.make_tensor("max_output", TensorProto.INT64, [1], [max_output]),
            helper.make_tensor("iou", TensorProto.FLOAT, [1], [CONFIG.iou_threshold]),
            helper.make_tensor("score", TensorProto.FLOAT, [1], [CONFIG.score_threshold]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("kind", ["random", "crowded", "tied"])
def test_equals_onnx_nonmaxsuppression(kind: str) -> None:
    session = nonmaxsuppression_session(CONFIG.max_people)
    rng = np.random.default_rng(7)
    compared = 0
    for _ in range(40):
        scenes = [scene(rng, CONFIG.candidates, kind) for _ in range(3)]
        boxes, scores = np.stack([s[0] for s in scenes]), np.stack([s[1] for s in scenes])
        (selected,) = session.run(None, {"boxes": boxes, "scores": scores[:, None]})
        for i, outcome in enumerate(run(CONFIG, boxes, scores)):
            if outcome.flags & 5:
                continue
            compared += 1
            assert set(outcome.anchors) == set(selected[selected[:, 0] == i, 2].tolist())
    assert compared >= 100  # of 120


def test_empty_and_full_images_in_one_batch() -> None:
    boxes, scores = scene(np.random.default_rng(1), 40, "crowded")
    quiet = np.zeros_like(scores)
    exactly = np.full_like(scores, 0.25)  # the threshold must be exceeded
    first, second, third = run(CONFIG, np.stack([boxes] * 3), np.stack([quiet, scores, exactly]))
    assert first.anchors == third.anchors == []
    assert first.count == third.count == first.flags == 0
    assert second.anchors == greedy(boxes, scores, np.zeros(40), CONFIG)


@pytest.mark.parametrize("n", [2, 5, 10, 11])
def test_fewer_anchors_than_candidates(n: int) -> None:
    boxes = np.stack([np.arange(n) * 100, np.zeros(n), np.arange(n) * 100 + 50, np.full(n, 50)], axis=1)
    scores = np.linspace(0.9, 0.3, n)
    (outcome,) = run(SMALL, boxes[None], scores[None])
    assert outcome.anchors == list(range(min(n, 3)))
    assert outcome.count == n
    assert bool(outcome.flags & 1) == (n > 10)


def test_people_cut_flag_starts_above_m() -> None:
    for n, cut in ((3, False), (4, True)):
        boxes = np.stack([np.arange(n) * 100, np.zeros(n), np.arange(n) * 100 + 50, np.full(n, 50)], axis=1)
        (outcome,) = run(SMALL, boxes[None], np.linspace(0.9, 0.3, n)[None])
        assert bool(outcome.flags & 2) == cut


def test_not_converged_flag_starts_at_r_links() -> None:
    """Each round resolves one link of a chain. The flag is set from R links on, when no round is left to confirm."""
    wide = NmsInfo(candidates=20, rounds=4, max_people=20, score_threshold=0.25, iou_threshold=0.5)
    for n in range(1, 12):
        boxes, scores = chain(n)
        padded, padded_scores = np.concatenate([boxes, boxes]), np.concatenate([scores, np.zeros(n, np.float32)])
        (outcome,) = run(wide, padded[None], padded_scores[None])
        depth = n - 1  # the first box has no box before it
        assert bool(outcome.flags & 4) == (depth >= wide.rounds), n
        if not outcome.flags & 4:
            assert outcome.anchors == greedy(boxes, scores, np.zeros(n), wide) == list(range(0, n, 2))


def test_degenerate_and_infinite_boxes_do_not_affect_others() -> None:
    boxes = np.array(
        [[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, np.inf, np.inf], [10, 10, 60, 60], [11, 10, 61, 60]], np.float32
    )
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    (outcome,) = run(CONFIG, boxes[None], scores[None])
    assert set(outcome.anchors) == {0, 1, 2, 3}
    scores[2] = np.nan  # NaN: no person, and the others are unchanged
    (outcome,) = run(CONFIG, boxes[None], scores[None])
    assert set(outcome.anchors) == {0, 1, 3}


def test_torch_module_and_onnx_graph_agree() -> None:
    boxes, scores = scene(np.random.default_rng(5), 120, "crowded")
    feeds = (
        torch.from_numpy(boxes.T[None].copy()),
        torch.from_numpy(scores[None]),
        torch.zeros(1, 120, dtype=torch.int64),
    )
    anchors, valid, *_ = NmsGraph(CONFIG)(*feeds, torch.tensor([[0.25]]), torch.tensor([[0.5]]))
    assert anchors[valid].tolist() == run(CONFIG, boxes[None], scores[None])[0].anchors


def test_pairwise_overlaps_by_hand() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]]]).permute(0, 2, 1)
    third = torch.tensor([[1 / 3 - 1e-3]])
    expected = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    assert torch.equal(pairwise_overlaps(boxes, third)[0], expected)  # the first two share 50 of 150
    assert not pairwise_overlaps(boxes, third + 2e-3)[0, 0, 1]
