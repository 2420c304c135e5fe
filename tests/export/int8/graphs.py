"""Small graphs with the parts of real networks: SiLU, ReLU, residual, concatenation, pooling, predictions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from yolopose.export.int8.layers import find_body
from yolopose.export.int8.quantize import QuantizationPlan, Target, make_plan, tensors_to_sample
from yolopose.export.int8.ranges import collect_samples

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
    nodes.append(helper.make_node("Mul", ["planes", "scale"], ["small"], "normalize"))
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
    outputs = [value(name, TensorProto.FLOAT, ["batch", 4, SIZE, SIZE]) for name in ("boxes", "points")]
    return _model("small", nodes, outputs, tensors)


def chain(activation: str, shared: bool = False) -> onnx.ModelProto:
    """Three convolutions in a row with ``activation`` between them. shared: the second has the weights of the first."""
    rng = np.random.default_rng(3)
    tensors = {f"w{i}": rng.normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32) for i in range(3)}
    tensors["scale"] = np.array(1 / 64, np.float32)
    nodes = [helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]))
    nodes.append(helper.make_node("Mul", ["planes", "scale"], ["x0"]))
    for i in range(3):
        weight = "w0" if shared and i == 1 else f"w{i}"
        nodes.append(helper.make_node("Conv", [f"x{i}", weight], [f"y{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node(activation if i < 2 else "Sigmoid", [f"y{i}"], [f"x{i + 1}"], f"act{i}"))
    outputs = [helper.make_tensor_value_info("x3", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])]
    return _model("chain", nodes, outputs, tensors)


def _model(
    name: str, nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], tensors: dict[str, np.ndarray]
) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    inputs = [value("images", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])]
    inputs += [value(threshold, TensorProto.FLOAT, ["batch", 1]) for threshold in ("score_threshold", "iou_threshold")]
    initializers = [numpy_helper.from_array(array, tensor) for tensor, array in tensors.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def random_images(count: int, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(count)]


def no_progress(items: Iterable[int], total: int, label: str) -> Iterable[int]:
    return items


def small_plan(target: Target, model: onnx.ModelProto | None = None) -> QuantizationPlan:
    model = model or small_graph()
    body = find_body(model)
    samples = collect_samples(model, tensors_to_sample(body, target), random_images(24))
    return make_plan(body, samples, target, no_progress)
