"""COCO keypoint average precision (AP) of pose results, counted by pycocotools, and the similarities that it uses.

Conventions. Published figures differ in them:

- People are ranked by their pose scores (``PoseResult.pose_scores``), as top-down methods do; other code bases rank by
  the box score (objectness x class), which is ``ranking="score"`` here.
- At most 20 people of an image count, those with the highest scores, as in COCOeval.
- The area of a labeled person is the ``area`` of the file. The area of a prediction only decides whether a false
  positive counts as medium or large; it is the extent of the keypoints, as in pycocotools for results without boxes.
- ``images="all"`` counts every image of the data set, so that people found in empty images reduce precision (mmpose;
  5,000 images of COCO val2017). ``images="with-people"`` counts only images with a labeled person (edgeai-yolov5,
  yolov7, ultralytics; 2,346 images).
- Predictions below ``AP_SCORE_THRESHOLD`` do not count.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from yolopose.runtime.errors import BackendUnavailable, DataError
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

if TYPE_CHECKING:
    from .data.coco import CocoKeypoints

Convention = Literal["all", "with-people"]
Ranking = Literal["pose_score", "score"]

# Predictions count for AP above this score: in training, in the accuracy gate, in the int8 search, in the benchmark.
# AP integrates precision over all scores, so the threshold must be far below that of an application (0.25). mmpose,
# yolov7 and ultralytics take 0.001, but the graph keeps only the C = 300 best candidates of an image, and a lower
# threshold mostly adds candidates that it drops: YOLOv8n-pose at 640 exceeds C on 19 of 125 COCO images at 0.001, on 3
# at 0.01, for 0.003 points of AP. On Leeds Sports Pose the demo network loses 0.08 points (24.23 at 0.001, 24.16).
AP_SCORE_THRESHOLD = 0.01

MATCH_IOU = 0.5  # boxes of two results with a smaller IoU are never the same person
# Area of a person's segmentation divided by the area of the box, mean over COCO. OKS needs an area, which predictions
# and labels in YOLO format do not have.
AREA_OF_BOX = 0.53


@dataclass(frozen=True)
class KeypointAP:
    """Average precision and recall, 0..1; None where no labeled person counts."""

    ap: float | None  # mean over OKS thresholds .50, .55 ... .95
    ap50: float | None
    ap75: float | None
    ap_m: float | None  # people of 32^2..96^2 px
    ap_l: float | None  # larger people
    ar: float | None
    images: int  # evaluated
    people: int  # labeled people in these images
    convention: Convention

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    results: Mapping[int, PoseResult],
    dataset: CocoKeypoints,
    skeleton: Skeleton,
    image_ids: Collection[int] | None = None,
    images: Convention = "all",
    ranking: Ranking = "pose_score",
) -> KeypointAP:
    """Keypoint AP of ``results`` against the labels.

    results: by image id; every evaluated image needs a result (``PoseResult.empty`` where nobody was found).
    image_ids: evaluate only these images; None: all. images: of these all, or only those with labeled people. ranking:
    which score ranks people.

    Raises ValueError for results that are missing, unknown, not finite or of another skeleton; DataError when the data
    set has another skeleton or fewer classes than the results; BackendUnavailable without pycocotools.
    """
    chosen = choose_images(dataset, image_ids, images)
    run = run_cocoeval(results, dataset, skeleton, chosen, ranking=ranking)
    stats = -np.ones(6)
    if chosen:
        with contextlib.redirect_stdout(io.StringIO()):
            run.accumulate()
            run.summarize()
        stats = run.stats[:6]
    ap, ap50, ap75, ap_m, ap_l, ar = (None if value < 0 else float(value) for value in stats)
    people = sum(person.is_labeled for image_id in chosen for person in dataset.people[image_id])
    return KeypointAP(ap, ap50, ap75, ap_m, ap_l, ar, len(chosen), people, images)


def choose_images(dataset: CocoKeypoints, image_ids: Collection[int] | None, images: Convention) -> list[int]:
    """Ids, in ascending order, of the images that count by the convention: of all images or of ``image_ids``.

    ValueError for an unknown convention or id.
    """
    if images not in ("all", "with-people"):
        raise ValueError(f'images must be "all" or "with-people", got {images!r}')
    unknown = [image_id for image_id in image_ids or () if image_id not in dataset.images]
    if unknown:
        raise ValueError(f"image_ids: {len(unknown)} ids are not in {dataset.path}, first {unknown[0]}")
    allowed = dataset.images if images == "all" else dataset.ids_with_people
    return sorted(allowed if image_ids is None else set(allowed) & set(image_ids))


def run_cocoeval(
    results: Mapping[int, PoseResult],
    dataset: CocoKeypoints,
    skeleton: Skeleton,
    chosen: list[int],
    by_area: bool = True,
    ranking: Ranking = "pose_score",
) -> Any:
    """A COCOeval object after ``evaluate()``: people of the ``chosen`` images (see ``choose_images``) are matched.

    by_area: also match medium and large people separately, as the summary needs; False: all sizes together only, which
    takes a third of the time. Raises the errors of ``evaluate``.
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
    rows = [row for image_id in chosen for row in _rows(image_id, results[image_id], dataset, skeleton, ranking)]
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise BackendUnavailable(
            f'average precision needs pycocotools ({error}): pip install "yolopose[bench]"'
        ) from None
    document = _ground_truth(chosen, dataset)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        if rows:
            found = truth.loadRes(rows)
        else:  # loadRes reads the first row
            found = COCO()
            found.dataset = {**document, "annotations": []}
            found.createIndex()
        run = COCOeval(truth, found, "keypoints")
        run.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        if not by_area:
            run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], run.params.areaRngLbl[:1]
        run.evaluate()
    return run


