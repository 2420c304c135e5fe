"""A small graph with what bodies consist of: SiLU, ReLU, residual, concatenation, pooling, prediction convolutions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from yolopose.export.config import Target
from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import Plan, make_plan, tensors_to_sample
from yolopose.export.int8.ranges import collect

SIZE = 16


def small_graph(seed: int = 0, gain: float = 0.4, name_nodes: bool = True) -> onnx.ModelProto:
    """images uint8 (batch, 16, 16, 3) and the two thresholds in; ``boxes`` and ``points`` float32 out."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, np.ndarray] = {"scale": np.array(1 / 64, np.float32)}

    def convolution(source: str, name: str, out: int, into: int, kernel: int, groups: int = 1) -> str:
        tensors[f"{name}.weight"] = rng.normal(0, gain, (out, into // groups, kernel, kernel)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.3, out).astype(np.float32)
        pads = [kernel // 2] * 4
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_out"], name, pads=pads, group=groups))
        return f"{name}_out"

    def silu(source: str) -> str:
        nodes.append(helper.make_node("Sigmoid", [source], [f"{source}_gate"], f"{source}_sigmoid"))
        nodes.append(helper.make_node("Mul", [source, f"{source}_gate"], [f"{source}_silu"], f"{source}_mul"))
        return f"{source}_silu"

    nodes.append(helper.make_node("Cast", ["images"], ["pixels"], "cast", to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Transpose", ["pixels"], ["planes"], "transpose", perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Mul", ["planes", "scale"], ["small"], "normalise"))
    stem = silu(convolution("small", "stem", 8, 3, 3))
    inner = silu(convolution(stem, "inner", 8, 8, 3))
    nodes.append(helper.make_node("Add", [stem, inner], ["sum"], "residual"))
    deep = silu(convolution("sum", "depthwise", 8, 8, 3, groups=8))
    nodes.append(helper.make_node("MaxPool", [deep], ["pooled"], "pool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Concat", ["pooled", deep], ["joined"], "join", axis=1))
    convolution("joined", "last", 8, 16, 1)
    nodes.append(helper.make_node("Relu", ["last_out"], ["features"], "relu"))
    for name in ("boxes", "points"):
        convolution("features", f"predict_{name}", 4, 8, 1)
        nodes.append(helper.make_node("Sigmoid", [f"predict_{name}_out"], [name], f"sigmoid_{name}"))
    if not name_nodes:
        for node in nodes:
            node.name = ""
    value = helper.make_tensor_value_info
    inputs = [value("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])]
    inputs += [value(name, TensorProto.FLOAT, ["batch", 1]) for name in ("score_threshold", "iou_threshold")]
    outputs = [value(name, TensorProto.FLOAT, ["batch", 4, SIZE, SIZE]) for name in ("boxes", "points")]
    held = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "small", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def pictures(count: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(count)]


def small_plan(target: Target, model: onnx.ModelProto | None = None) -> Plan:
    model = model or small_graph()
    body = find_body(model)
    samples = collect(model, tensors_to_sample(body, target), pictures(24))
    return make_plan(body, samples, target, lambda names: names)
