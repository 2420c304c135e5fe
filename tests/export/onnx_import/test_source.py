"""Third-party ONNX files through the whole export: networks written as other tools write them give the same people.

Files and people of Ultralytics itself, for ONNX files and checkpoints, come from tests/ultralytics_files.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import yolopose
from yolopose.benchmarks.studies.ultralytics_parity import compare
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.export.command import main
from yolopose.export.onnx_export import export_module
from yolopose.export.verify import compare_people
from yolopose.model.pose_net import PoseNet
from yolopose.runtime import PoseEstimator, read_contract, read_image
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
        ("yolov8n-pose-fixed.onnx", (1, 3), "ultralytics"),  # its batch becomes dynamic
        ("yolov8n-pose-people.onnx", (1,), "ultralytics-people"),
        ("yolo11n-pose-dynamic.onnx", (1, 4), "ultralytics"),
        ("yolo26n-pose-people.onnx", (1,), "ultralytics-people"),
    ],
)
def test_onnx_files_give_the_people_of_ultralytics(
    name: str, batches: tuple[int, ...], family: str, tmp_path: Path
) -> None:
    artifact = imported(name, tmp_path, "--keypoints", "best")
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
    artifact = imported(name, tmp_path, "--keypoints", "best")
    for batch in (1, 4):
        found = compare(artifact, frames(), people_of(name), batch)
        assert found["people"] >= 20
        assert (found["not_converged"], found["missing"], found["extra"]) == (0, 0, 0)
        assert found["matched"] + found["borderline"] == found["people"]
        assert found["max_px"] <= 1e-3
        assert found["max_score_deviation"] <= 1e-5
    assert_backends_agree(artifact)
    contract = read_contract(artifact)
    assert f"{contract.model.name}.pt" == name
    assert contract.nms.candidates == (100 if "26" in name else 300)
    assert contract.provenance.weights_licence == "AGPL-3.0 License (https://ultralytics.com/license)"
    assert contract.parity is not None
    assert contract.parity.verdict == "passed"


@pytest.mark.parametrize(
    ("name", "keypoints"),
    [
        ("yolov8n-pose-fixed.onnx", "best"),
        ("yolov8n-pose-fixed.onnx", "consensus"),
        ("yolov8n-pose-people.onnx", "best"),
    ],
)
def test_keypoints_without_visibility_have_score_1(name: str, keypoints: str, tmp_path: Path) -> None:
    whole = unpacked(name, tmp_path)
    model = onnx.load(whole)
    (output,) = model.graph.output
    axis = 2 if "people" in name else 1  # of the features
    first = 6 if "people" in name else 5  # column of the keypoints
    columns = [i for i in range(first + 51) if i < first or (i - first) % 3 < 2]
    model.graph.initializer.append(numpy_helper.from_array(np.array(columns, np.int64), "columns"))
    model.graph.node.append(helper.make_node("Gather", [output.name, "columns"], ["two numbers"], axis=axis))
    output.name = "two numbers"
    output.type.tensor_type.shape.dim[axis].dim_value = len(columns)
    for entry in model.metadata_props:
        entry.value = "[17, 2]" if entry.key == "kpt_shape" else entry.value
    onnx.save(model, tmp_path / "two.onnx")
    people = []
    for weights in (whole, tmp_path / "two.onnx"):
        output_path = tmp_path / f"{weights.stem}-exported.onnx"
        words = ["--weights", weights, "--output", output_path, "--limit", 2, "--keypoints", keypoints]
        assert main([str(word) for word in words]) == 0
        with PoseEstimator(output_path) as estimate:
            people.append([estimate(frame) for frame in frames()])
    for expected, found in zip(*people, strict=True):
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)
        np.testing.assert_allclose(found.keypoint_scores, 1, atol=1e-6)
        if keypoints == "best":
            np.testing.assert_allclose(found.pose_scores, found.scores, atol=1e-6)


@pytest.mark.parametrize("name", ["yolov8n-pose-fixed.onnx", "yolo11n-pose-dynamic.onnx", "yolo26n-pose-people.onnx"])
def test_backends_agree_on_imported_networks(name: str, tmp_path: Path) -> None:
    assert_backends_agree(imported(name, tmp_path))


def assert_backends_agree(artifact: Path) -> None:
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
    """Attention, and a head without NMS: the command says that --candidates has no effect."""
    half = imported("yolo26n-pose.pt", tmp_path, "--fp16", "--imgsz", 96, "--candidates", 200)
    assert "--candidates and --iou have no effect" in capsys.readouterr().err
    parity = read_contract(half).parity
    assert parity is not None
    assert parity.verdict in ("passed", "unverified")
    with PoseEstimator(half) as estimate:
        assert len(estimate(frames()[0])) >= len(people_of("yolo26n-pose.pt")[0]) // 2


@pytest.mark.slow
def test_int8_of_a_checkpoint(tmp_path: Path) -> None:
    """Attention and no NMS. Random weights find arbitrary people in synthetic scenes: tests that int8 is made, judged
    and run."""
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


def test_iou_threshold_has_no_effect_where_each_person_comes_once(tmp_path: Path) -> None:
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


def test_fixed_dimensions_stay_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = unpacked("yolov8n-pose-fixed.onnx", tmp_path)
    for words, message in (
        (("--imgsz", 64, 64), "--imgsz (64, 64): the source is fixed to (96, 96)"),
        (("--output", source), "is the file given as --weights"),
        (("--layout", "yolov5"), "does not have the layout yolov5"),
    ):
        assert main([str(word) for word in ("--weights", source, *words)]) in (1, 2)
        assert message in capsys.readouterr().err
    assert main(["--weights", str(source), "--limit", "1"]) == 0
    assert (tmp_path / "yolov8n-pose-fixed-yolopose.onnx").exists()
    assert main(["--weights", str(tmp_path / "yolov8n-pose-fixed-yolopose.onnx")]) == 1
    assert "was exported by yolopose" in capsys.readouterr().err


def usual_sizes(boxes: Tensor) -> Tensor:
    """Boxes of usual size: random weights give sizes of 0 or beyond any image, and boxes without area match nothing."""
    low, high = boxes[..., :2], boxes[..., 2:]
    center, size = ((low + high) / 2).clamp(-300, 300), (high - low).clamp(20, 200)
    return torch.cat((center - size / 2, center + size / 2), dim=-1)


class Rows(nn.Module):
    """(B, N, 6 + 3K): center and size, objectness, class, keypoints."""

    def __init__(self, net: PoseNet, clamp: bool = False) -> None:
        super().__init__()
        self.net, self.clamp = net, clamp

    def forward(self, images: Tensor) -> Tensor:
        found = self.net(images)
        boxes = usual_sizes(found.boxes) if self.clamp else found.boxes
        low, high = boxes[..., :2], boxes[..., 2:]
        points = torch.cat((found.keypoints, found.keypoint_scores[..., None]), dim=3).flatten(2)
        one = torch.ones_like(found.scores)
        return torch.cat(((low + high) / 2, high - low, found.scores, one, points), dim=2)


class People(nn.Module):
    """The best rows as mmdeploy writes people: boxes (B, R, 5) and keypoints (B, R, K, 3)."""

    def __init__(self, net: PoseNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.net(images)
        scores, best = found.scores[..., 0].topk(40, dim=1)
        points = torch.cat((found.keypoints, found.keypoint_scores[..., None]), dim=3)
        boxes = torch.gather(usual_sizes(found.boxes), 1, best[..., None].expand(-1, -1, 4))
        rows = torch.gather(points.flatten(2), 1, best[..., None].expand(-1, -1, points[0, 0].numel()))
        return torch.cat((boxes, scores[..., None]), dim=2), rows.unflatten(2, points.shape[2:])


def written(module: nn.Module, path: Path, size: int, names: tuple[str, ...], dynamic: bool = True) -> Path:
    images = torch.zeros((2 if dynamic else 1, 3, size, size))
    shapes: Any = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    model = export_module(module.eval(), (images,), ("images",), names, shapes)
    onnx.save(model, path)
    return path


def photographs_of(folder: Path, photographs: list[Path]) -> Path:
    folder.mkdir()
    for path in photographs[:3]:
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize(
    ("checkpoint", "layout", "size"),
    [
        ("edgeai_yolov5_s6_pose_narrow.pt", "yolov5", 128),
        ("yolov7_w6_pose_narrow.pt", "yolov5", 128),
        ("edgeai_yolox_s_pose_ti_lite_narrow.pth", "yolox", 128),
        ("mmpose_yoloxpose_s_narrow.pth", "yolox", 128),
    ],
)
def test_rows_of_predictions_give_the_same_people(
    checkpoints: Path, photographs: list[Path], tmp_path: Path, checkpoint: str, layout: str, size: int
) -> None:
    net = yolopose.load(checkpoints / checkpoint)
    dynamic = "edgeai" in checkpoint  # the others are fixed to one image, by constants that do not open
    source = written(Rows(net, layout == "yolox"), tmp_path / "rows.onnx", size, ("output",), dynamic)
    artifact = tmp_path / "imported.onnx"
    images = photographs_of(tmp_path / "images", photographs)
    words = ["--weights", source, "--output", artifact, "--images", images, "--candidates", 400]
    assert main([*map(str, words), "--layout", layout]) == 0
    contract = read_contract(artifact)
    assert (contract.model.family, contract.input.height, contract.input.batch) == (
        layout,
        Range(size, size, size),
        Range(1, 1, 64) if dynamic else Range(1, 1, 1),
    )
    if layout == "yolox":
        return
    # Also the same people as the network itself, whose input the layout describes fully.
    reference = ReferenceEstimator(net, shape_hw=(size, size), max_candidates=400)
    with PoseEstimator(artifact) as estimate:
        photos = [read_image(path) for path in photographs[:3]]
        reference.score_threshold = estimate.score_threshold = reference.threshold_for(10, photos)
        found = compare_people(
            reference(photos), estimate(photos), net.skeleton, estimate.score_threshold, iou_threshold=0.65
        )
    assert found.matched >= 9
    assert (found.missing, found.extra) == (0, 0)
    assert found.max_px is not None
    assert found.max_px <= 0.05


def test_people_as_mmdeploy_writes_them(trained_checkpoint: Path, photographs: list[Path], tmp_path: Path) -> None:
    source = written(People(yolopose.load(trained_checkpoint)), tmp_path / "people.onnx", 128, ("dets", "keypoints"))
    artifact = tmp_path / "imported.onnx"
    images = photographs_of(tmp_path / "images", photographs)
    words = ["--weights", source, "--output", artifact, "--images", images, "--max-people", 20]
    assert main([str(word) for word in words]) == 0
    contract = read_contract(artifact)
    assert contract.model.family == "mmdeploy"
    assert (contract.nms.candidates, contract.nms.max_people) == (20, 20)
    assert contract.parity is not None
    assert contract.parity.matched_people
    assert contract.parity.max_px is not None
    assert contract.parity.max_px <= 0.05


def test_list_of_people_as_edgeai_yolov5_writes_it(
    trained_checkpoint: Path, photographs: list[Path], tmp_path: Path
) -> None:
    """One list of rows for one image, as long as there are people in it."""
    module = People(yolopose.load(trained_checkpoint))
    path = written(module, tmp_path / "people.onnx", 128, ("dets", "points"), dynamic=False)
    model = onnx.load(path)
    graph = model.graph
    constants = {
        "first": np.array([0]), "columns": np.array([40, 42]), "four": np.array([4]), "five": np.array([5]),
        "one": np.array([1]), "limit": np.float32(1e-4), "flat": np.array([-1]), "class": np.zeros((40, 1), np.float32),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(
        [
            helper.make_node("Squeeze", ["dets", "first"], ["boxes"]),
            helper.make_node("Reshape", ["points", "columns"], ["rows"]),
            helper.make_node("Slice", ["boxes", "four", "five", "one"], ["score"]),
            helper.make_node("Concat", ["boxes", "class", "rows"], ["all"], axis=1),
            helper.make_node("Reshape", ["score", "flat"], ["scores"]),
            helper.make_node("Greater", ["scores", "limit"], ["some"]),
            helper.make_node("Compress", ["all", "some"], ["detections"], axis=0),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["people", 48]))
    onnx.save(model, path)
    artifact = tmp_path / "imported.onnx"
    images = photographs_of(tmp_path / "images", photographs)
    words = ["--weights", path, "--output", artifact, "--images", images, "--layout", "edgeai-people"]
    assert main([str(word) for word in words]) == 0
    contract = read_contract(artifact)
    assert (contract.model.family, contract.input.batch) == ("edgeai-people", Range(1, 1, 1))
    assert contract.parity is not None
    assert contract.parity.max_px is not None
    assert contract.parity.max_px <= 0.05
