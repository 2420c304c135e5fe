"""Networks of ours written as others write theirs, and taken up again: the same people; and what cannot be taken up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import yolopose
from yolopose.deploy.reference import ReferenceEstimator
from yolopose.export.command import main
from yolopose.export.onnx_export import export_module
from yolopose.export.onnx_import.layouts import recognise
from yolopose.export.onnx_import.onnx_file import read_onnx_file
from yolopose.export.verify import compare_people
from yolopose.model.pose_net import PoseNet
from yolopose.runtime import PoseEstimator, read_contract
from yolopose.runtime.contract import Range
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint


def tamed(boxes: Tensor) -> Tensor:
    """Of random weights: sizes are exponentials, 0 or beyond any picture, and boxes without area match nothing."""
    low, high = boxes[..., :2], boxes[..., 2:]
    centre, size = ((low + high) / 2).clamp(-300, 300), (high - low).clamp(20, 200)
    return torch.cat((centre - size / 2, centre + size / 2), dim=-1)


class Rows(nn.Module):
    """(B, N, 6 + 3K): centre and size, objectness, class, keypoints."""

    def __init__(self, net: PoseNet, tame: bool = False) -> None:
        super().__init__()
        self.net, self.tame = net, tame

    def forward(self, images: Tensor) -> Tensor:
        found = self.net(images)
        boxes = tamed(found.boxes) if self.tame else found.boxes
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
        boxes = torch.gather(tamed(found.boxes), 1, best[..., None].expand(-1, -1, 4))
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
def test_dense_rows_come_back_as_the_same_people(
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
    # And with the network itself, of whose input the layout knows all.
    reference = ReferenceEstimator(net, shape_hw=(size, size), max_candidates=400)
    with PoseEstimator(artifact) as estimate:
        pictures = [PoseEstimatorImage(path) for path in photographs[:3]]
        reference.score_threshold = estimate.score_threshold = reference.threshold_for(10, pictures)
        found = compare_people(
            reference(pictures), estimate(pictures), net.skeleton, estimate.score_threshold, iou_threshold=0.65
        )
    assert found.matched >= 9
    assert (found.missing, found.extra) == (0, 0)
    assert found.max_px is not None
    assert found.max_px <= 0.05


def PoseEstimatorImage(path: Path) -> np.ndarray:
    from yolopose.runtime import read_image

    return read_image(path)


@pytest.fixture(scope="module")
def net() -> PoseNet:
    torch.manual_seed(0)
    return yolopose.build(replace(yolopose.SIZES["yolox-pose-nano"], width=0.125)).eval()


def test_mmdeploys_people(trained_checkpoint: Path, photographs: list[Path], tmp_path: Path) -> None:
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


def test_edgeais_list_of_people(trained_checkpoint: Path, photographs: list[Path], tmp_path: Path) -> None:
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


# What cannot be taken up


def small(
    *outputs: list[int | str],
    given: tuple[Any, ...] = (1, 3, 64, 64),
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    metadata: dict[str, str] | None = None,
    domain: str = "",
) -> onnx.ModelProto:
    """A graph that sums its input and spreads the sum over outputs of these shapes."""
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], keepdims=0),
    ]
    initializers = []
    for i, shape in enumerate(outputs):
        initializers.append(numpy_helper.from_array(np.array([int(size) for size in shape]), f"shape{i}"))
        nodes.append(helper.make_node("Expand", ["mean", f"shape{i}"], [f"output{i}"]))
    if domain:
        nodes.append(helper.make_node("EfficientNMS_TRT", ["mean"], ["more"], domain=domain))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("images", kind, list(given))],
        [helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, list(s)) for i, s in enumerate(outputs)],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    helper.set_model_props(model, metadata or {})
    return model


POSE = {"kpt_shape": "[17, 3]", "names": "{0: 'person'}", "stride": "32", "task": "pose"}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            small([1, 84, 84], metadata={"task": "detect", "stride": "32"}),
            "is for detection .*a pose network is wanted",
        ),
        (small([1, 116, 84], [1, 32, 16, 16], metadata={"task": "segment"}), "is for segmentation"),
        (small([1, 1000], metadata={"task": "classify"}), "is for classification"),
        (small([1, 1000]), r"\[1, 1000\] is no layout that is known"),
        (small([1, 10, 11]), "is no layout that is known.*yolov5: 10 rows are not three anchors"),
        (small([1, 39, 84], metadata={**POSE, "kpt_shape": "[17, 2]"}), r"keypoints are \[17, 2\], without visibility"),
        (small([1, 56, 84], [1, 56, 84]), "one output is wanted, there are 2"),
        (small([1, 84, 57]), "may be .*ultralytics-people.*yolox.*say which by --layout"),
        (small([1, 56, 86], metadata=POSE), "86 columns are not the cells of strides 8, 16, 32"),
        (small([1, 57, 84], metadata=POSE), "57 features are not a box, 1 classes and keypoints of three numbers"),
        (small([1, 56, 84], given=(1, 64, 64, 3)), "should take three channels first"),
        (small([1, 56, 84], given=(1, 3, 64)), "should take one float32"),
        (small([1, 56, 84], kind=TensorProto.UINT8), "should take one float32"),
        (small([1, 56, 84], domain="TRT"), "operators that are not ONNX's own .*EfficientNMS_TRT"),
        (small([1, 56, 84], opset=19), "has opset 19, and 11 to 18 are read: export it with opset 18"),
        (small([1, 56, 84], opset=9), "has opset 9, and 11 to 18 are read"),
    ],
)
def test_what_is_no_pose_network_is_said(
    model: onnx.ModelProto, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.onnx"
    onnx.save(model, path)
    with pytest.raises(UnknownCheckpoint, match=said):
        recognise(read_onnx_file(path))
    assert main(["--weights", str(path)]) == 1
    assert "some.onnx" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["some.onnx"]


def test_float16_quantized_and_damaged_files(net: PoseNet, tmp_path: Path) -> None:
    path = written(Rows(net), tmp_path / "rows.onnx", 64, ("output",))
    model = onnx.load(path)
    half = onnx.ModelProto()
    half.CopyFrom(model)
    half.graph.initializer[0].data_type = TensorProto.FLOAT16
    onnx.save(half, tmp_path / "half.onnx")
    with pytest.raises(UnknownCheckpoint, match=r"is float16 already: give the float32 export, --fp16"):
        read_onnx_file(tmp_path / "half.onnx")
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    quantized.graph.node.add(op_type="QuantizeLinear", input=["a", "b"], output=["c"])
    onnx.save(quantized, tmp_path / "int8.onnx")
    with pytest.raises(UnknownCheckpoint, match=r"is quantized already \(QuantizeLinear\)"):
        read_onnx_file(tmp_path / "int8.onnx")
    onnx.save(model, tmp_path / "parts.onnx", save_as_external_data=True, location="parts.bin", size_threshold=0)
    (tmp_path / "parts.bin").unlink()
    with pytest.raises(CheckpointError, match=r"parts\.onnx keeps its weights in another file, which is not beside"):
        read_onnx_file(tmp_path / "parts.onnx")
    (tmp_path / "cut.onnx").write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cannot read .*cut\.onnx"):
        read_onnx_file(tmp_path / "cut.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        read_onnx_file(tmp_path / "none.onnx")


def test_several_classes_are_kept_apart(tmp_path: Path) -> None:
    names = "{0: 'rider', 1: 'walker'}"
    path = tmp_path / "two.onnx"
    onnx.save(small([1, 57, 84], metadata={**POSE, "names": names}), path)
    layout = recognise(read_onnx_file(path))
    assert (layout.num_classes, layout.keypoints, layout.num_keypoints) == (2, 6, 17)


def test_layout_is_for_foreign_files(tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--weights", str(tiny_weights), "--layout", "yolov5"]) == 2
    assert "--layout is for .onnx files of others" in capsys.readouterr().err
