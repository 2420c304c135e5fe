from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import openvino
import pytest

from yolopose.data.synthetic import SyntheticScenes
from yolopose.runtime import PoseEstimator
from yolopose.runtime.backends.base import Backend, RawPeople, choose_backend, open_backend
from yolopose.runtime.backends.openvino import OpenVinoBackend
from yolopose.runtime.contract import NmsInfo, PrecisionInfo, Range, read_contract
from yolopose.runtime.errors import ArtifactError, BackendError, BackendUnavailable, EngineMismatch
from yolopose.runtime.skeleton import LSP_14

from .plans import arrays, thresholds

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def opened(path: Path, backend: str = "openvino", **arguments: object) -> Backend:
    return open_backend(path, read_contract(path), backend, **arguments)  # type: ignore[arg-type]


def assert_same_people(found: RawPeople, expected: RawPeople, px: float = 0.05) -> None:
    """The order of equal scores is undefined, but none are equal here."""
    for name in ("num_people", "labels", "num_candidates", "flags"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=px)
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=px)


def test_outputs_have_the_shapes_and_types_of_the_contract(artifact: Path) -> None:
    backend = opened(artifact, threads=1)
    assert isinstance(backend, Backend)
    assert (backend.name, backend.device) == ("openvino", "cpu")
    assert openvino.__version__.startswith(backend.version)
    raw = backend.infer(np.zeros((2, 64, 96, 3), np.uint8), *thresholds(2))
    assert [array.shape for array in arrays(raw)] == [(2,), (2, 3, 4), (2, 3), (2, 3), (2, 3, 17, 3), (2,), (2,)]
    types = [np.int32, np.float32, np.float32, np.int32, np.float32, np.int32, np.int32]
    assert [array.dtype for array in arrays(raw)] == types
    assert raw.num_people.tolist() == [0, 0]
    backend.close()
    backend.close()
    with pytest.raises(ValueError, match="closed"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8), *thresholds(1))


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_batches_match_onnxruntime(artifact: Path, draw_dots: Callable[..., np.ndarray], rows: int) -> None:
    """One image runs in the model of batch 1, other batches in the one of dynamic batch, compiled when it is needed."""
    images = np.stack([draw_dots((64, 96), (i % 3, 20 + 15 * i, 40), (2, 80, 20), level=215 + i) for i in range(rows)])
    expected = opened(artifact, "onnxruntime").infer(images, *thresholds(rows))
    backend = opened(artifact)
    assert_same_people(backend.infer(images, *thresholds(rows)), expected, 1e-3)
    assert expected.num_people.min() > 0
    again = backend.infer(images[:1], *thresholds(1))
    np.testing.assert_allclose(again.keypoints, expected.keypoints[:1], atol=1e-3)


def test_trained_network_matches_onnxruntime(trained_artifact: Path, photographs: list[Path]) -> None:
    images = [cv2.imread(str(path)) for path in photographs[:12]]
    images += [scene.image for scene in SyntheticScenes(12, (320, 240))]
    with (
        PoseEstimator(trained_artifact, backend="onnxruntime", threads=1) as reference,
        PoseEstimator(trained_artifact, backend="openvino", threads=1) as estimate,
    ):
        batches = [reference.preprocess(images[i : i + 8])[0] for i in range(0, len(images), 8)]
        for batch in (*batches, *(batches[0][i : i + 1] for i in range(4))):
            assert_same_people(estimate.infer(batch), reference.infer(batch))
        assert sum(reference.infer(batch).num_people.sum() for batch in batches) > 10


def test_results_belong_to_the_caller(artifact: Path, draw_dots: Callable[..., np.ndarray]) -> None:
    backend = opened(artifact)
    first = backend.infer(draw_dots((64, 96), (0, 30, 20))[None], *thresholds(1))
    kept = [array.copy() for array in arrays(first)]
    backend.infer(draw_dots((64, 96), (0, 70, 50))[None], *thresholds(1))
    backend.close()
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays(first), kept, strict=True))
    assert all(array.flags.owndata and array.flags.writeable for array in arrays(first))


