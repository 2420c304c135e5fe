"""COCO keypoint average precision of anything that maps images to PoseResult; pycocotools does the counting.

Conventions, because published figures differ in them:
- a person's score is the box score (objectness x class), not mixed with keypoint scores;
- at most 20 people an image count, those with the highest scores, as in COCOeval;
- the area of a labelled person is the file's ``area``; that of a prediction, which only decides whether a miss counts
  as medium or large, is the extent of its keypoints, as pycocotools has it for results without boxes;
- ``images="all"``: every image of the data set, so that people found where nobody is cost precision (mmpose; 5,000
  images of COCO val2017); ``images="with-people"``: only images with a labelled person (edgeai-yolov5, yolov7 and
  ultralytics; 2,346).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from yolopose.runtime.errors import BackendUnavailable
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

if TYPE_CHECKING:
    from .data.coco import CocoKeypoints

Convention = Literal["all", "with-people"]


@dataclass(frozen=True)
class KeypointAP:
    """Average precision and recall, 0..1; None where no labelled person could have decided it."""

    ap: float | None  # mean over OKS thresholds .50, .55 ... .95
    ap50: float | None
    ap75: float | None
    ap_m: float | None  # people of 32^2..96^2 px
    ap_l: float | None  # larger people
    ar: float | None
    images: int  # evaluated
    people: int  # labelled people in them
    convention: Convention

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    results: Mapping[int, PoseResult],
    dataset: CocoKeypoints,
    skeleton: Skeleton,
    image_ids: Collection[int] | None = None,
    images: Convention = "all",
) -> KeypointAP:
    """Score the people found against the labels.

    results: by image id; every evaluated image needs one (``PoseResult.empty`` where nobody was found)
    image_ids: evaluate only these; images: and of these all, or only those with labelled people

    ValueError for results that are missing, unknown, not finite or of another skeleton; DataError when the labels have
    another skeleton; BackendUnavailable without pycocotools.
    """
    chosen = choose_images(dataset, image_ids, images)
    run = run_cocoeval(results, dataset, skeleton, chosen)
    stats = -np.ones(6)
    if chosen:
        with contextlib.redirect_stdout(io.StringIO()):
            run.accumulate()
            run.summarize()
        stats = run.stats[:6]
    ap, ap50, ap75, ap_m, ap_l, ar = (None if value < 0 else float(value) for value in stats)
    people = sum(person.is_labeled for image_id in chosen for person in dataset.people[image_id])
    return KeypointAP(ap, ap50, ap75, ap_m, ap_l, ar, len(chosen), people, images)


def oks_matrix(keypoints: np.ndarray, labels: np.ndarray, areas: np.ndarray, sigmas: Collection[float]) -> np.ndarray:
    """Object keypoint similarity (P, Q) of P predictions and Q labelled people, as COCOeval computes it.

    keypoints: (P, K, 2) px; labels: (Q, K, 3) x, y, v, where keypoints with v 0 do not count; areas: (Q,) px^2.
    NaN where a label has no keypoint: COCOeval compares those by a box, which this function does not know.
    """
    keypoints, labels = np.asarray(keypoints, np.float64), np.asarray(labels, np.float64)
    areas, variances = np.asarray(areas, np.float64), (np.asarray(tuple(sigmas), np.float64) * 2) ** 2
    count = len(variances)
    if keypoints.ndim != 3 or keypoints.shape[1:] != (count, 2) or labels.ndim != 3 or labels.shape[1:] != (count, 3):
        raise ValueError(
            f"expected keypoints (P, {count}, 2) and labels (Q, {count}, 3), got {keypoints.shape} and {labels.shape}"
        )
    if areas.shape != (len(labels),):
        raise ValueError(f"expected areas ({len(labels)},), got {areas.shape}")
    squared = ((keypoints[:, None] - labels[None, :, :, :2]) ** 2).sum(-1)  # (P, Q, K)
    exponent = squared / variances / (areas[None, :, None] + np.spacing(1)) / 2
    counted = labels[..., 2] > 0  # (Q, K)
    total = (np.exp(-exponent) * counted).sum(-1)
    number = counted.sum(-1).astype(np.float64)
    return total / np.where(number > 0, number, np.nan)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (P, Q) float64 of boxes (P, 4) and (Q, 4) xyxy; 0 where neither has an area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    extent = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = np.prod(np.maximum(extent, 0), axis=2)
    area_a, area_b = (np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def choose_images(dataset: CocoKeypoints, image_ids: Collection[int] | None, images: Convention) -> list[int]:
    """Rising ids of the images that a convention counts, of all or of ``image_ids``; ValueError for unknown ones."""
    if images not in ("all", "with-people"):
        raise ValueError(f'images must be "all" or "with-people", got {images!r}')
    unknown = [image_id for image_id in image_ids or () if image_id not in dataset.images]
    if unknown:
        raise ValueError(f"image_ids: {len(unknown)} ids are not in {dataset.path}, first {unknown[0]}")
    allowed = dataset.images if images == "all" else dataset.ids_with_people
    return sorted(allowed if image_ids is None else set(allowed) & set(image_ids))


def _ground_truth(chosen: list[int], dataset: CocoKeypoints) -> dict[str, Any]:
    """A COCO document of the chosen images. Ids start at 1: COCOeval takes a match with annotation 0 for a miss."""
    people = [person for image_id in chosen for person in dataset.people[image_id]]
    annotations = [
        {
            "id": number,
            "image_id": person.image_id,
            "category_id": person.category_id,
            "bbox": list(person.bbox_xywh),
            "area": person.area,
            "iscrowd": int(person.is_crowd),
            "num_keypoints": person.num_keypoints,
            "keypoints": person.keypoints.reshape(-1).tolist(),
        }
        for number, person in enumerate(people, start=1)
    ]
    categories = [{"id": category.id, "name": category.name} for category in dataset.categories]
    return {
        "info": {},
        "images": [{"id": image_id} for image_id in chosen],
        "annotations": annotations,
        "categories": categories,
    }


def _rows(image_id: int, result: PoseResult, dataset: CocoKeypoints, skeleton: Skeleton) -> Iterator[dict[str, Any]]:
    """One COCO result a person."""
    if result.keypoints.shape[1] != skeleton.num_keypoints:
        raise ValueError(
            f"image {image_id}: {result.keypoints.shape[1]} keypoints a person, "
            f"skeleton {skeleton.name!r} has {skeleton.num_keypoints}"
        )
    if not (np.isfinite(result.keypoints).all() and np.isfinite(result.scores).all()):
        raise ValueError(f"image {image_id}: keypoints or scores that are not finite")
    if len(result) and not 0 <= int(result.labels.min()) <= int(result.labels.max()) < len(dataset.categories):
        names = [category.name for category in dataset.categories]
        raise ValueError(
            f"image {image_id}: labels {sorted(set(result.labels.tolist()))}, but the data set has only {names}"
        )
    points = np.concatenate([result.keypoints, result.keypoint_scores[..., None]], axis=2).astype(np.float64)
    for label, score, keypoints in zip(result.labels.tolist(), result.scores.tolist(), points, strict=True):
        category = dataset.categories[label].id
        yield {
            "image_id": image_id,
            "category_id": category,
            "score": score,
            "keypoints": keypoints.reshape(-1).tolist(),
        }


def run_cocoeval(
    results: Mapping[int, PoseResult],
    dataset: CocoKeypoints,
    skeleton: Skeleton,
    chosen: list[int],
    by_area: bool = True,
) -> Any:
    """A COCOeval that has matched the people of the ``chosen`` images, as ``choose_images`` gives them.

    by_area: match medium and large people by themselves as well, as its summary needs; False: all together only, in a
    third of the time. Raises as ``evaluate``.
    """
    dataset.check_skeleton(skeleton)
    missing = [image_id for image_id in chosen if image_id not in results]
    if missing:
        raise ValueError(
            f"no result for {len(missing)} of {len(chosen)} images, first id {missing[0]}; "
            "give an empty PoseResult where nobody is found"
        )
    unknown = [image_id for image_id in results if image_id not in dataset.images]
    if unknown:
        raise ValueError(f"results for {len(unknown)} images that the data set does not have, first id {unknown[0]}")
    rows = [row for image_id in chosen for row in _rows(image_id, results[image_id], dataset, skeleton)]
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise BackendUnavailable(
            f'average precision needs pycocotools ({error}): pip install "yolopose[bench]"'
        ) from None
    document = _ground_truth(chosen, dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        if rows:
            found = truth.loadRes(rows)
        else:  # loadRes looks into the first row
            found = COCO()
            found.dataset = {**document, "annotations": []}
            found.createIndex()
        run = COCOeval(truth, found, "keypoints")
        run.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        if not by_area:
            run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.evaluate()
    return run
