"""Simplification keeps results and interface, and the contract is embedded for its graph only."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolopose.export.graph import embed_contract, graph_sha256, simplify
from yolopose.runtime.artifact_file import parts_of
from yolopose.runtime.backends.fake import fake_contract


def graph() -> onnx.ModelProto:
    """images -> mean per image, plus the thresholds; with an Identity for simplification to remove."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Identity", ["pixels"], ["same"]),
        helper.make_node("ReduceMean", ["same", "axes"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "score_threshold"], ["moved"]),
        helper.make_node("Add", ["moved", "iou_threshold"], ["level"]),
    ]
    inputs = [
        helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3]),
        helper.make_tensor_value_info("score_threshold", TensorProto.FLOAT, ["batch", 1]),
        helper.make_tensor_value_info("iou_threshold", TensorProto.FLOAT, ["batch", 1]),
    ]
    output = helper.make_tensor_value_info("level", TensorProto.FLOAT, ["batch", 3])
    axes = numpy_helper.from_array(np.array([1, 2]), "axes")
    made = helper.make_graph(nodes, "graph", inputs, [output], [axes])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    half = np.full((2, 1), 0.5, np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images, "score_threshold": half, "iou_threshold": half})[0]


def test_simplify_removes_an_identity() -> None:
    model = graph()
    simplified, sentence = simplify(model)
    assert "Identity" not in {node.op_type for node in simplified.graph.node}
    assert sentence == "simplified from 5 to 4 nodes"
    np.testing.assert_array_equal(run(simplified), run(model))
    assert [dim.dim_param for dim in simplified.graph.input[0].type.tensor_type.shape.dim][:3] == [
        "batch",
        "height",
        "width",
    ]


def test_simplify_keeps_the_graph_when_onnxsim_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = graph()

    def crash(_: onnx.ModelProto) -> None:
        raise RuntimeError("no idea")

    def freeze_batch(given: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        changed = onnx.ModelProto()
        changed.CopyFrom(given)
        changed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        return changed, True

    def change_result(given: onnx.ModelProto) -> tuple[onnx.ModelProto, bool]:
        changed = onnx.ModelProto()
        changed.CopyFrom(given)
        changed.graph.node[-1].op_type = "Sub"
        return changed, True

    cases = [
        (crash, "no idea"),
        (lambda given: (given, False), "own check"),
        (freeze_batch, "inputs or outputs"),
        (change_result, "changed the results"),
    ]
    for tool, reason in cases:
        monkeypatch.setitem(sys.modules, "onnxsim", SimpleNamespace(simplify=tool))
        result, sentence = simplify(model)
        assert result is model
        assert sentence.startswith("not simplified")
        assert reason in sentence
    monkeypatch.setitem(sys.modules, "onnxsim", None)  # not installed
    assert simplify(model)[0] is model


def test_contract_is_embedded_for_its_own_graph_only() -> None:
    model = graph()
    contract = fake_contract()
    with pytest.raises(ValueError, match="contract is for graph"):
        embed_contract(model, contract)
    contract = replace(contract, provenance=replace(contract.provenance, graph_sha256=graph_sha256(model)))
    model.metadata_props.add(key="leftover", value="of the exporter")
    content = embed_contract(model, contract)
    parts = parts_of(content)
    assert parts.metadata == {"yolopose": contract.to_json()}
    assert parts.graph_sha256 == contract.provenance.graph_sha256
    assert embed_contract(model, contract) == content
