"""The tiny artifact of tests/runtime (it finds bright dots), images of dots with labels, and a bare network."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from yolopose.runtime.skeleton import COCO_17

from ..runtime.conftest import dots, small_contract, write_artifact


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("artifact") / "dots.onnx", small_contract())


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images with 0, 1, 2, 3 and 1 dots, of different sizes."""
    folder = tmp_path_factory.mktemp("photographs")
    points = [(0, 20.0, 30.0), (1, 60.0, 20.0), (2, 90.0, 40.0)]
    for i, count in enumerate((0, 1, 2, 3, 1)):
        assert cv2.imwrite(str(folder / f"{i}.png"), dots((60 + 7 * i, 120), *points[:count]))
    return folder


@pytest.fixture(scope="session")
def labels(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO labels of the photographs: the artifact finds four of the five people, and no person that is not labeled."""
    document: dict[str, list[dict[str, object]]] = {"images": [], "annotations": []}
    document["categories"] = [{"id": i, "name": f"person {i}", "keypoints": list(COCO_17.names)} for i in (1, 2, 3)]
    for i, path in enumerate(sorted(photographs.iterdir())):
        height, width = cv2.imread(str(path)).shape[:2]
        document["images"].append({"id": i + 1, "file_name": path.name, "height": height, "width": width})
    keypoints = [number for k in range(17) for number in (20.0 + k, 30.0, 2)]
    # the first dot is at (20, 30), and in the first image there is none
    document["annotations"] = [_person(image_id, keypoints) for image_id in (1, 2, 3, 4, 5)]
    path = tmp_path_factory.mktemp("labels") / "person_keypoints.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _person(image_id: int, keypoints: list[float]) -> dict[str, object]:
    box, area = [16.0, 16.0, 40.0, 40.0], 1600.0
    person = {"id": image_id, "image_id": image_id, "category_id": 1, "bbox": box, "area": area, "iscrowd": 0}
    return {**person, "num_keypoints": 17, "keypoints": keypoints}


@pytest.fixture(scope="session")
def bare_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float32 NCHW in, one convolution, float32 out; the .json file describes how its input is made."""
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
