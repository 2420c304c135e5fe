"""Scenes as a folder in COCO format: images/ and person_keypoints.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from yolopose.runtime.errors import OutputError
from yolopose.runtime.output import atomic_write, output_folder

if TYPE_CHECKING:
    from .scene import LabelledPerson, SyntheticScenes

IMAGE_FORMATS: dict[str, list[int]] = {"png": [], "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95]}


def save_coco(scenes: SyntheticScenes, folder: Path, image_format: str = "png") -> Path:
    """Write folder/images/*.png (or .jpg, quality 95) and folder/person_keypoints.json; returns the latter's path.

    The labels come last and are renamed into place, so that they never name an image that is not there.
    Raises OutputError where the folder cannot be written.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be one of {list(IMAGE_FORMATS)}, got {image_format!r}")
    output_folder(folder / "images")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, scene in enumerate(scenes):
        name = f"{index:06d}.{image_format}"
        _write_image(folder / "images" / name, scene.image)
        images.append(
            {"id": index + 1, "file_name": name, "width": scene.image.shape[1], "height": scene.image.shape[0]}
        )
        for person in scene.people:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **_annotation(person)})
    skeleton = scenes.skeleton
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(skeleton.names)}
    category["skeleton"] = [[a + 1, b + 1] for a, b in skeleton.limbs]  # COCO counts keypoints from 1
    width, height = scenes.size_wh
    about = f"yolopose synthetic scenes, seed {scenes.seed}, {len(scenes)} images of {width}x{height}"
    document = {
        "info": {"description": about},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [category],
    }
    path = folder / "person_keypoints.json"
    atomic_write(path, json.dumps(document))
    return path


def _annotation(person: LabelledPerson) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(value) for value in person["bbox"])
    keypoints = person["keypoints"]
    flat = [value for x, y, v in keypoints for value in (round(float(x), 2), round(float(y), 2), int(v))]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": person["area"],
        "num_keypoints": int(np.count_nonzero(keypoints[:, 2])),
        "keypoints": flat,
    }


def _write_image(path: Path, image: np.ndarray) -> None:
    done, data = cv2.imencode(path.suffix, image, IMAGE_FORMATS[path.suffix[1:]])
    if not done:
        raise OutputError(f"OpenCV could not encode {path.name}")
    atomic_write(path, data.tobytes())
