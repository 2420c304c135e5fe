"""Validation during training: keypoint AP of a network, with the people that the PyTorch reference finds.

Letterbox, greedy NMS and evaluation are those of parity checks and of deployed applications (``deploy.reference``).
Faster here: images are letterboxed once, anchors are selected before they are decoded, and whole batches are computed.
Decoding stays float32 where convolutions run under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolopose.runtime.errors import DataError, SourceError
from yolopose.runtime.images import evenly, read_image
from yolopose.runtime.letterbox import Placement, letterbox
from yolopose.runtime.result import PoseResult
from yolopose.runtime.skeleton import Skeleton

from ..data.coco import CocoKeypoints
from ..deploy.reference import ReferenceEstimator
from ..evaluation import AP_SCORE_THRESHOLD, Convention, KeypointAP, evaluate
from ..model.config import InputSpec
from ..model.pose_net import PoseNet, Predictions, fuse_conv_bn

CACHE_BYTES = 2**30  # of letterboxed pixels: 5,461 images of 256 x 256
_READERS = 4  # threads: OpenCV decodes without holding Python's lock
_FAR = 1e9  # px; coordinates beyond it count as infinite, because areas of boxes would exceed float32


class ImageBatch(NamedTuple):
    """Letterboxed images of one batch; those that cannot be read are left out."""

    ids: list[int]
    images: np.ndarray  # (b, h, w, 3) uint8 BGR
    placements: list[Placement]


Progress = Callable[[Iterable[ImageBatch], int, str], Iterable[ImageBatch]]  # Console.progress


@dataclass(frozen=True)
class Validation:
    """Result of validating one network."""

    ap: KeypointAP
    results: dict[int, PoseResult]  # by image id, pixels of the image as it is in its file
    not_finite: int  # images whose predictions are NaN or infinite: they count as without people

    @property
    def note(self) -> str | None:
        """A warning for the user, if there is one."""
        if not self.not_finite:
            return None
        return (
            f"predictions in {self.not_finite} of {self.ap.images} validation images are not finite and count as no "
            "people: the network diverges"
        )


class Validator:
    """Prepares the images of ``dataset`` once; call it with a network after each epoch.

    shape_hw            letterboxed size, px
    images              "all" or "with-people" (``evaluation``)
    limit               maximum number of images, evenly spread
    score_threshold     of objectness x class
    max_candidates      anchors of an image that enter NMS, best first (docs/experiments.md: from 50 on the same AP)
    batch, cache_bytes  as for LetterboxedImages

    Raises DataError if average precision is undefined (no image, no labeled person) or the labels have another
    skeleton. Images that cannot be read are left out; ``damaged`` names them after the first call.
    """

    def __init__(
        self,
        dataset: CocoKeypoints,
        skeleton: Skeleton,
        spec: InputSpec,
        shape_hw: tuple[int, int],
        images: Convention = "all",
        *,
        limit: int | None = None,
        score_threshold: float = AP_SCORE_THRESHOLD,
        iou_threshold: float = 0.65,
        max_people: int = 100,
        max_candidates: int = 300,
        batch: int = 16,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        dataset.check_skeleton(skeleton)
        if images not in ("all", "with-people"):
            raise ValueError(f'images must be "all" or "with-people", got {images!r}')
        if min(max_people, max_candidates) < 1:
            raise ValueError(f"max_people and max_candidates must be at least 1, got {max_people}, {max_candidates}")
        ids = list(dataset.images) if images == "all" else list(dataset.ids_with_people)
        self.image_ids = [ids[index] for index in evenly(len(ids), limit)]
        if not set(self.image_ids) & set(dataset.ids_with_people):
            raise DataError(
                f"{dataset.path}: none of {len(self.image_ids)} validation images has a person with labeled keypoints"
            )
        paths = {image_id: dataset.images[image_id].path for image_id in self.image_ids}
        self.images = LetterboxedImages(paths, spec, shape_hw, batch, cache_bytes)
        self.dataset, self.skeleton, self.convention = dataset, skeleton, images
        self.score_threshold, self.iou_threshold = score_threshold, iou_threshold
        self.max_people, self.max_candidates = max_people, max_candidates

    @property
    def damaged(self) -> dict[str, str]:
        """Why an image was left out, by file."""
        return self.images.damaged

    def __call__(
        self, net: PoseNet, autocast: torch.dtype | None = None, progress: Progress | None = None
    ) -> Validation:
        """AP of ``net`` in evaluation mode, on its device. The network is not changed.

        autocast: precision of the convolutions; None: that of the weights. Raises DataError if no image with people can
        be read.
        """
        fused = fuse_conv_bn(net)  # a copy
        people = ReferenceEstimator(fused, self.score_threshold, self.iou_threshold, self.max_people).people
        results: dict[int, PoseResult] = {}
        not_finite = 0
        batches: Iterable[ImageBatch] = self.images
        if progress:
            batches = progress(batches, len(self.images), "validating")
        for batch in batches:
            if not batch.ids:
                continue
            found, above, finite = self._predict(fused, batch.images, autocast)
            for row, (image_id, placement) in enumerate(zip(batch.ids, batch.placements, strict=True)):
                result = PoseResult.empty(self.skeleton.num_keypoints)
                if finite[row]:
                    result = people(Predictions(*(part[row : row + 1] for part in found)), placement)
                results[image_id] = replace(result, num_candidates=above[row])
                not_finite += not finite[row]
        if not set(results) & set(self.dataset.ids_with_people):
            reason = next(iter(self.damaged.values()))
            raise DataError(f"no validation image with people can be read: {reason}")
        ap = evaluate(results, self.dataset, self.skeleton, list(results), self.convention)
        return Validation(ap, results, not_finite)

    @torch.inference_mode()
    def _predict(
        self, net: PoseNet, images: np.ndarray, autocast: torch.dtype | None
    ) -> tuple[Predictions, list[int], list[bool]]:
        """Predictions for images (B, h, w, 3) uint8 BGR.

        The best C anchors of each image, on the CPU, in the order of their indices; the number of anchors above the
        score threshold; whether all scores and the boxes and keypoints of candidates are finite.
        """
        device = next(net.parameters()).device
        pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float()  # channels last: faster on CPUs too
        if net.input.channel_order == "rgb":
            pixels = pixels.flip(1)
        with torch.autocast(device.type, autocast, enabled=autocast is not None):
            raw = net.head(net.features(pixels * net.input.scale))
        head = net.head
        scores = head.scores(raw.objectness.float(), raw.classes.float())  # (B, classes, N)
        best = scores.amax(dim=1)
        # In the order of indices: among equal scores the reference takes the first.
        chosen = best.topk(min(self.max_candidates, best.shape[1]), dim=1).indices.sort(dim=1).values

        def take(values: Tensor) -> Tensor:
            """(B or 1, F, N) -> (B, F, C) float32."""
            index = chosen[:, None].expand(-1, values.shape[1], -1)
            return values.float().expand(len(images), -1, -1).gather(2, index)

        priors = take(raw.priors)
        boxes = head.decode_boxes(take(raw.boxes), priors)
        xy, visibility = head.decode_keypoints(take(raw.keypoints), priors)
        # Comparisons with NaN are false.
        sound = (boxes.abs() < _FAR).all(1) & (xy.abs() < _FAR).all(2).all(1) & visibility.isfinite().all(1)  # (B, C)
        above = best > self.score_threshold
        finite = best.isfinite().all(1) & (sound | ~above.gather(1, chosen)).all(1)
        # Candidates that are not finite have no score, so that they neither are people nor support any.
        found_scores = take(scores).where(sound[:, None], 0)
        found = (boxes.mT, found_scores.mT, xy.permute(0, 3, 1, 2), visibility.mT)
        return Predictions(*(part.cpu() for part in found)), above.sum(1).tolist(), finite.tolist()


class LetterboxedImages:
    """Batches of letterboxed images in the order of ``paths``; can be iterated repeatedly. Reads one batch ahead.

    paths         by image id
    shape_hw      px
    cache_bytes   images are kept in memory if all of them fit, otherwise they are read each time

    Images that cannot be read are left out; after the first iteration ``damaged`` says why, by file.
    """

    def __init__(
        self,
        paths: Mapping[int, Path],
        spec: InputSpec,
        shape_hw: tuple[int, int],
        batch: int = 16,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        self.paths, self.spec, self.shape_hw = dict(paths), spec, shape_hw
        self.damaged: dict[str, str] = {}
        ids = list(self.paths)
        self._chunks = [ids[start : start + batch] for start in range(0, len(ids), batch)]
        self._keep = len(ids) * shape_hw[0] * shape_hw[1] * 3 <= cache_bytes
        self._kept: dict[int, tuple[np.ndarray, Placement]] = {}

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[ImageBatch]:
        with ThreadPoolExecutor(_READERS) as pool:
            ahead = pool.map(self._read, self._chunks[0] if self._chunks else [])
            for chunk, following in zip(self._chunks, [*self._chunks[1:], []], strict=True):
                now, ahead = ahead, pool.map(self._read, following)
                found = {id: image for id, image in zip(chunk, now, strict=True) if image is not None}
                letterboxed = [image for image, _ in found.values()]
                images = np.stack(letterboxed) if found else np.zeros((0, *self.shape_hw, 3), np.uint8)
                yield ImageBatch(list(found), images, [placement for _, placement in found.values()])

    def _read(self, image_id: int) -> tuple[np.ndarray, Placement] | None:
        """None, and an entry in ``damaged``, if the image cannot be read."""
        if image_id in self._kept:
            return self._kept[image_id]
        path = self.paths[image_id]
        if str(path) in self.damaged:
            return None  # the same images each time, so that epochs can be compared
        try:
            image = read_image(path)
        except SourceError as error:
            self.damaged[str(path)] = str(error)
            return None
        made = letterbox(image, self.shape_hw, pad_value=self.spec.pad_value, pad_side=self.spec.pad_side)
        if self._keep:
            self._kept[image_id] = made
        return made
