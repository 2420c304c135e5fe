"""Scenes of two overlapping people: boxes, labels and hidden keypoints are right."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from yolopose.benchmarks.studies.overlapping_scenes import IOUS, MIN_KEYPOINTS, MIN_LEFT, main
from yolopose.data.coco import read_coco
from yolopose.evaluation import iou_matrix


def person(number: int, left: float) -> dict[str, object]:
    """A person that is a rectangle 60 x 200 with 17 keypoints in three columns."""
    x, y = left + np.arange(17) % 3 * 25 + 5, 30 + np.arange(17) * 10
    keypoints = np.stack([x, y, np.full(17, 2)], axis=1).ravel().tolist()
    box = [left, 20, 60, 200]
    outline = [left, 20, left + 60, 20, left + 60, 220, left, 220]
    return {
        "id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 12000.0, "bbox": box,
        "keypoints": keypoints, "num_keypoints": 17, "segmentation": [outline],
    }  # fmt: skip


def test_scenes_have_the_labels_of_both_people(tmp_path: Path) -> None:
    colors = [(0, 0, 200), (0, 200, 0)]
    for number, color in enumerate(colors, 1):
        image = np.full((240, 320, 3), 90, np.uint8)
        left = 100 + number
        image[20:220, left : left + 60] = color
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "height": 240, "width": 320} for n in (1, 2)],
        "annotations": [person(n, 100 + n) for n in (1, 2)],
        "categories": [{"id": 1, "name": "person", "keypoints": [f"point {i}" for i in range(17)], "skeleton": []}],
    }
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(document))
    output = tmp_path / "scenes"
    assert main([str(labels), str(tmp_path), "--count", "8", "--output", str(output)]) == 0
    scenes = read_coco(output / "person_keypoints.json", output / "images")
    assert len(scenes.images) == 8
    for image_id, image in scenes.images.items():
        pixels = cv2.imread(str(image.path))
        behind, front = scenes.people[image_id]
        boxes = np.array([each.bbox_xyxy for each in (behind, front)])
        assert IOUS[0] - 0.05 <= iou_matrix(boxes, boxes)[0, 1] <= IOUS[1] + 0.05
        counts = [(each.keypoints[:, 2] > 0).sum() for each in (behind, front)]
        assert counts[0] >= MIN_LEFT
        assert counts[1] >= MIN_KEYPOINTS
        sides = [pixels[int(y), int(x)] for x, y, v in front.keypoints if v > 0]
        (color,) = {tuple(int(value) > 150 for value in pixel) for pixel in sides}  # all on the pasted person
        for x, y, v in behind.keypoints:
            if v > 0:
                assert tuple(int(value) > 150 for value in pixels[int(y), int(x)]) != color
