"""The tiny artifact of tests/runtime (it finds bright dots), photographs of dots, and a bare network to set beside it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ..runtime.conftest import dots, small_contract, write_artifact


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "dots.onnx", small_contract())


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures with 0, 1, 2, 3 and 1 dots, of different sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    points = [(0, 20.0, 30.0), (1, 60.0, 20.0), (2, 90.0, 40.0)]
    for i, count in enumerate((0, 1, 2, 3, 1)):
        assert cv2.imwrite(str(folder / f"{i}.png"), dots((60 + 7 * i, 120), *points[:count]))
    return folder


@pytest.fixture(scope="session")
def bare_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32 NCHW in, one convolution, float32 out; beside it how its input is made."""
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    weights = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["images", "weights"], ["head"], pads=[1, 1, 1, 1])],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 64, 96])],
        [helper.make_tensor_value_info("head", TensorProto.FLOAT, ["batch", 4, 64, 96])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    Path(f"{path}.json").write_text('{"channel_order": "rgb", "scale": 0.00392156862745098}', encoding="utf-8")
    return path
