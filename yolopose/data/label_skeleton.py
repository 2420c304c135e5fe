"""Which skeleton labels have, from what their file says about the keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolopose.runtime.errors import DataError
from yolopose.runtime.skeleton import SKELETONS, Pairs, Skeleton, generic_skeleton

from .coco import plain


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