def test_accepts_images_that_are_not_contiguous_or_writeable(
    artifact: Path, draw_dots: Callable[..., np.ndarray]
) -> None:
    image = draw_dots((64, 96), (0, 30, 20))
    backend = opened(artifact)
    expected = backend.infer(image[None], *thresholds(1))
    strided = np.repeat(image[None], 2, axis=2)[:, :, ::2]
    assert not strided.flags.c_contiguous
    strided.flags.writeable = False
    assert_same_people(backend.infer(strided, *thresholds(1)), expected, 0)


def test_threads_share_a_backend(artifact: Path, draw_dots: Callable[..., np.ndarray]) -> None:
    backend = opened(artifact)

    def position(x: int) -> float:
        rows = 1 + x % 2  # both models at once
        raw = backend.infer(np.repeat(draw_dots((64, 96), (0, x, 20))[None], rows, axis=0), *thresholds(rows))
        return float(raw.keypoints[rows - 1, 0, 0, 0])

    places = [10 + i % 70 for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        np.testing.assert_allclose(list(pool.map(position, places)), places, atol=0.5)


def test_thresholds_change_at_run_time(artifact: Path, draw_dots: Callable[..., np.ndarray]) -> None:
    with PoseEstimator(artifact, backend="openvino") as estimate:
        image = draw_dots((64, 96), (0, 30, 20), level=222)  # score 0.4
        assert len(estimate(image)) == 1
        estimate.score_threshold = 0.5
        assert len(estimate(image)) == 0
        estimate.iou_threshold = 0.95
        assert estimate(image).flags == 4


def test_threads_reach_openvino(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    real = openvino.Core.compile_model

    def record(core: object, model: object, device: str, options: dict) -> object:
        compiled.append((device, options))
        return real(core, model, device, options)

    monkeypatch.setattr(openvino.Core, "compile_model", record)
    opened(artifact, threads=2)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    assert compiled == [("CPU", options)]


def test_rejects_images_of_another_size_type_or_batch(artifact: Path) -> None:
    backend = opened(artifact, shape_hw=(64, 64))
    with pytest.raises(BackendError, match=r"failed on images of \(1, 64, 96, 3\) uint8: .* 1 to 4 of \(64, 64, 3\)"):
        backend.infer(np.zeros((1, 64, 96, 3), np.uint8), *thresholds(1))
    with pytest.raises(BackendError, match="float32"):
        backend.infer(np.zeros((1, 64, 64, 3), np.float32), *thresholds(1))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match=r"\(5, 64, 64, 3\)"):
        backend.infer(np.zeros((5, 64, 64, 3), np.uint8), *thresholds(5))
    with pytest.raises(BackendError, match="failed on images") as caught:
        backend.infer(np.zeros((1, 64, 64, 3), np.uint8), *thresholds(2))
    assert caught.value.__cause__ is not None
    assert backend.infer(np.zeros((1, 64, 64, 3), np.uint8), *thresholds(1)).num_people.tolist() == [0]


def test_artifact_of_fixed_shape(build_artifact: Callable[..., Path]) -> None:
    path = build_artifact(height=Range(64, 64, 64), width=Range(96, 96, 96), batch=Range(2, 2, 2))
    assert opened(path).infer(np.zeros((2, 64, 96, 3), np.uint8), *thresholds(2)).boxes.shape == (2, 3, 4)


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bf16")
def test_bf16_is_used_only_by_name(artifact: Path, draw_dots: Callable[..., np.ndarray]) -> None:
    backend = opened(artifact, "openvino:bf16")
    assert backend.name == "openvino:bf16"
    raw = backend.infer(draw_dots((64, 96), (0, 30, 20))[None], *thresholds(1))
    np.testing.assert_allclose(raw.keypoints[0, 0, 0, :2], (30, 20), atol=1)


def test_rejects_bf16_on_a_cpu_without_it(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(BackendUnavailable, match="bf16 was requested, but CPU here has only FP32, INT8: use backend"):
        opened(artifact, "openvino:bf16")
    assert opened(artifact).name == "openvino"


def test_another_precision_than_requested_is_an_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino.CompiledModel, "get_property", lambda *_: openvino.Type.bf16)
    with pytest.raises(BackendUnavailable, match="f32 was requested, but CPU computes in bf16"):
        opened(artifact)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"backend": "openvino:f16"}, ValueError, "one of .*openvino, openvino:bf16, .* got 'openvino:f16'"),
        ({"device": "auto"}, ValueError, "device must be cpu, gpu or gpu:N for OpenVINO, got 'auto'"),
        ({"device": "gpu:x"}, ValueError, "device must be cpu"),
        ({"device": "gpu:7"}, BackendUnavailable, r"device GPU\.7 was requested, .*has only CPU.* use device cpu"),
        ({"device": "gpu:7", "threads": 2}, ValueError, "threads is for the CPU"),
        ({"threads": 0}, ValueError, "threads must be a whole number from 1"),
    ],
)
def test_rejects_wrong_arguments(arguments: dict, error: type[Exception], message: str, artifact: Path) -> None:
    with pytest.raises(error, match=message):
        opened(artifact, **arguments)


