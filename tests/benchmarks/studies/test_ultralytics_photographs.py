"""The comparison with Ultralytics' predict; a script stands in for the environment that has Ultralytics."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from yolopose.benchmarks.studies.ultralytics_photographs import clipped, compare_letterboxes, compare_ways_back, main
from yolopose.runtime import PoseResult
from yolopose.runtime.letterbox import letterbox

from ...ultralytics_files import frames, unpacked

STAND_IN = """
import json, shutil, sys
from pathlib import Path
import cv2
import numpy as np
from yolopose.benchmarks.studies.ultralytics_parity import people_of_artifact
from yolopose.runtime.letterbox import letterbox
_, _, task, network, folder, *_ = sys.argv
folder = Path(folder)
if task == "export":
    shutil.copy(folder / "golden.onnx", folder / "exported.onnx")
if task == "people":
    images = [cv2.imread(name) for name in (folder / "photographs.txt").read_text().splitlines()]
    placed = [letterbox(image, (96, 96)) for image in images]
    pixels = np.stack([frame for frame, _ in placed])
    found = list(people_of_artifact(folder / "exported.onnx-yolopose.onnx", pixels, 1))
    rows = {"frame": [], "image": []}
    for people, (_, placement), image in zip(found, placed, images):
        limits = (image.shape[1], image.shape[0])
        for kind in rows:
            boxes, points = people.boxes, people.keypoints
            if kind == "image":
                boxes = placement.boxes_to_image(boxes).clip(0, limits * 2)
                points = placement.to_image(points).clip(0, limits)
            points = np.concatenate((points, people.keypoint_scores[..., None]), axis=2).reshape(len(boxes), -1)
            rows[kind].append(np.concatenate((boxes, people.scores[:, None], 0 * people.scores[:, None], points), 1))
    np.savez(
        folder / "people.npz", frames=pixels, counts=[len(p) for p in found],
        **{kind: np.concatenate(parts) for kind, parts in rows.items()},
    )
if task == "time":
    print("noise")
    print(json.dumps({"samples": {"whole": [30.0, 20.0, 40.0], "bare": [10.0, 10.0, 10.0]}, "versions": {"it": "1"}}))
"""


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    output.mkdir()
    for index, frame in enumerate(frames()):
        cv2.imwrite(str(images / f"{index}.png"), frame[: 90 - index])
    unpacked("yolov8n-pose-fixed.onnx", tmp_path).rename(output / "golden.onnx")
    weights = unpacked("yolov8n-pose.pt", tmp_path)
    (tmp_path / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "stand_in.py"} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    words = [weights, "--ultralytics", python, "--images", images, "--imgsz", 96, "--rounds", 1, "--iterations", 3]
    assert main([str(word) for word in (*words, "--output", output, "--json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["letterbox"] == {"largest_step": 0, "images_beyond_one_step": 0, "share_differing": 0.0}
    assert document["ways_back_px"] <= 1e-4
    for kind in ("same_frames", "photographs"):
        found = document["from its ONNX"][kind]
        assert found["people"] == found["matched"] >= 10
        assert found["max_px"] <= 1e-3
    table = {(row["name"], row["kind"]): row for row in document["time"]["table"]}
    assert table["ultralytics", "whole"]["p50_ms"] == 30
    assert table["ultralytics", "whole"]["p90_ms"] == 40
    assert table["ultralytics", "whole"]["ratios"] == [3.0]
    assert table["from the .pt", "bare"]["ratio"] == table["from the .pt", "bare"]["p50_ms"] / 10
    assert document["time"]["versions"]["it"] == "1"
    python.write_text("#!/bin/sh\necho torch is broken >&2\nexit 1\n", encoding="utf-8")
    assert main([str(word) for word in (*words, "--output", output)]) == 1
    assert "Ultralytics failed: torch is broken" in capsys.readouterr().err


def people_at(keypoints: np.ndarray) -> PoseResult:
    count = len(keypoints)
    boxes = np.tile(np.float32([-3, 2, 50, 70]), (count, 1))
    return PoseResult(
        boxes=boxes, scores=np.ones(count, np.float32), labels=np.zeros(count, np.int32), keypoints=keypoints,
        keypoint_scores=np.ones(keypoints.shape[:2], np.float32), num_candidates=count,
    )  # fmt: skip


def test_differences_are_measured(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 250, (60, 40, 3), dtype=np.uint8)
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), image)
    frame, placement = letterbox(image, (96, 96))
    brighter = frame.copy()
    brighter[40, 40] += 1
    assert compare_letterboxes([file], brighter[None])["largest_step"] == 1
    brighter[40, 40, 0] += 1
    assert compare_letterboxes([file], brighter[None])["images_beyond_one_step"] == 1
    framed = people_at(np.float32([[[30, 30], [60, 80]]]))
    back = clipped(people_at(placement.to_image(framed.keypoints)), image)
    assert back.boxes.tolist() == [[0, 2, 40, 60]]
    assert compare_ways_back([file], 96, [framed], [back]) == 0
    moved = people_at(back.keypoints + np.float32(0.25))
    assert compare_ways_back([file], 96, [framed], [moved]) == 0.25
