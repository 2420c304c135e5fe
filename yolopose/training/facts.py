"""What decides a training, as plain values: for run.json, and to tell one training from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from yolopose.runtime.errors import DataError

from ..data.coco import CocoKeypoints

_ABSENT = "nothing"


def file_facts(path: str | Path) -> dict[str, str]:
    """Path and sha256 of a file of weights or labels. Raises DataError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return {"path": str(path), "sha256": digest.hexdigest()}


def label_facts(dataset: CocoKeypoints) -> dict[str, Any]:
    """What a data set is: its file, how many images and people with labelled keypoints it has, a digest of the labels.

    The digest is of names and labels as read: a YAML file says little about the text files beside the pictures.
    """
    digest = hashlib.sha256()
    for image in dataset.images.values():
        digest.update(f"{image.path.name} {image.size_wh}".encode())
        for person in dataset.people[image.id]:
            digest.update(f"{person.category_id} {person.bbox_xywh} {person.area} {person.is_crowd}".encode())
            digest.update(person.keypoints.tobytes())
    people = sum(person.is_labelled for some in dataset.people.values() for person in some)
    return {
        **file_facts(dataset.path), "images": len(dataset.images), "people": people, "labels": digest.hexdigest()
    }  # fmt: skip


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], leave_out: Collection[str]) -> list[str]:
    """ "key: value then, value now" of each plain value that differs; dotted keys of JSON values.

    Keys in ``leave_out``, at any depth, are not compared, nor what is below them.
    """
    then, now = dict(_leaves(dict(stored), leave_out)), dict(_leaves(dict(given), leave_out))
    return [
        f"{key}: {then.get(key, _ABSENT)} then, {now.get(key, _ABSENT)} now"
        for key in {**then, **now}
        if then.get(key, _ABSENT) != now.get(key, _ABSENT)
    ]


def _leaves(value: Any, leave_out: Collection[str], where: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and JSON text of every plain value."""
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in leave_out:
                yield from _leaves(part, leave_out, f"{where}.{key}" if where else str(key))
    else:
        yield where, json.dumps(value)