@pytest.mark.parametrize(("device", "name"), [("GPU", "GPU.0"), ("gpu:0", "GPU.0"), ("GPU.1", "GPU.1")])
def test_gpus_by_number(artifact: Path, monkeypatch: pytest.MonkeyPatch, device: str, name: str) -> None:
    """A single GPU is called GPU by OpenVINO, several are GPU.0, GPU.1 ...; here the CPU stands in for them."""
    listed = ["CPU", "GPU"] if name == "GPU.0" else ["CPU", "GPU.0", "GPU.1"]
    real = openvino.Core.compile_model
    monkeypatch.setattr(openvino.Core, "available_devices", listed)
    monkeypatch.setattr(openvino.Core, "get_property", lambda _, device, key: {name: ["FP32"]}[device])
    monkeypatch.setattr(
        openvino.Core, "compile_model", lambda core, model, _, options: real(core, model, "CPU", options)
    )
    assert opened(artifact, device=device).device == name.lower().replace(".", ":")


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_rejects_an_artifact_for_another_backend(artifact: Path, target: str) -> None:
    contract = replace(read_contract(artifact), precision=PrecisionInfo("int8", "int8", target))
    with pytest.raises(EngineMismatch, match=f"quantized for {target} and OpenVINO .* --target openvino"):
        open_backend(artifact, contract, "openvino")


def test_auto_opens_artifacts_made_for_openvino(artifact: Path) -> None:
    contract = replace(read_contract(artifact), precision=PrecisionInfo("int8", "int8", "openvino"))
    assert isinstance(open_backend(artifact, contract), OpenVinoBackend)
    assert choose_backend(artifact, read_contract(artifact)) == "onnxruntime"


def test_rejects_a_corrupt_graph(artifact: Path, tmp_path: Path) -> None:
    model = onnx.load(artifact)
    model.graph.node[3].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "bad.onnx")
    with pytest.raises(ArtifactError, match=r"cannot load .*bad\.onnx") as caught:
        open_backend(tmp_path / "bad.onnx", read_contract(artifact), "openvino")
    assert caught.value.__cause__ is not None


def test_rejects_a_graph_that_does_not_match_its_contract(artifact: Path, tmp_path: Path) -> None:
    contract = read_contract(artifact)
    with pytest.raises(ArtifactError, match=r"output boxes should be \(batch, \*\[2, 4\]\) float32, is .*\[3, 4\]"):
        open_backend(artifact, replace(contract, nms=NmsInfo(max_people=2)), "openvino")
    with pytest.raises(ArtifactError, match="output keypoints should be"):
        open_backend(artifact, replace(contract, skeleton=LSP_14), "openvino")
    model = onnx.load(artifact)
    del model.graph.output[-1]
    onnx.save(model, tmp_path / "short.onnx")
    with pytest.raises(ArtifactError, match=r"output flags should be .* is absent"):
        open_backend(tmp_path / "short.onnx", contract, "openvino")
    model.graph.input[1].name = "confidence"
    for node in model.graph.node:
        node.input[:] = ["confidence" if name == "score_threshold" else name for name in node.input]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match=r"its inputs are .*'confidence': 'float32'"):
        open_backend(tmp_path / "other.onnx", contract, "openvino")


def test_openvino_is_not_installed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match=r'pip install "yolopose\[openvino\]"'):
        opened(artifact)
