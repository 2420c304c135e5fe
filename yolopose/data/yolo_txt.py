"""Reads the YOLO-pose format, a YAML file and one .txt file per image, into the label types of `coco`.

Keys of the YAML file: ``path``, ``train``, ``val``, ``kpt_shape``, ``flip_idx``, ``names``, ``kpt_names``, as in
https://docs.ultralytics.com/datasets/pose/. A row of a .txt file: class, box center x, y, width, height, then x, y and
optionally v of each keypoint, all relative to the width and height of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime.errors import BackendUnavailable, DataError, SourceError
from yolopose.runtime.images import IMAGE_SUFFIXES, read_image
from yolopose.runtime.skeleton import Skeleton

from ..evaluation import AREA_OF_BOX
from .coco import CocoCategory, CocoImage, CocoKeypoints, CocoPerson, label_skeleton, raise_if_damaged
from .parallel import in_threads

_TOLERANCE = 1e-3  # rounding by which a box may leave 0..1
# Of an image that cannot be read. Wherever it is opened, it is reported as damaged, as with COCO labels.
_UNKNOWN_SIZE = (1, 1)

_HEADER = 1 << 16  # bytes of a JPEG that are searched for its size
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive JPEG: what libjpeg decodes everywhere
_NO_LENGTH = {0x01, *range(0xD0, 0xD8), 0xFF}  # markers without a length, and fill bytes


@dataclass(frozen=True)
class YoloFolder:
    """The content of the YAML file."""

    path: Path
    root: Path  # the folder to which train and val are relative
    splits: dict[str, Any]  # the YAML document, whose keys train, val, ... name images
    classes: tuple[str, ...]
    kpt_shape: tuple[int, int]  # number of keypoints; 2 (x, y) or 3 (x, y, v)
    keypoint_names: tuple[str, ...] | None
    skeleton: Skeleton
    mirror_given: bool  # the file has flip_idx: the mirror partner of each keypoint


def read_yolo(yaml_path: str | Path, split: str = "train", skeleton: Skeleton | None = None) -> CocoKeypoints:
    """Labels and images of a split. Ids count from 1 in the order of sorted paths.

    An image without .txt file has no people.
    Raises DataError with the file and line of damaged rows, for a YAML file with missing or wrong keys, for a split
    without labels, and for keypoints unlike ``skeleton``; BackendUnavailable without PyYAML.
    """
    folder = read_yolo_folder(yaml_path, skeleton)
    paths = _image_paths(folder, split)
    labels = [_label_path(path) for path in paths]
    if not any(path.is_file() for path in labels):
        raise DataError(f"{folder.path}: no labels for any of {len(paths)} {split} images; looked for {labels[0]}, ...")
    problems: list[str] = []
    images: dict[int, CocoImage] = {}
    people: dict[int, tuple[CocoPerson, ...]] = {}
    count = 0
    for image_id, (path, size, file) in enumerate(zip(paths, in_threads(image_size, paths), labels, strict=True), 1):
        images[image_id] = CocoImage(image_id, path, size or _UNKNOWN_SIZE)
        rows = _read_rows(file, folder, problems)
        people[image_id] = tuple(_person(row, count + i, images[image_id], folder) for i, row in enumerate(rows, 1))
        count += len(rows)
    raise_if_damaged(folder.path, problems)
    categories = tuple(CocoCategory(number, name) for number, name in enumerate(folder.classes, 1))
    dataset = CocoKeypoints(folder.path, images, people, categories, folder.kpt_shape[0], folder.keypoint_names)
    dataset.check_skeleton(folder.skeleton)
    return dataset


def read_yolo_folder(yaml_path: str | Path, skeleton: Skeleton | None = None) -> YoloFolder:
    """Read the YAML file alone; without ``skeleton`` with the one that it describes. Errors as in `read_yolo`."""
    path = Path(yaml_path)
    document = _read_yaml(path)
    shape = document.get("kpt_shape")
    if not (isinstance(shape, list) and len(shape) == 2 and _counts(shape) and shape[1] in (2, 3)):
        raise DataError(
            f"{path}: kpt_shape must be [keypoints, 2 or 3], got {shape!r}; are these labels of boxes only?"
        )
    flip_index = document.get("flip_idx")
    if flip_index is not None and not isinstance(flip_index, list):
        raise DataError(f"{path}: flip_idx must be a list, got {flip_index!r}")
    names = _keypoint_names(document.get("kpt_names"), shape[0], path)
    root = path.parent / str(document.get("path") or ".")
    skeleton = skeleton or label_skeleton(path, shape[0], names, flip_index)
    return YoloFolder(
        path, root, document, _classes(document, path), (shape[0], shape[1]), names, skeleton, flip_index is not None
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise BackendUnavailable(f"{path} needs PyYAML ({error}): pip install pyyaml") from None
    try:
        document = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not YAML ({error}); expected a data set in YOLO-pose format") from None
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected path, train, val, kpt_shape and names, got a {type(document).__name__}")
    return document


def _counts(values: list[Any]) -> bool:
    """Whether all values are positive integers."""
    return all(isinstance(value, int) and not isinstance(value, bool) and value > 0 for value in values)


def _classes(document: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = document.get("names")
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) != len(names):
        raise DataError(f"{path}: names must list different classes, or number them from 0, got {names!r}")
    return tuple(map(str, names))


def _keypoint_names(value: object, count: int, path: Path) -> tuple[str, ...] | None:
    """kpt_names is one list, or a dictionary with the same list for each class."""
    lists: list[Any] = list(value.values()) if isinstance(value, dict) else [value]
    if value is None or not lists:
        return None
    if any(not isinstance(names, list) or len(names) != count or names != lists[0] for names in lists):
        raise DataError(f"{path}: kpt_names must be {count} names, the same for each class, got {value!r}")
    return tuple(map(str, lists[0]))


def _image_paths(folder: YoloFolder, split: str) -> list[Path]:
    """Sorted absolute paths of a split, whose entries are folders (searched recursively) or text files with paths."""
    value = folder.splits.get(split)
    entries: list[Any] = value if isinstance(value, list) else [value]
    if not value or not all(isinstance(entry, str) for entry in entries):
        raise DataError(f"{folder.path}: {split!r} must be a folder of images or a .txt list of them, got {value!r}")
    found: set[Path] = set()
    for entry in entries:
        place = folder.root / entry
        if place.is_dir():
            inside = (path for path in place.rglob("*") if not path.name.startswith("."))
            found.update(path.absolute() for path in inside if path.suffix.lower() in IMAGE_SUFFIXES)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            found.update((place.parent / line.strip()).absolute() for line in lines if line.strip())
        else:
            raise DataError(f"{folder.path}: {split} is {place}, which does not exist; see 'path' and {split!r}")
    if not found:
        raise DataError(f"{folder.path}: no images in {split}: {value}")
    missing = sorted(path for path in found if not path.is_file())
    if missing:
        raise DataError(f"{folder.path}: {len(missing)} of {len(found)} {split} images are missing: {missing[0]}, ...")
    return sorted(found)


def _label_path(image: Path) -> Path:
    before, folder, after = image.as_posix().rpartition("/images/")
    return Path(f"{before}/labels/{after}" if folder else image).with_suffix(".txt")


def _read_rows(file: Path, folder: YoloFolder, problems: list[str]) -> list[np.ndarray]:
    """Rows of one file, float64; damaged rows are added to ``problems``."""
    if not file.is_file():
        return []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{file}: cannot be read: {error}")
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                rows.append(_read_row(line.split(), folder))
            except ValueError as error:
                problems.append(f"{file}:{number}: {error}")
    return rows


def _read_row(words: list[str], folder: YoloFolder) -> np.ndarray:
    count, columns = folder.kpt_shape
    if len(words) != 5 + count * columns:
        raise ValueError(f"{len(words)} columns, expected 5 + {count} x {columns}")
    row = np.array(words, dtype=np.float64)
    if not np.isfinite(row).all():
        raise ValueError("numbers that are not finite")
    if row[0] not in range(len(folder.classes)):
        raise ValueError(f"class {words[0]}, expected 0..{len(folder.classes) - 1}")
    if row[1:5].min() < -_TOLERANCE or row[1:5].max() > 1 + _TOLERANCE:
        raise ValueError(f"box {' '.join(words[1:5])} is not within 0..1; are these pixels?")
    if columns == 3 and not np.isin(row[7::3], (0, 1, 2)).all():
        raise ValueError(f"visibilities must be 0, 1 or 2, got {sorted(set(row[7::3].tolist()))}")
    return row


def _person(row: np.ndarray, number: int, image: CocoImage, folder: YoloFolder) -> CocoPerson:
    count, columns = folder.kpt_shape
    size = np.array(image.size_wh, np.float64)
    center, extent = row[1:3] * size, np.maximum(row[3:5], 0) * size
    keypoints = np.zeros((count, 3))
    points = row[5:].reshape(count, columns)
    keypoints[:, :2] = points[:, :2] * size
    keypoints[:, 2] = points[:, 2] if columns == 3 else 2.0 * points.any(axis=1)
    x, y = (center - extent / 2).tolist()
    width, height = extent.tolist()
    return CocoPerson(
        id=number,
        image_id=image.id,
        category_id=int(row[0]) + 1,
        bbox_xywh=(x, y, width, height),
        area=AREA_OF_BOX * width * height,
        keypoints=keypoints,
        num_keypoints=int(np.count_nonzero(keypoints[:, 2])),
        is_crowd=False,
    )


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) of the image that `read_image` returns; None for an image that it cannot read.

    A JPEG without EXIF data is not decoded, only its header is read: decoding a large data set takes minutes. Damage
    after the header is not noticed. Other images are decoded, because EXIF data may rotate them.
    """
    try:
        with path.open("rb") as file:
            size = _jpeg_size(file.read(_HEADER))
        if size is None:
            height, width = read_image(path).shape[:2]
            size = width, height
    except (OSError, SourceError):
        return None
    return size


def _jpeg_size(header: bytes) -> tuple[int, int] | None:
    """Size in the frame header of a JPEG (ITU T.81, B.2.2); None if EXIF or unusual data comes first."""
    if not header.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(header) and header[at] == 0xFF:
        marker, length = header[at + 1], int.from_bytes(header[at + 2 : at + 4], "big")
        if marker in _FRAMES:
            height, width = (int.from_bytes(header[at + i : at + i + 2], "big") for i in (5, 7))
            return (width, height) if width and height else None
        if marker in _NO_LENGTH or header[at + 4 : at + 8] == b"Exif":
            return None
        at += 2 + length
    return None
