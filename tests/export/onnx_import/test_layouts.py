"""Recognition of layouts: what each layout needs, and the message for files without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolopose.export.command import main
from yolopose.export.onnx_import.layouts import recognize
from yolopose.export.onnx_import.onnx_file import read_onnx_file
from yolopose.runtime.errors import UnknownCheckpoint

from ...ultralytics_files import unpacked


def small(
    *outputs: list[int | str],
    given: tuple[Any, ...] = (1, 3, 64, 64),
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    metadata: dict[str, str] | None = None,
    domain: str = "",
) -> onnx.ModelProto:
    """A graph that expands the mean of its input to outputs of these shapes."""
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
    ("model", "message"),
    [
        (
            small([1, 84, 84], metadata={"task": "detect", "stride": "32"}),
            "is for detection .*give a pose network",
        ),
        (small([1, 116, 84], [1, 32, 16, 16], metadata={"task": "segment"}), "is for segmentation"),
        (small([1, 1000], metadata={"task": "classify"}), "is for classification"),
        (small([1, 1000]), r"has no known layout .*\[1, 1000\]"),
        (small([1, 10, 11]), "has no known layout .*yolov5: 10 rows are not three anchors"),
        (
            small([1, 73, 84], metadata={**POSE, "kpt_shape": "[17, 4]"}),
            r"keypoints are \[17, 4\]: \[K, 3\] or \[K, 2\]",
        ),
        (
            small([1, 40, 84], metadata={**POSE, "kpt_shape": "[17, 2]"}),
            "40 features are not .* keypoints of 2 numbers",
        ),
        (small([1, 56, 84], [1, 56, 84]), "needs one output, there are 2"),
        (small([1, 84, 57]), "may be .*ultralytics-people.*yolox.*choose one by --layout"),
        (small([1, 56, 86], metadata=POSE), "86 columns are not the cells of strides 8, 16, 32"),
        (small([1, 57, 84], metadata=POSE), "57 features are not a box, 1 classes and keypoints of 3 numbers"),
        (small([1, 56, 84], given=(1, 64, 64, 3)), "should take three channels first"),
        (small([1, 56, 84], given=(1, 3, 64)), "should take one float32"),
        (small([1, 56, 84], kind=TensorProto.UINT8), "should take one float32"),
        (small([1, 56, 84], domain="TRT"), "operators that are not standard ONNX .*EfficientNMS_TRT"),
        (small([1, 56, 84], opset=19), "has opset 19, supported are 11 to 18: export it with opset 18"),
        (small([1, 56, 84], opset=9), "has opset 9, supported are 11 to 18"),
    ],
)
def test_rejects_files_without_a_known_pose_layout(
    model: onnx.ModelProto, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.onnx"
    onnx.save(model, path)
    with pytest.raises(UnknownCheckpoint, match=message):
        recognize(read_onnx_file(path))
    assert main(["--weights", str(path)]) == 1
    assert "some.onnx" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["some.onnx"]


def test_reads_the_number_of_classes_from_metadata(tmp_path: Path) -> None:
    names = "{0: 'rider', 1: 'walker'}"
    path = tmp_path / "two.onnx"
    onnx.save(small([1, 57, 84], metadata={**POSE, "names": names}), path)
    layout = recognize(read_onnx_file(path))
    assert (layout.num_classes, layout.keypoints, layout.num_keypoints) == (2, 6, 17)


@pytest.mark.parametrize(
    ("name", "suppression"),
    [
        ("yolov8n-pose-fixed.onnx", "added"),
        ("yolov8n-pose-people.onnx", "in the source file"),
        ("yolo26n-pose-people.onnx", "not needed"),
    ],
)
def test_tells_files_with_nms_from_heads_without(name: str, suppression: str, tmp_path: Path) -> None:
    assert recognize(read_onnx_file(unpacked(name, tmp_path))).suppression == suppression
