"""Ultralytics' files, ONNX and checkpoints, and its own people of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from yolopose.benchmarks.studies.ultralytics_parity import compare
from yolopose.export.command import main
from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.contract import Range

from ...ultralytics_files import frames, people_of, unpacked


def imported(name: str, folder: Path, *flags: object) -> Path:
    output = folder / "imported.onnx"
    words = ["--weights", unpacked(name, folder), "--output", output, "--limit", 2, *flags]
    assert main([str(word) for word in words]) == 0
    return output


@pytest.mark.parametrize(
    ("name", "batches", "family"),
    [
        ("yolov8n-pose-fixed.onnx", (1, 3), "ultralytics"),  # its batch is opened
        ("yolov8n-pose-people.onnx", (1,), "ultralytics-people"),
        ("yolo11n-pose-dynamic.onnx", (1, 4), "ultralytics"),
        ("yolo26n-pose-people.onnx", (1,), "ultralytics-people"),
    ],
)
def test_people_are_those_of_ultralytics(name: str, batches: tuple[int, ...], family: str, tmp_path: Path) -> None:
    artifact = imported(name, tmp_path)
    for batch in batches:
        found = compare(artifact, frames(), people_of(name), batch)
        assert found["people"] >= 20
        assert found["not_converged"] == 0
        assert found["matched"] + found["borderline"] == found["people"]
        assert (found["missing"], found["extra"]) == (0, 0)
        assert found["max_px"] <= 0.05
        assert found["max_score_deviation"] <= 1e-4
    contract = read_contract(artifact)
    assert contract.model.family == family
    assert contract.provenance.weights_licence == "AGPL-3.0 License (https://ultralytics.com/license)"
    assert contract.skeleton.name == "coco-17"
    assert contract.input.pad_side == "center"
    assert contract.input.batch == (Range(1, 1, 64) if len(batches) > 1 else Range(1, 1, 1))
    if "dynamic" in name:
        assert contract.input.height == Range(32, 96, 4096, 32)
    else:
        assert contract.input.height == Range(96, 96, 96)


@pytest.mark.parametrize("name", ["yolov8n-pose.pt", "yolo11n-pose.pt", "yolo26n-pose.pt"])
def test_checkpoints_give_the_people_of_ultralytics(name: str, tmp_path: Path) -> None:
    artifact = imported(name, tmp_path)
    for batch in (1, 4):
        found = compare(artifact, frames(), people_of(name), batch)
        assert found["people"] >= 20
        assert (found["not_converged"], found["missing"], found["extra"]) == (0, 0, 0)
        assert found["matched"] + found["borderline"] == found["people"]
        assert found["max_px"] <= 1e-3
        assert found["max_score_deviation"] <= 1e-5
    assert_engines_agree(artifact)
    contract = read_contract(artifact)
    assert f"{contract.model.name}.pt" == name
    assert contract.nms.candidates == (100 if "26" in name else 300)
    assert contract.provenance.weights_licence == "AGPL-3.0 License (https://ultralytics.com/license)"
    assert contract.parity is not None
    assert contract.parity.verdict == "passed"


@pytest.mark.parametrize("name", ["yolov8n-pose-fixed.onnx", "yolo11n-pose-dynamic.onnx", "yolo26n-pose-people.onnx"])
def test_every_engine_takes_what_was_imported(name: str, tmp_path: Path) -> None:
    assert_engines_agree(imported(name, tmp_path))


def assert_engines_agree(artifact: Path) -> None:
    with (
        PoseEstimator(artifact, "onnxruntime", imgsz=96) as one,
        PoseEstimator(artifact, "openvino", imgsz=96) as other,
    ):
        for frame in frames():
            a, b = one(frame), other(frame)
            assert len(a) == len(b) > 0
            np.testing.assert_allclose(a.keypoints, b.keypoints, atol=0.05)
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_float16_of_an_imported_network(tmp_path: Path) -> None:
    """The prediction convolutions are found behind Ultralytics' expectation over distances, and stay float32."""
    half = imported("yolov8n-pose-fixed.onnx", tmp_path, "--fp16")
    graph = onnx.load(half).graph
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kept = [node for node in graph.node if node.op_type == "Conv" and weights[node.input[1]] == onnx.TensorProto.FLOAT]
    assert len(kept) == 9  # box, class and keypoints on three levels
    assert sum(node.op_type == "Conv" for node in graph.node) == 72  # 73, of which one was the expectation
    parity = read_contract(half).parity
    assert parity is not None
    assert parity.verdict in ("passed", "unverified")
    with PoseEstimator(half, score_threshold=0.01) as estimate:
        assert len(estimate(frames()[0])) > 0


