"""Reading third-party ONNX files: damaged ones, and those in a precision or form that cannot be imported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolopose.export.onnx_import.onnx_file import read_onnx_file
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

from ...ultralytics_files import unpacked


def small() -> onnx.ModelProto:
    """(1, 3, 64, 64) float32 -> (1, 9) float32, by a weight matrix."""
    weight = np.random.default_rng(0).random((3 * 64 * 64, 9), np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["flat"]), helper.make_node("MatMul", ["flat", "weight"], ["output"])],
        "small",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 9])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_rejects_float16_quantized_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    model = small()
    onnx.save(model, path)
    assert read_onnx_file(path).shapes == {"output": (1, 9)}
    half = onnx.ModelProto()
    half.CopyFrom(model)
    half.graph.initializer[0].data_type = TensorProto.FLOAT16
    onnx.save(half, tmp_path / "half.onnx")
    with pytest.raises(UnknownCheckpoint, match=r"is float16 already: give the float32 export and --fp16"):
        read_onnx_file(tmp_path / "half.onnx")
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    quantized.graph.node.add(op_type="QuantizeLinear", input=["a", "b"], output=["c"])
    onnx.save(quantized, tmp_path / "int8.onnx")
    with pytest.raises(UnknownCheckpoint, match=r"is quantized already \(QuantizeLinear\)"):
        read_onnx_file(tmp_path / "int8.onnx")
    onnx.save(model, tmp_path / "parts.onnx", save_as_external_data=True, location="parts.bin", size_threshold=0)
    (tmp_path / "parts.bin").unlink()
    with pytest.raises(CheckpointError, match=r"parts\.onnx keeps its weights in another file, which is missing"):
        read_onnx_file(tmp_path / "parts.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cannot read .*cut\.onnx"):
        read_onnx_file(tmp_path / "cut.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        read_onnx_file(tmp_path / "none.onnx")


def test_describes_dimensions_as_the_file_has_them(tmp_path: Path) -> None:
    fixed = read_onnx_file(unpacked("yolov8n-pose-fixed.onnx", tmp_path))
    assert fixed.describe() == "images [1, 3, 96, 96] -> output0 [1, 56, 189]"
    dynamic = read_onnx_file(unpacked("yolo11n-pose-dynamic.onnx", tmp_path))
    assert dynamic.describe() == "images [dynamic, 3, dynamic, dynamic] -> output0 [1, 56, 1344] at 256x256"