def _ground_truth(chosen: list[int], dataset: CocoKeypoints) -> dict[str, Any]:
    """A COCO document of the chosen images. Ids start at 1, because COCOeval takes a match with id 0 for no match."""
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


def _rows(
    image_id: int, result: PoseResult, dataset: CocoKeypoints, skeleton: Skeleton, ranking: Ranking
) -> Iterator[dict[str, Any]]:
    """One COCO result per person."""
    scores = result.pose_scores if ranking == "pose_score" else result.scores
    if result.keypoints.shape[1] != skeleton.num_keypoints:
        raise ValueError(
            f"image {image_id}: {result.keypoints.shape[1]} keypoints per person, "
            f"skeleton {skeleton.name!r} has {skeleton.num_keypoints}"
        )
    if not (np.isfinite(result.keypoints).all() and np.isfinite(scores).all()):
        raise ValueError(f"image {image_id}: keypoints or scores that are not finite")
    if len(result) and not 0 <= int(result.labels.min()) <= int(result.labels.max()) < len(dataset.categories):
        names = [category.name for category in dataset.categories]
        raise DataError(
            f"image {image_id}: the network found classes {sorted(set(result.labels.tolist()))}, but {dataset.path} "
            f"has only {names}: give labels with the classes of the network"
        )
    points = np.concatenate([result.keypoints, result.keypoint_scores[..., None]], axis=2).astype(np.float64)
    for label, score, keypoints in zip(result.labels.tolist(), scores.tolist(), points, strict=True):
        category = dataset.categories[label].id
        yield {
            "image_id": image_id,
            "category_id": category,
            "score": score,
            "keypoints": keypoints.reshape(-1).tolist(),
        }


def oks_matrix(keypoints: np.ndarray, labels: np.ndarray, areas: np.ndarray, sigmas: Collection[float]) -> np.ndarray:
    """Object keypoint similarity (P, Q) float64 of P predictions and Q labeled people, as ``COCOeval.computeOks``.

    keypoints: (P, K, 2) px; labels: (Q, K, 3) x, y, v; keypoints with v = 0 do not count; areas: (Q,) px^2.
    NaN for labels without keypoints: COCOeval compares those by their box, which is no input here. ValueError for
    shapes that do not match.
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
    return np.asarray(total / np.where(number > 0, number, np.nan))


def oks_to_reference(people: PoseResult, reference: PoseResult, skeleton: Skeleton) -> np.ndarray:
    """OKS (P, Q) float64 of P people with Q people of another result, whose keypoints stand for the labels.

    All keypoints count. The area is ``AREA_OF_BOX`` x box area, of a box with sides of at least 1 px.
    """
    sides = np.maximum(reference.boxes[:, 2:] - reference.boxes[:, :2], 1.0).astype(np.float64)
    visible = np.full((*reference.keypoints.shape[:2], 1), 2.0)
    labels = np.concatenate([reference.keypoints, visible], axis=2)
    return oks_matrix(people.keypoints, labels, AREA_OF_BOX * sides.prod(1), skeleton.sigmas)


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU (P, Q) float64 of boxes (P, 4) and (Q, 4) xyxy; 0 where the union has no area."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    extent = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    intersection = np.prod(np.maximum(extent, 0), axis=2)
    area_a, area_b = (np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - intersection
    return np.asarray(np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0))
