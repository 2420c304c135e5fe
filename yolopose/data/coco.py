"""Reads keypoint labels in COCO format, strictly: what is damaged is named, nothing is skipped in silence.

Which skeleton labels have, from what their file says about the keypoints.
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

_SHOWN = 8  # damaged entries a message lists before it only counts


@dataclass(frozen=True)
class CocoImage:
    """An image of the data set; it was there when the labels were read, but has not been opened."""

    id: int
    path: Path
    size_wh: tuple[int, int]


@dataclass(frozen=True)
class CocoCategory:
    """A category that has keypoints; a network's label i means the i-th of these in the order of their ids."""

    id: int
    name: str


@dataclass(frozen=True, eq=False)
class CocoPerson:
    """One annotation. Without labelled keypoints, or as a crowd, COCO evaluation neither rewards nor punishes it."""

    id: int
    image_id: int
    category_id: int
    bbox_xywh: tuple[float, float, float, float]  # px, as in the file
    area: float  # px^2 of the segmentation; the scale of OKS
    keypoints: np.ndarray  # (K, 3) float64: x, y px and v: 0 not labelled, 1 labelled but hidden, 2 visible
    num_keypoints: int  # keypoints with v > 0
    is_crowd: bool

    @property
    def is_labelled(self) -> bool:
        """Whether evaluation counts this person."""
        return self.num_keypoints > 0 and not self.is_crowd

    @property
    def bbox_xyxy(self) -> tuple[float, float, float, float]:
        x, y, width, height = self.bbox_xywh
        return x, y, x + width, y + height


@dataclass(frozen=True, eq=False)
class CocoKeypoints:
    """A data set: images by id, everything annotated in them, and the categories that have keypoints."""

    path: Path
    images: dict[int, CocoImage]  # rising ids
    people: dict[int, tuple[CocoPerson, ...]]  # by image id, one entry for every image
    categories: tuple[CocoCategory, ...]  # rising ids
    num_keypoints: int
    keypoint_names: tuple[str, ...] | None  # None when the file does not name them

    @cached_property
    def ids_with_people(self) -> tuple[int, ...]:
        """Images with at least one person that evaluation counts."""
        return tuple(id for id, people in self.people.items() if any(person.is_labelled for person in people))

    def check_skeleton(self, skeleton: Skeleton) -> None:
        """Raise DataError unless the labels have this skeleton's keypoints in this order."""
        if self.num_keypoints != skeleton.num_keypoints:
            raise DataError(
                f"{self.path}: {self.num_keypoints} keypoints a person, but skeleton {skeleton.name!r} has "
                f"{skeleton.num_keypoints}; give labels and network of one skeleton"
            )
        if self.keypoint_names is None:
            return
        for index, (ours, theirs) in enumerate(zip(skeleton.names, self.keypoint_names, strict=True)):
            if plain(ours) != plain(theirs):
                raise DataError(
                    f"{self.path}: keypoint {index} is {theirs!r}, in skeleton {skeleton.name!r} it is {ours!r}; "
                    "labels and network need the same points in the same order"
                )


