from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from yolopose.runtime.backends.base import INPUT_NAMES, OUTPUT_NAMES, Backend, RawPeople, open_backend
from yolopose.runtime.backends.onnxruntime import OnnxRuntimeBackend
from yolopose.runtime.contract import Contract, NmsInfo, PrecisionInfo, Range, read_contract
from yolopose.runtime.errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch
from yolopose.runtime.skeleton import LSP_14


def thresholds(rows: int, score: float = 0.25, iou: float = 0.65) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, 1), score, np.float32), np.full((rows, 1), iou, np.float32)


def test_infers_with_the_shapes_and_types_of_the_contract(artifact: Path) -> None:
    backend = open_backend(artifact, read_contract(artifact), threads=1)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device) == ("onnxruntime", "cpu")
    assert backend.version
    raw = backend.infer(np.zeros((2, 64, 96, 3), np.uint8), *thresholds(2))
    assert [array.shape for array in raw] == [(2,), (2, 3, 4), (2, 3), (2, 3), (2, 3, 17, 3), (2,), (2,)]
    types = [np.int32, np.float32, np.float32, np.int32, np.float32, np.int32, np.int32]
    assert [array.dtype for array in raw] == types
    assert raw.num_people.tolist() == [0, 0]
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8), *thresholds(1))


def test_names_are_those_of_the_contract(artifact: Path) -> None:
    assert RawPeople._fields == OUTPUT_NAMES
    graph = onnx.load(artifact).graph
    assert tuple(value.name for value in graph.input) == INPUT_NAMES
    assert tuple(value.name for value in graph.output) == OUTPUT_NAMES


def test_results_belong_to_the_caller(artifact: Path, draw_dots: Callable[..., np.ndarray]) -> None:
    backend = open_backend(artifact, read_contract(artifact), threads=1)
    first = backend.infer(draw_dots((64, 96), (0, 30, 20))[None], *thresholds(1))
    boxes = first.boxes.copy()
    backend.infer(draw_dots((64, 96), (0, 70, 50))[None], *thresholds(1))
    assert np.array_equal(first.boxes, boxes)


def test_frame_is_pinned(artifact: Path) -> None:
    backend = open_backend(artifact, read_contract(artifact), shape_hw=(64, 64))
    with pytest.raises(BackendError, match=r"failed on images of \(1, 64, 96, 3\) uint8"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8), *thresholds(1))


def test_threads_reach_the_session(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend(artifact, read_contract(artifact), threads=2)
    assert isinstance(backend, OnnxRuntimeBackend)
    assert backend.session.get_session_options().intra_op_num_threads == 2


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
def test_wrong_arguments(arguments: dict, error: type[Exception], message: str, artifact: Path) -> None:
    with pytest.raises(error, match=message):
        open_backend(artifact, read_contract(artifact), **arguments)


def test_plans_are_for_tensorrt(make_contract: Callable[..., Contract]) -> None:
    for path in ("model.engine", "model.trt"):
        with pytest.raises(EngineMismatch, match="cannot be loaded by onnxruntime"):
            open_backend(path, make_contract(), backend="onnxruntime")


@pytest.mark.parametrize("target", ["openvino", "tensorrt"])
def test_artifact_for_another_engine(target: str, artifact: Path) -> None:
    contract = replace(read_contract(artifact), precision=PrecisionInfo("int8", "int8", target))
    with pytest.raises(EngineMismatch, match=f"quantized for {target} .* --target cpu"):
        open_backend(artifact, contract, "onnxruntime")


def test_corrupt_graph(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(ArtifactError, match=r"cannot load .*bad\.onnx") as caught:
        open_backend(tmp_path / "bad.onnx", read_contract(artifact))
    assert caught.value.__cause__ is not None


def test_graph_that_does_not_keep_its_contract(artifact: Path, tmp_path: Path) -> None:
    contract = read_contract(artifact)
    with pytest.raises(ArtifactError, match=r"output boxes should be \(batch, \*\[2, 4\]\) float"):
        open_backend(artifact, replace(contract, nms=NmsInfo(max_people=2)))
    with pytest.raises(ArtifactError, match="output keypoints should be"):
        open_backend(artifact, replace(contract, skeleton=LSP_14))
    model = onnx.load(artifact)
    del model.graph.output[-1]
    onnx.save(model, tmp_path / "short.onnx")
    with pytest.raises(ArtifactError, match=r"output flags should be .* is absent"):
        open_backend(tmp_path / "short.onnx", contract)
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, [1])],
            [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ArtifactError, match=r"its inputs are \{'x': 'float32'\}"):
        open_backend(tmp_path / "foreign.onnx", contract)


def test_fixed_artifact(build_artifact: Callable[..., Path]) -> None:
    path = build_artifact(height=Range(64, 64, 64), width=Range(96, 96, 96), batch=Range(2, 2, 2))
    backend = open_backend(path, read_contract(path))
    assert backend.infer(np.zeros((2, 64, 96, 3), np.uint8), *thresholds(2)).boxes.shape == (2, 3, 4)


def test_onnxruntime_is_not_installed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "yolopose\[cpu\]"'):
        open_backend(artifact, read_contract(artifact))


def test_onnxruntime_is_an_empty_shell(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    with pytest.raises(BackendUnavailable, match="installation of ONNX Runtime is broken"):
        open_backend(artifact, read_contract(artifact))


def test_cuda_is_not_in_this_build(artifact: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(
        BackendUnavailable, match=r"device cuda:0 \(CUDAExecutionProvider\) was asked for, but .*CPUExecutionProvider"
    ) as caught:
        open_backend(artifact, read_contract(artifact), device="cuda")
    words = str(caught.value)
    assert 0 < words.index("no NVIDIA GPU") < words.index("use device cpu") < words.index("pip uninstall onnxruntime")


def test_cuda_that_falls_back_is_an_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime with CUDA but without its libraries makes a CPU session and raises nothing."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    asked = []

    def fallback(path: str, options: object, providers: list, enable_fallback: int) -> object:
        asked.extend(providers)
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fallback)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    with pytest.raises(
        BackendUnavailable,
        match=r"device cuda:1 \(CUDAExecutionProvider\) was asked for, but CPU.* is active.*no NVIDIA.*cuDNN",
    ):
        open_backend(artifact, read_contract(artifact), device="cuda:1")
    assert asked == [("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1"})]