def test_float16_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Attention, and a head without NMS, for which a flag decides nothing: that is told."""
    half = imported("yolo26n-pose.pt", tmp_path, "--fp16", "--imgsz", 96, "--candidates", 200)
    assert "--candidates and --iou decide nothing here" in capsys.readouterr().err
    parity = read_contract(half).parity
    assert parity is not None
    assert parity.verdict in ("passed", "unverified")
    with PoseEstimator(half) as estimate:
        assert len(estimate(frames()[0])) >= len(people_of("yolo26n-pose.pt")[0]) // 2


def test_the_file_that_ultralytics_wrote_beside_is_spared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = unpacked("yolov8n-pose.pt", tmp_path)
    beside = unpacked("yolov8n-pose-fixed.onnx", tmp_path).rename(tmp_path / "yolov8n-pose.onnx")
    before = beside.read_bytes()
    assert main(["--weights", str(weights), "--limit", "1"]) == 2
    assert "is there and not an artifact of yolopose: name another file with --output" in capsys.readouterr().err
    assert beside.read_bytes() == before


@pytest.mark.slow
def test_int8_of_a_checkpoint(tmp_path: Path) -> None:
    """Attention and no NMS. Random weights find whatever they find in synthetic scenes; that it is made, judged and run
    is what is tested."""
    output = tmp_path / "int8.onnx"
    words = [
        "--weights",
        unpacked("yolo26n-pose.pt", tmp_path),
        "--output",
        output,
        "--int8",
        "--imgsz",
        96,
        "--allow-unverified",
    ]
    code = main([str(word) for word in (*words, "--search-minutes", 1)])
    assert code in (0, 3)
    made = output if code == 0 else output.with_name("int8.onnx.rejected")
    graph = onnx.load(made).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 20
    if code == 0:
        with PoseEstimator(output, score_threshold=0.05) as estimate:
            assert len(estimate(frames()[0])) > 0


def test_thresholds_stay_inputs_and_finished_people_keep_the_second_one(tmp_path: Path) -> None:
    artifact = imported("yolo26n-pose-people.onnx", tmp_path)
    frame = frames()[0]
    with PoseEstimator(artifact, score_threshold=0.25) as estimate:
        many = len(estimate(frame))
        assert many == len(people_of("yolo26n-pose-people.onnx")[0])
        estimate.score_threshold = float(np.sort(estimate(frame).scores)[-3]) - 1e-6
        assert len(estimate(frame)) == 3
        estimate.score_threshold, estimate.iou_threshold = 0.25, 0.01
        assert len(estimate(frame)) == many
    assert [value.name for value in onnx.load(artifact).graph.input] == ["images", "score_threshold", "iou_threshold"]


def test_what_is_fixed_stays_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = unpacked("yolov8n-pose-fixed.onnx", tmp_path)
    for words, said in (
        (("--imgsz", 64, 64), "--imgsz (64, 64): the source is fixed to (96, 96)"),
        (("--output", source), "is the file of --weights"),
        (("--layout", "yolov5"), "is not of the layout yolov5"),
    ):
        assert main([str(word) for word in ("--weights", source, *words)]) in (1, 2)
        assert said in capsys.readouterr().err
    assert main(["--weights", str(source), "--limit", "1"]) == 0
    assert (tmp_path / "yolov8n-pose-fixed-yolopose.onnx").exists()
    assert main(["--weights", str(tmp_path / "yolov8n-pose-fixed-yolopose.onnx")]) == 1
    assert "is an artifact already" in capsys.readouterr().err


def test_explain_says_what_would_be_made_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = unpacked("yolov8n-pose-fixed.onnx", tmp_path)
    assert main(["--weights", str(source), "--explain", "--fp16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert "ultralytics layout, 17 keypoints" in lines[0]
    assert "RGB, bytes times 0.003922, letterboxed on grey 114, padded center" in lines[3]
    assert "ours, in the graph: 300 candidates, 12 rounds, 100 people" in lines[4]
    assert "float16, verified against the file itself" in lines[5]
    assert "height 96 only, width 96 only" in lines[6]
    assert "batch 1 to 64" in lines[7]
    assert lines[9].endswith(
        "yolov8n-pose-fixed-fp16.onnx; licence of the weights: AGPL-3.0 License (https://ultralytics.com/license)"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["yolov8n-pose-fixed.onnx"]
    assert main(["--weights", "demo", "--explain", "--json"]) == 0
    assert "verified against PyTorch" in capsys.readouterr().out
    finished = unpacked("yolo26n-pose-people.onnx", tmp_path)
    assert main(["--weights", str(finished), "--explain"]) == 0
    assert "none of ours: each person comes once" in capsys.readouterr().out
