"""A tiny artifact that keeps the contract: it finds bright dots, so that tests know where its "people" must be.

For each color channel of an image the pixels above 200 make one person: score = (brightest - 200) / 55, keypoint k at
the center of brightness + k px in x, box = center +- 4 px, label = channel (0 blue, 1 green, 2 red). Padding is dark.
num_candidates counts bright values; flags is 4 when the IoU threshold is above 0.9, to show that it arrives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolopose.runtime.artifact_file import parts_of
from yolopose.runtime.backends.fake import fake_contract
from yolopose.runtime.contract import METADATA_KEY, Contract, Provenance, Range

PEOPLE, KEYPOINTS = 3, 17
_NODES = """
Cast images -> levels | to=1
Sub levels dark -> above
Relu above -> bright
ReduceSum bright hw_axes -> mass | keepdims=0
Max mass one -> safe_mass
Shape images -> shape
Gather shape i1 -> height
Gather shape i2 -> width
Range i0 height i1 -> rows_i
Range i0 width i1 -> columns_i
Cast rows_i -> rows | to=1
Cast columns_i -> columns | to=1
Add rows half -> rows_c
Add columns half -> columns_c
ReduceSum bright w_axes -> by_row | keepdims=0
ReduceSum bright h_axes -> by_column | keepdims=0
Unsqueeze rows_c u1 -> rows_u
Unsqueeze columns_c u1 -> columns_u
Mul by_row rows_u -> y_mass
Mul by_column columns_u -> x_mass
ReduceSum y_mass h_axes -> y_sum | keepdims=0
ReduceSum x_mass h_axes -> x_sum | keepdims=0
Div y_sum safe_mass -> y
Div x_sum safe_mass -> x
ReduceMax bright hw_axes -> top | keepdims=0
Div top span -> channel_scores
TopK channel_scores k3 -> sorted_scores order | axis=1
Greater sorted_scores score_threshold -> alive
Cast alive -> alive_f | to=1
Cast alive -> alive_i | to=6
ReduceSum alive_i u1 -> num_people | keepdims=0
Mul sorted_scores alive_f -> scores
Cast order -> order_i | to=6
Mul order_i alive_i -> labels
GatherElements x order -> x_sorted | axis=1
GatherElements y order -> y_sorted | axis=1
Unsqueeze alive_f u2 -> alive_u
Unsqueeze x_sorted u2 -> x_u
Unsqueeze y_sorted u2 -> y_u
Concat x_u y_u x_u y_u -> centers | axis=2
Add centers margins -> boxes_all
Mul boxes_all alive_u -> boxes
Unsqueeze x_sorted u23 -> x_p
Unsqueeze y_sorted u23 -> y_p
Unsqueeze scores u23 -> s_p
Add x_p steps -> x_k
Add y_p zeros -> y_k
Add s_p zeros -> s_k
Concat x_k y_k s_k -> keypoints_all | axis=3
Unsqueeze alive_f u23 -> alive_k
Mul keypoints_all alive_k -> keypoints
Greater bright zero -> is_bright
Cast is_bright -> bright_i | to=6
ReduceSum bright_i all_axes -> num_candidates | keepdims=0
Greater iou_threshold high -> iou_high
Cast iou_high -> iou_i | to=6
Mul iou_i four -> flags_u
Squeeze flags_u u1 -> flags
"""


def dot_model(contract: Contract, keypoints: int = KEYPOINTS) -> onnx.ModelProto:
    """The graph described above, without a contract in it."""

    def size(legal: Range, name: str) -> int | str:
        return legal.min if legal.fixed else name

    given = contract.input
    batch = size(given.batch, "batch")
    constants = {
        "dark": np.float32(200), "one": np.float32(1), "half": np.float32(0.5), "span": np.float32(55),
        "zero": np.float32(0), "high": np.float32(0.9), "four": np.int32(4),
        "i0": np.int64(0), "i1": np.int64(1), "i2": np.int64(2), "k3": np.array([PEOPLE]),
        "hw_axes": np.array([1, 2]), "w_axes": np.array([2]), "h_axes": np.array([1]), "all_axes": np.array([1, 2, 3]),
        "u1": np.array([1]), "u2": np.array([2]), "u23": np.array([2, 3]),
        "margins": np.array([-4, -4, 4, 4], np.float32),
        "steps": np.arange(keypoints, dtype=np.float32).reshape(1, 1, keypoints, 1),
        "zeros": np.zeros((1, 1, keypoints, 1), np.float32),
    }  # fmt: skip
    nodes = []
    for line in _NODES.strip().splitlines():
        wires, _, options = line.partition(" | ")
        left, right = wires.split(" -> ")
        kind, *inputs = left.split()
        attributes = {key: int(value) for key, value in (pair.split("=") for pair in options.split())}
        nodes.append(helper.make_node(kind, inputs, right.split(), **attributes))
    float32, int32 = TensorProto.FLOAT, TensorProto.INT32
    graph = helper.make_graph(
        nodes,
        "dots",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.UINT8, [batch, size(given.height, "height"), size(given.width, "width"), 3]
            ),
            helper.make_tensor_value_info("score_threshold", float32, [batch, 1]),
            helper.make_tensor_value_info("iou_threshold", float32, [batch, 1]),
        ],
        [
            helper.make_tensor_value_info("num_people", int32, [batch]),
            helper.make_tensor_value_info("boxes", float32, [batch, PEOPLE, 4]),
            helper.make_tensor_value_info("scores", float32, [batch, PEOPLE]),
            helper.make_tensor_value_info("labels", int32, [batch, PEOPLE]),
            helper.make_tensor_value_info("keypoints", float32, [batch, PEOPLE, keypoints, 3]),
            helper.make_tensor_value_info("num_candidates", int32, [batch]),
            helper.make_tensor_value_info("flags", int32, [batch]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def small_contract(**changes: Range) -> Contract:
    ranges = {"height": Range(32, 64, 256, 32), "width": Range(32, 96, 256, 32), "batch": Range(1, 1, 4)} | changes
    return fake_contract(max_people=PEOPLE, **ranges)


def write_artifact(path: Path, contract: Contract, keypoints: int = KEYPOINTS) -> Path:
    """Write the dot model with `contract` (its graph hash set) embedded."""
    model = dot_model(contract, keypoints)
    digest = parts_of(model.SerializeToString()).graph_sha256
    contract = dataclasses.replace(contract, provenance=Provenance(graph_sha256=digest))
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of an artifact for frames of 64x96 (32..256 in steps of 32) and 1 to 4 images at once."""
    return write_artifact(tmp_path_factory.mktemp("artifact") / "dots.onnx", small_contract())


@pytest.fixture
def build_artifact(tmp_path: Path) -> Callable[..., Path]:
    """Write an artifact of another contract: build_artifact(batch=Range(...)), or build_artifact(contract=...)."""

    def build(
        name: str = "built.onnx", contract: Contract | None = None, keypoints: int = KEYPOINTS, **changes: Range
    ) -> Path:
        return write_artifact(tmp_path / name, contract or small_contract(**changes), keypoints)

    return build


@pytest.fixture
def make_contract() -> Callable[..., Contract]:
    return small_contract


def dots(
    shape_hw: tuple[int, int], *points: tuple[int, float, float], radius: float = 3.0, level: int = 255
) -> np.ndarray:
    """A dark image with a bright disc around each (channel, x, y)."""
    image = np.full((*shape_hw, 3), 20, np.uint8)
    y, x = np.mgrid[: shape_hw[0], : shape_hw[1]] + 0.5
    for channel, center_x, center_y in points:
        image[(x - center_x) ** 2 + (y - center_y) ** 2 <= radius**2, channel] = level
    return image


@pytest.fixture
def draw_dots() -> Callable[..., np.ndarray]:
    return dots
