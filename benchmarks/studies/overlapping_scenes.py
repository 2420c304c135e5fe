"""``python -m yolopose.benchmarks.studies.overlapping_scenes``: photographs in which two people overlap, with labels.

A person is cut out of one photograph by its segmentation, scaled to the size of a person of another photograph, and
pasted over that person so that their boxes have a drawn IoU. Keypoints that the cut-out hides are unlabeled. The result
is a COCO data set for ``better_people`` and ``poses``: do keypoints of one person leak into the other?
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolopose.evaluation import iou_matrix
from yolopose.runtime import read_image
from yolopose.runtime.console import Console, parser, run
from yolopose.runtime.output import atomic_write, output_folder

MIN_KEYPOINTS = 9  # labeled, of both people; the person behind may keep fewer
MIN_LEFT = 5  # labeled keypoints of the person behind
MIN_HEIGHT = 80  # px of both boxes
IOUS = (0.3, 0.75)
SCALES = (0.8, 1.25)  # height of the pasted person relative to the other


def _suitable(person: dict[str, Any]) -> bool:
    return (
        not person.get("iscrowd")
        and isinstance(person.get("segmentation"), list)
        and sum(v > 0 for v in person["keypoints"][2::3]) >= MIN_KEYPOINTS
        and person["bbox"][3] >= MIN_HEIGHT
    )


def _mask(person: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) float32 0..1."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(
        mask, [np.array(part, np.float64).reshape(-1, 2).round().astype(int) for part in person["segmentation"]], 255
    )
    return np.asarray(cv2.GaussianBlur(mask, (3, 3), 0).astype(np.float32) / 255)


def _xyxy(box: Any) -> np.ndarray:
    x, y, width, height = box
    return np.array([[x, y, x + width, y + height]], np.float64)


def compose(
    behind: np.ndarray, people: list[dict[str, Any]], other: dict[str, Any], image: np.ndarray,
    front: dict[str, Any], rng: np.random.Generator,
) -> tuple[np.ndarray, list[dict[str, Any]]] | None:  # fmt: skip
    """Paste ``front`` of ``image`` over ``other``, one of the ``people`` of ``behind``; None if it does not fit."""
    scale = other["bbox"][3] / front["bbox"][3] * rng.uniform(*SCALES)
    box = np.array(front["bbox"]) * scale
    wanted, side = rng.uniform(*IOUS), rng.choice((-1, 1))
    top = other["bbox"][1] + other["bbox"][3] - box[3]
    shifts = np.arange(0, other["bbox"][2] + box[2], 2) * side
    lefts = other["bbox"][0] + (other["bbox"][2] - box[2]) / 2 + shifts
    placed = np.concatenate([_xyxy((left, top, box[2], box[3])) for left in lefts])
    ious = iou_matrix(placed, _xyxy(other["bbox"]))[:, 0]
    best = int(np.abs(ious - wanted).argmin())
    if not IOUS[0] <= ious[best] <= IOUS[1]:
        return None
    offset = np.array([lefts[best] - box[0], top - box[1]])
    height, width = behind.shape[:2]
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    size, interpolation = (width, height), cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    mask = cv2.warpAffine(_mask(front, image.shape), matrix, size, flags=interpolation)
    pixels = cv2.warpAffine(image, matrix, size, flags=interpolation)
    scene = behind * (1 - mask[..., None]) + pixels * mask[..., None]

    def covered(x: float, y: float) -> bool:
        return bool(0 <= x < width and 0 <= y < height and mask[int(y), int(x)] > 0.5)

    labels = []
    for person in people:
        points = np.array(person["keypoints"], np.float64).reshape(-1, 3)
        points[[covered(x, y) for x, y, _ in points]] = 0
        if person is other and (points[:, 2] > 0).sum() < MIN_LEFT:
            return None
        labels.append({**person, "keypoints": points.ravel().tolist()})
    points = np.array(front["keypoints"], np.float64).reshape(-1, 3)
    points[:, :2] = points[:, :2] * scale + offset
    inside = (points[:, :2] >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    points[~inside | (points[:, 2] == 0)] = 0
    if (points[:, 2] > 0).sum() < MIN_KEYPOINTS:
        return None
    corners = np.clip(placed[best], 0, [width, height, width, height])
    placed_box = [*corners[:2], *(corners[2:] - corners[:2])]
    area = front["area"] * scale**2
    labels.append({**front, "keypoints": points.ravel().tolist(), "bbox": placed_box, "area": area})
    return scene.round().astype(np.uint8), labels


def make_scenes(labels: Path, images: Path, count: int, seed: int, folder: Path) -> int:
    """Write ``folder``/images and ``folder``/person_keypoints.json; returns the number of scenes."""
    document = json.loads(labels.read_text(encoding="utf-8"))
    files = {entry["id"]: images / entry["file_name"] for entry in document["images"]}
    people: dict[int, list[dict[str, Any]]] = {}
    for person in document["annotations"]:
        people.setdefault(person["image_id"], []).append(person)
    suitable = [person for person in document["annotations"] if _suitable(person)]
    rng = np.random.default_rng(seed)
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for _ in range(20 * count):
        if len(entries) == count:
            break
        other, front = (suitable[i] for i in rng.choice(len(suitable), 2, replace=False))
        if other["image_id"] == front["image_id"]:
            continue
        behind, image = (read_image(files[person["image_id"]]) for person in (other, front))
        made = compose(behind, people[other["image_id"]], other, image, front, rng)
        if made is None:
            continue
        scene, labeled = made
        number = len(entries) + 1
        name = f"{number:04d}.png"
        cv2.imwrite(str(folder / "images" / name), scene)
        entries.append({"id": number, "file_name": name, "height": scene.shape[0], "width": scene.shape[1]})
        for person in labeled:
            seen = sum(v > 0 for v in person["keypoints"][2::3])
            annotations.append(
                {k: v for k, v in person.items() if k != "segmentation"}
                | {"id": len(annotations) + 1, "image_id": number, "num_keypoints": seen}
            )
    made_document = {"images": entries, "annotations": annotations, "categories": document["categories"]}
    atomic_write(folder / "person_keypoints.json", json.dumps(made_document) + "\n")
    return len(entries)


def build_parser() -> argparse.ArgumentParser:
    made = parser("overlapping_scenes", __doc__ or "")
    made.add_argument("labels", type=Path, help="COCO keypoint JSON with segmentations")
    made.add_argument("images", type=Path, help="folder of the images")
    made.add_argument("--count", type=int, default=200, help="scenes (default: 200)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    return made


def _main(arguments: argparse.Namespace, console: Console) -> None:
    folder = output_folder(arguments.output)
    output_folder(folder / "images")
    count = make_scenes(arguments.labels, arguments.images, arguments.count, arguments.seed, folder)
    console.result({"scenes": count, "folder": str(folder)}, f"{count} scenes in {folder}")


def main(argv: Sequence[str] | None = None) -> int:
    return run(_main, build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