def read_coco(json_path: str | Path, images_dir: str | Path, skeleton: Skeleton | None = None) -> CocoKeypoints:
    """Read labels and check that every image is there.

    DataError names the file and its damaged entries: no JSON, no keypoints, numbers of keypoints that differ (or differ
    from ``skeleton``), ids used twice, coordinates that are not finite, annotations of unknown images, missing images.
    """
    path = Path(json_path)
    document = _parse(path)
    problems: list[str] = []
    images = _read_images(document["images"], Path(images_dir), problems)
    categories, names = _read_categories(document["categories"], document["annotations"], path)
    width = _numbers_a_person(document["annotations"], names, path)
    people = _read_people(document["annotations"], images, categories, width // 3, problems)
    refuse_damaged(path, problems)
    _check_files(images, path)
    dataset = CocoKeypoints(path, images, people, categories, width // 3, names)
    if skeleton is not None:
        dataset.check_skeleton(skeleton)
    return dataset


def refuse_damaged(path: Path, problems: list[str]) -> None:
    """Raise DataError with the number of damaged entries and the first of them, if there are any."""
    if problems:
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: {len(problems)} damaged entries:\n  " + "\n  ".join(problems[:_SHOWN]) + more)


def _parse(path: Path) -> dict[str, list[Any]]:
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
            image = CocoImage(
                _whole(entry, "id"), folder / str(entry["file_name"]), (_whole(entry, "width"), _whole(entry, "height"))
            )
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
    """Categories that name keypoints or, when none does, those whose annotations have some."""
    named = [entry for entry in entries if isinstance(entry.get("keypoints"), list) and entry["keypoints"]]
    used = {entry.get("category_id") for entry in annotations if _has_keypoints(entry)}
    chosen = named or [entry for entry in entries if entry.get("id") in used]
    if not chosen:
        raise DataError(
            f"{path}: no category with keypoints; these are perhaps the labels of boxes (COCO: person_keypoints_*.json)"
        )
    lists = {tuple(str(name) for name in entry["keypoints"]) for entry in named}
    if len(lists) > 1:
        raise DataError(f"{path}: categories with different keypoints; one data set holds people of one skeleton")
    try:
        categories = sorted(
            (CocoCategory(_whole(entry, "id"), str(entry["name"])) for entry in chosen),
            key=lambda category: category.id,
        )
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: categories: {_reason(error)}") from None
    if len({category.id for category in categories}) != len(categories):
        raise DataError(f"{path}: categories: an id is used twice")
    return tuple(categories), lists.pop() if lists else None


def _numbers_a_person(annotations: list[Any], names: tuple[str, ...] | None, path: Path) -> int:
    """Length of a keypoint list: x, y, v of every keypoint."""
    if names:
        return 3 * len(names)
    width = max(len(entry["keypoints"]) for entry in annotations if _has_keypoints(entry))
    if width % 3:
        raise DataError(f"{path}: keypoints come as x, y, v, but a person has {width} numbers")
    return width


def _read_people(
    entries: list[Any],
    images: dict[int, CocoImage],
    categories: tuple[CocoCategory, ...],
    count: int,
    problems: list[str],
) -> dict[int, tuple[CocoPerson, ...]]:
    """Annotations of these categories by image, in the order of the file; all others are checked as well."""
    people: dict[int, list[CocoPerson]] = {id: [] for id in images}
    wanted = {category.id for category in categories}
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        try:
            person = _read_person(entry, count)
            if person.id in seen:
                raise ValueError(f"id {person.id} is used twice")
            if person.image_id not in people:
                raise ValueError(f"image_id {person.image_id} is no image of the file")
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"annotations[{index}]{_id_of(entry)}: {_reason(error)}")
            continue
        seen.add(person.id)
        if person.category_id in wanted:
            people[person.image_id].append(person)
    return {id: tuple(some) for id, some in people.items()}


def _read_person(entry: Mapping[str, Any], count: int) -> CocoPerson:
    """Raises ValueError, TypeError or KeyError that says what is wrong with the entry."""
    keypoints = np.zeros((count, 3))
    if _has_keypoints(entry):
        if len(entry["keypoints"]) != 3 * count:
            raise ValueError(f"{len(entry['keypoints'])} numbers in keypoints, expected {count} x 3")
        keypoints = np.array(entry["keypoints"], dtype=np.float64).reshape(count, 3)
    if not np.isfinite(keypoints).all():
        raise ValueError("keypoints that are not finite")
    if not np.isin(keypoints[:, 2], (0, 1, 2)).all():
        raise ValueError(f"visibilities must be 0, 1 or 2, got {sorted(set(keypoints[:, 2]))}")
    labelled = int(np.count_nonzero(keypoints[:, 2]))
    if entry.get("num_keypoints", labelled) != labelled:
        raise ValueError(f"num_keypoints is {entry['num_keypoints']}, but {labelled} keypoints have v > 0")
    box = [float(value) for value in entry["bbox"]]
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
        raise ValueError(f"bbox must be finite x, y, width, height, got {entry['bbox']}")
    area = float(entry["area"])
    if not math.isfinite(area) or area < 0 or (area == 0 and labelled):
        raise ValueError(f"area must be a positive number of pixels, got {entry['area']}")
    return CocoPerson(
        id=_whole(entry, "id"),
        image_id=_whole(entry, "image_id"),
        category_id=_whole(entry, "category_id"),
        bbox_xywh=(box[0], box[1], box[2], box[3]),
        area=area,
        keypoints=keypoints,
        num_keypoints=labelled,
        is_crowd=bool(entry.get("iscrowd", 0)),
    )


def _check_files(images: dict[int, CocoImage], path: Path) -> None:
    missing = [image.path for image in images.values() if not image.path.is_file()]
    if missing:
        names = ", ".join(str(file) for file in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise DataError(f"{path}: {len(missing)} of {len(images)} images are missing: {names}; is it the right folder?")


def _has_keypoints(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("keypoints"), list) and len(entry["keypoints"]) > 0


def _whole(entry: Mapping[str, Any], key: str) -> int:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key} must be a whole number, got {value!r}")
    return value


def _id_of(entry: Mapping[str, Any]) -> str:
    return f" (id {entry['id']})" if "id" in entry else ""


def _reason(error: Exception) -> str:
    return f"no {error.args[0]!r}" if isinstance(error, KeyError) else str(error)


def plain(name: str) -> str:
    """A keypoint's name as it is compared: "Left eye" is left_eye."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def label_skeleton(
    path: Path, num_keypoints: int, names: Sequence[str] | None, flip_index: Sequence[int] | None = None
) -> Skeleton:
    """The built-in skeleton of these names or, without names, of as many points; else a generic one.

    Mirror pairs of a generic skeleton come from names that begin with left_ and right_, else from ``flip_index``.
    DataError when ``flip_index`` is no mirror image or exchanges other points than the skeleton does.
    """
    if flip_index is not None:
        _check_flip_index(path, num_keypoints, flip_index)
    names = None if names is None else [plain(name) for name in names]
    skeleton = _known(num_keypoints, names)
    if skeleton is None:
        pairs = _pairs_by_name(names or ())
        if not pairs and flip_index is not None:
            pairs = tuple((a, b) for a, b in enumerate(flip_index) if a < b)
        try:
            skeleton = generic_skeleton(num_keypoints, names, pairs)
        except ValueError as error:
            raise DataError(f"{path}: no skeleton can be made of its keypoints: {error}") from None
    if flip_index is not None and tuple(flip_index) != skeleton.flip_index:
        raise DataError(
            f"{path}: flip_idx is {list(flip_index)}, but skeleton {skeleton.name!r} is mirrored by "
            f"{list(skeleton.flip_index)}; correct flip_idx or, if the points are others, name them or give a skeleton"
        )
    return skeleton


def _known(num_keypoints: int, names: Sequence[str] | None) -> Skeleton | None:
    for skeleton in SKELETONS.values():
        if skeleton.num_keypoints == num_keypoints and (names is None or list(names) == list(skeleton.names)):
            return skeleton
    return None


def _pairs_by_name(names: Sequence[str]) -> Pairs:
    index = {name: i for i, name in enumerate(names)}
    sides = ((i, index.get("right_" + name[len("left_") :])) for name, i in index.items() if name.startswith("left_"))
    return tuple((left, right) for left, right in sides if right is not None)


def _check_flip_index(path: Path, num_keypoints: int, flip_index: Sequence[int]) -> None:
    whole = all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < num_keypoints for i in flip_index)
    if not whole or len(flip_index) != num_keypoints or any(flip_index[j] != i for i, j in enumerate(flip_index)):
        raise DataError(
            f"{path}: flip_idx must give the mirror partner of each of {num_keypoints} keypoints, got {flip_index}"
        )
