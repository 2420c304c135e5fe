"""Validation pictures in the network's frame: read and letterboxed once, then kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from yolopose.runtime.errors import SourceError
from yolopose.runtime.images import read_image
from yolopose.runtime.letterbox import Placement, letterbox

from ..model.input_spec import InputSpec

CACHE_BYTES = 2**30  # of pixels: 5,461 pictures of 256 x 256
_READERS = 4  # threads: OpenCV decodes without holding Python's lock

_Picture = tuple[np.ndarray, Placement]


class PictureBatch(NamedTuple):
    """Pictures of one batch that can be read, possibly none."""

    ids: list[int]
    images: np.ndarray  # (b, h, w, 3) uint8 BGR
    placements: list[Placement]


class LetterboxedPictures:
    """Iterating gives batches in the order of ``paths``, as often as one likes; the next is read while one is used.

    paths: by image id; shape_hw: pixels; cache_bytes: pictures are kept if all of them fit, else read each time.
    Pictures that cannot be read are left out; after the first round ``damaged`` says why, by file.
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
        self._kept: dict[int, _Picture] = {}

    def __len__(self) -> int:
        """Batches."""
        return len(self._chunks)

    def __iter__(self) -> Iterator[PictureBatch]:
        with ThreadPoolExecutor(_READERS) as pool:
            ahead = pool.map(self._picture, self._chunks[0] if self._chunks else [])
            for chunk, following in zip(self._chunks, [*self._chunks[1:], []], strict=True):
                now, ahead = ahead, pool.map(self._picture, following)
                found = {id: picture for id, picture in zip(chunk, now, strict=True) if picture is not None}
                pictures = list(found.values())
                images = np.stack([image for image, _ in pictures]) if found else np.zeros((0, *self.shape_hw, 3), "u1")
                yield PictureBatch(list(found), images, [placement for _, placement in pictures])

    def _picture(self, image_id: int) -> _Picture | None:
        """None, and an entry in ``damaged``, when it cannot be read."""
        if image_id in self._kept:
            return self._kept[image_id]
        path = self.paths[image_id]
        if str(path) in self.damaged:
            return None  # the same pictures each time, or figures of two epochs could not be compared
        try:
            image = read_image(path)
        except SourceError as error:
            self.damaged[str(path)] = str(error)
            return None
        picture = letterbox(image, self.shape_hw, pad_value=self.spec.pad_value, pad_side=self.spec.pad_side)
        if self._keep:
            self._kept[image_id] = picture
        return picture
