"""Keypoint labels: their data types, the reader for COCO JSON, and the skeleton that a label file describes.

The reader is strict: it names every damaged entry and never skips one silently. `yolo_txt` reads the YOLO format into
the same types.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yolopose.runtime.errors import DataError
from yolopose.runtime.skeleton import SKELETONS, Pairs, Skeleton, generic_skeleton

_SHOWN = 8  # damaged entries that a message lists; the rest is counted


@dataclass(frozen=True)
class CocoImage:
    """An image file of the data set. It existed when the labels were read; it has not been opened."""

    id: int
    path: Path
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class CocoCategory:
    """A category with keypoints. Label i of a network is the i-th category in the order of their ids."""

    id: int
    name: str


@dataclass(frozen=True, eq=False)
class CocoPerson:
    """One annotation. COCO evaluation ignores people without labeled keypoints and crowds."""

    id: int
    image_id: int
    category_id: int
    bbox_xywh: tuple[float, float, float, float]  # px, as in the file
    area: float  # px^2 of the segmentation; the scale of OKS
    keypoints: np.ndarray  # (K, 3) float64: x, y px and v: 0 not labeled, 1 labeled but hidden, 2 visible
    num_keypoints: int  # keypoints with v > 0
    is_crowd: bool

    @property
    def is_labeled(self) -> bool:
        """Whether evaluation counts this person."""
        return self.num_keypoints > 0 and not self.is_crowd

    @property
    def bbox_xyxy(self) -> tuple[float, float, float, float]:
        x, y, width, height = self.bbox_xywh
        return x, y, x + width, y + height


@dataclass(frozen=True, eq=False)
class CocoKeypoints:
    """A data set: images, the people annotated in them, and the categories with keypoints."""

    path: Path
    images: dict[int, CocoImage]  # by id, ascending
    people: dict[int, tuple[CocoPerson, ...]]  # by image id; an entry for every image
    categories: tuple[CocoCategory, ...]  # ids ascending
    num_keypoints: int
    keypoint_names: tuple[str, ...] | None  # None if the file does not name them

    @cached_property
    def ids_with_people(self) -> tuple[int, ...]:
        """Ids of images with at least one person that evaluation counts."""
        return tuple(id for id, people in self.people.items() if any(person.is_labeled for person in people))

    def check_skeleton(self, skeleton: Skeleton) -> None:
        """Raise DataError unless the labels have the keypoints of ``skeleton`` in the same order."""
        if self.num_keypoints != skeleton.num_keypoints:
            raise DataError(
                f"{self.path}: {self.num_keypoints} keypoints a person, but skeleton {skeleton.name!r} has "
                f"{skeleton.num_keypoints}; labels and network need the same skeleton"
            )
        if self.keypoint_names is None:
            return
        for index, (expected, name) in enumerate(zip(skeleton.names, self.keypoint_names, strict=True)):
            if plain_name(expected) != plain_name(name):
                raise DataError(
                    f"{self.path}: keypoint {index} is {name!r}, in skeleton {skeleton.name!r} it is {expected!r}; "
                    "labels and network need the same keypoints in the same order"
                )


def read_coco(json_path: str | Path, images_dir: str | Path, skeleton: Skeleton | None = None) -> CocoKeypoints:
    """Read the labels and check that every image file exists.

    Raises DataError with the file and its damaged entries: not JSON, no keypoints, different numbers of keypoints,
    keypoints unlike ``skeleton``, duplicate ids, coordinates that are not finite, unknown image ids, missing images.
    """
    path = Path(json_path)
    document = _read_json(path)
    problems: list[str] = []
    images = _read_images(document["images"], Path(images_dir), problems)
    categories, names = _read_categories(document["categories"], document["annotations"], path)
    count = _count_keypoints(document["annotations"], names, path)
    people = _read_people(document["annotations"], images, categories, count, problems)
    raise_if_damaged(path, problems)
    _check_files(images, path)
    dataset = CocoKeypoints(path, images, people, categories, count, names)
    if skeleton is not None:
        dataset.check_skeleton(skeleton)
    return dataset


def raise_if_damaged(path: Path, problems: list[str]) -> None:
    """Raise DataError with the number of problems and the first of them, if there are any."""
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: {len(problems)} damaged entries:\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _read_json(path: Path) -> dict[str, list[Any]]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected labels in COCO format") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); expected labels in COCO format") from None
    if not isinstance(document, dict):
        raise DataError(
            f"{path}: expected an object with images, annotations and categories, got a {type(document).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        value = document.get(key)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise DataError(
                f"{path}: {key!r} must be a list of objects; "
                "labels in COCO format have images, annotations and categories"
            )
    return document


def _read_images(entries: list[Any], folder: Path, problems: list[str]) -> dict[int, CocoImage]:
    images: dict[int, CocoImage] = {}
    for index, entry in enumerate(entries):
        try:
            size_wh = _integer(entry, "width"), _integer(entry, "height")
            image = CocoImage(_integer(entry, "id"), folder / str(entry["file_name"]), size_wh)
            if min(image.size_wh) < 1:
                raise ValueError(f"size {image.size_wh[0]} x {image.size_wh[1]}")
            if image.id in images:
                raise ValueError(f"id {image.id} is used twice")
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"images[{index}]{_id_of(entry)}: {_reason(error)}")
            continue
        images[image.id] = image
    return dict(sorted(images.items()))


def _read_categories(
    entries: list[Any], annotations: list[Any], path: Path
) -> tuple[tuple[CocoCategory, ...], tuple[str, ...] | None]:
    """The categories that name keypoints, else those whose annotations have keypoints; and the names."""
    named = [entry for entry in entries if isinstance(entry.get("keypoints"), list) and entry["keypoints"]]
    used = {entry.get("category_id") for entry in annotations if _has_keypoints(entry)}
    chosen = named or [entry for entry in entries if entry.get("id") in used]
    if not chosen:
        raise DataError(
            f"{path}: no category with keypoints; are these labels of boxes only? (COCO: person_keypoints_*.json)"
        )
    lists = {tuple(str(name) for name in entry["keypoints"]) for entry in named}
    if len(lists) > 1:
        raise DataError(f"{path}: categories with different keypoints; a data set must have one skeleton")
    try:
        categories = sorted(
            (CocoCategory(_integer(entry, "id"), str(entry["name"])) for entry in chosen),
            key=lambda category: category.id,
        )
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: categories: {_reason(error)}") from None
    if len({category.id for category in categories}) != len(categories):
        raise DataError(f"{path}: categories: an id is used twice")
    return tuple(categories), lists.pop() if lists else None


def _count_keypoints(annotations: list[Any], names: tuple[str, ...] | None, path: Path) -> int:
    if names:
        return len(names)
    length = max(len(entry["keypoints"]) for entry in annotations if _has_keypoints(entry))
    if length % 3:
        raise DataError(f"{path}: keypoints are x, y, v each, but a person has {length} numbers")
    return length // 3


def _read_people(
    entries: list[Any],
    images: dict[int, CocoImage],
    categories: tuple[CocoCategory, ...],
    count: int,
    problems: list[str],
) -> dict[int, tuple[CocoPerson, ...]]:
    """Annotations of these categories by image, in the order of the file. All annotations are checked."""
    people: dict[int, list[CocoPerson]] = {id: [] for id in images}
    wanted = {category.id for category in categories}
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        try:
            person = _read_person(entry, count)
            if person.id in seen:
                raise ValueError(f"id {person.id} is used twice")
            if person.image_id not in people:
                raise ValueError(f"image_id {person.image_id} is not an image of the file")
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"annotations[{index}]{_id_of(entry)}: {_reason(error)}")
            continue
        seen.add(person.id)
        if person.category_id in wanted:
            people[person.image_id].append(person)
    return {id: tuple(some) for id, some in people.items()}


def _read_person(entry: Mapping[str, Any], count: int) -> CocoPerson:
    """Raises ValueError, TypeError or KeyError with the problem of the entry."""
    keypoints = np.zeros((count, 3))
    if _has_keypoints(entry):
        if len(entry["keypoints"]) != 3 * count:
            raise ValueError(f"{len(entry['keypoints'])} numbers in keypoints, expected {count} x 3")
        keypoints = np.array(entry["keypoints"], dtype=np.float64).reshape(count, 3)
    if not np.isfinite(keypoints).all():
        raise ValueError("keypoints that are not finite")
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError(f"visibilities must be 0, 1 or 2, got {sorted(set(keypoints[:, 2]))}")
    labeled = int(np.count_nonzero(keypoints[:, 2]))
    if entry.get("num_keypoints", labeled) != labeled:
        raise ValueError(f"num_keypoints is {entry['num_keypoints']}, but {labeled} keypoints have v > 0")
    box = [float(value) for value in entry["bbox"]]
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise ValueError(f"bbox must be finite x, y, width, height, got {entry['bbox']}")
    area = float(entry["area"])
    if not math.isfinite(area) or area < 0 or (area == 0 and labeled):
        raise ValueError(f"area must be a positive number of pixels, got {entry['area']}")
    return CocoPerson(
        id=_integer(entry, "id"),
        image_id=_integer(entry, "image_id"),
        category_id=_integer(entry, "category_id"),
        bbox_xywh=(box[0], box[1], box[2], box[3]),
        area=area,
        keypoints=keypoints,
        num_keypoints=labeled,
        is_crowd=bool(entry.get("iscrowd", 0)),
    )


def _check_files(images: dict[int, CocoImage], path: Path) -> None:
    missing = [image.path for image in images.values() if not image.path.is_file()]
    if missing:
        names = ", ".join(str(file) for file in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(f"{path}: {len(missing)} of {len(images)} images are missing: {names}; is it the right folder?")


def _has_keypoints(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("keypoints"), list) and len(entry["keypoints"]) > 0


def _integer(entry: Mapping[str, Any], key: str) -> int:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} must be an integer, got {value!r}")
    return value


def _id_of(entry: Mapping[str, Any]) -> str:
    return f" (id {entry['id']})" if "id" in entry else ""


def _reason(error: Exception) -> str:
    return f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


# The skeleton that a label file describes


def plain_name(name: str) -> str:
    """The form in which keypoint names are compared: "Left eye" is left_eye."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def label_skeleton(
    path: Path, num_keypoints: int, names: Sequence[str] | None, flip_index: Sequence[int] | None = None
) -> Skeleton:
    """The built-in skeleton with these names (without names: with as many keypoints), else a generic one.

    Mirror pairs of a generic skeleton come from names that begin with left_ and right_, else from ``flip_index``, the
    index of each keypoint's mirror partner. Raises DataError if ``flip_index`` is not such a permutation or differs
    from the skeleton's.
    """
    if flip_index is not None:
        _check_flip_index(path, num_keypoints, flip_index)
    names = None if names is None else [plain_name(name) for name in names]
    skeleton = _built_in(num_keypoints, names)
    if skeleton is None:
        pairs = _pairs_by_name(names or ())
        if not pairs and flip_index is not None:
            pairs = tuple((a, b) for a, b in enumerate(flip_index) if a < b)
        try:
            skeleton = generic_skeleton(num_keypoints, names, pairs)
        except ValueError as error:
            raise DataError(f"{path}: its keypoints do not make a skeleton: {error}") from None
    if flip_index is not None and tuple(flip_index) != skeleton.flip_index:
        raise DataError(
            f"{path}: flip_idx is {list(flip_index)}, but skeleton {skeleton.name!r} is mirrored by "
            f"{list(skeleton.flip_index)}; correct flip_idx or, if the keypoints differ, name them or give a skeleton"
        )
    return skeleton


def _built_in(num_keypoints: int, names: Sequence[str] | None) -> Skeleton | None:
    for skeleton in SKELETONS.values():
        if skeleton.num_keypoints == num_keypoints and (names is None or list(names) == list(skeleton.names)):
            return skeleton
    return None


def _pairs_by_name(names: Sequence[str]) -> Pairs:
    index = {name: i for i, name in enumerate(names)}
    sides = ((i, index.get("right_" + name[len("left_") :])) for name, i in index.items() if name.startswith("left_"))
    return tuple((left, right) for left, right in sides if right is not None)


def _check_flip_index(path: Path, num_keypoints: int, flip_index: Sequence[int]) -> None:
    valid = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < num_keypoints for i in flip_index)
    if not valid or len(flip_index) != num_keypoints or any(flip_index[j] != i for i, j in enumerate(flip_index)):
        raise DataError(
            f"{path}: flip_idx must give the mirror partner of each of {num_keypoints} keypoints, got {flip_index}"
        )
