from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from yolopose.runtime.backends.base import RawPeople, open_backend
from yolopose.runtime.contract import INPUT_NAMES, OUTPUT_NAMES, Contract, PoseInfo, read_contract
from yolopose.runtime.errors import EngineMismatch


def test_names_match_the_contract(artifact: Path) -> None:
    assert RawPeople._fields == PoseInfo("consensus", spread=True).outputs
    graph = onnx.load(artifact).graph
    assert tuple(value.name for value in graph.input) == INPUT_NAMES
    assert tuple(value.name for value in graph.output) == OUTPUT_NAMES


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"backend": "caffe"},
            ValueError,
            "backend must be one of auto, onnxruntime, .*, openvino, openvino:bf16, tensorrt, .*, got 'caffe'",
        ),
        ({"threads": 0}, ValueError, "threads must be a whole number from 1"),
        ({"threads": True}, ValueError, "threads must be a whole number from 1"),
        ({"device": "gpu"}, ValueError, "device must be cpu, cuda or cuda:N"),
        ({"device": "cuda:x"}, ValueError, "device must be cpu, cuda or cuda:N"),
        ({"backend": "tensorrt"}, EngineMismatch, "TensorRT loads .engine"),
    ],
)
def test_rejects_wrong_arguments(
    arguments: dict[str, Any], error: type[Exception], message: str, artifact: Path
) -> None:
    with pytest.raises(error, match=message):
        open_backend(artifact, read_contract(artifact), **arguments)


def test_plans_are_only_for_tensorrt(make_contract: Callable[..., Contract]) -> None:
    for path in ("model.engine", "model.trt"):
        with pytest.raises(EngineMismatch, match="cannot be loaded by onnxruntime"):
            open_backend(path, make_contract(), backend="onnxruntime")
