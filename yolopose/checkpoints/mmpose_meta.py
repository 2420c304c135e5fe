"""The skeleton that an mmpose checkpoint keeps in ``meta["dataset_meta"]``: names, mirror pairs, limbs and sigmas."""

from __future__ import annotations

from typing import Any

from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton

from .stand_ins import InertArray
from .transfer import MAX_KEYPOINTS


def skeleton_in(meta: Any) -> Skeleton | None:
    """None where the file has no (or no whole) description; a built-in skeleton where its names are the same.

    Keys as mmpose writes them: keypoint_id2name {0: name}, flip_indices (a permutation), skeleton_links [(a, b)],
    sigmas (array).
    """
    described = meta.get("dataset_meta") if isinstance(meta, dict) else None
    if not isinstance(described, dict):
        return None
    try:
        by_id = described["keypoint_id2name"]
        names = tuple(by_id[index] for index in range(len(by_id)))
        if len(names) > MAX_KEYPOINTS or not all(isinstance(name, str) for name in names):
            return None
        for built_in in (COCO_17, LSP_14):
            if [_plain(name) for name in names] == [_plain(name) for name in built_in.names]:
                return built_in
        sigmas = described["sigmas"]
        values = sigmas.value() if isinstance(sigmas, InertArray) else sigmas
        if values is None:
            return None
        flip = [int(index) for index in described["flip_indices"]]
        dataset = described.get("dataset_name")
        return Skeleton(
            name=dataset if isinstance(dataset, str) and dataset else f"mmpose-{len(names)}",
            names=names,
            flip_pairs=tuple((a, b) for a, b in enumerate(flip) if a < b),
            limbs=tuple((int(a), int(b)) for a, b in described.get("skeleton_links", ())),
            sigmas=tuple(float(value) for value in values),
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None  # a description of another make; the number of keypoints decides then


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
