"""A foreign ONNX file as the subject of an export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from yolopose.runtime.contract import ModelInfo, NmsInfo
from yolopose.runtime.errors import UnknownCheckpoint
from yolopose.runtime.skeleton import COCO_17, LSP_14, Skeleton, generic_skeleton

from ..shapes import ShapeConfig
from ..subject import Subject
from .batch import opened
from .graft import graft
from .layout import Layout
from .recognise import recognise
from .reference import SourceReference
from .source import Source, read_source


def foreign_subject(
    path: Path, layout_name: str | None, skeleton: Skeleton | None, say: Callable[[str], None]
) -> Subject:
    """Raises CheckpointError, UnknownCheckpoint (and why), ValueError for a skeleton of other points."""
    source = read_source(path)
    layout = recognise(source, layout_name)
    say(f"{path}: {layout.name}, by {layout.why}; {source.describe()}")
    batch, model = source.batch, source.model
    if batch is not None and not layout.finished and (free := opened(source)) is not None:
        say(f"its batch of {batch} is opened: the graph gives the same for several images")
        batch, model = None, free
    height, width = source.shape_hw
    if (height is None) != (width is None):
        raise UnknownCheckpoint(f"{path} fixes one side of its images and leaves the other open: export it again")
    fixed = None if height is None or width is None else (height, width)
    grafted = replace(source, model=model)

    def build(nms: NmsInfo, shape: ShapeConfig) -> onnx.ModelProto:
        return graft(grafted, layout, nms, shape)

    points = _skeleton(path, layout, skeleton)
    return Subject(
        told=f"{path}: {layout.name} layout, {layout.num_keypoints} keypoints"
        + (", NMS inside" if layout.finished else ""),
        model=ModelInfo(name=_name(source), family=layout.name, classes=_classes(source, layout)),
        skeleton=points,
        input=layout.input,
        weights_sha256=source.sha256,
        weights_licence=_text(source.metadata.get("license")),
        build=build,
        reference=partial(SourceReference, source, layout),
        shape=ShapeConfig(fixed, batch),
        foreign=True,
        finished=layout.finished,
    )


def _skeleton(path: Path, layout: Layout, given: Skeleton | None) -> Skeleton:
    if given is not None:
        if given.num_keypoints != layout.num_keypoints:
            raise ValueError(
                f"skeleton {given.name!r} has {given.num_keypoints} keypoints, {path} has {layout.num_keypoints}"
            )
        return given
    known = (skeleton for skeleton in (COCO_17, LSP_14) if skeleton.num_keypoints == layout.num_keypoints)
    return next(known, None) or generic_skeleton(layout.num_keypoints)


def _classes(source: Source, layout: Layout) -> tuple[str, ...]:
    names = source.metadata.get("names")
    if isinstance(names, dict) and all(isinstance(name, str) for name in names.values()):
        found = tuple(str(names[key]) for key in sorted(names))
        if len(found) == layout.num_classes or layout.label is not None:
            return found or ("person",)
    if layout.num_classes == 1:
        return ("person",)
    return tuple(f"class_{i}" for i in range(layout.num_classes))


def _name(source: Source) -> str:
    return (_text(source.metadata.get("description")) or source.path.stem).strip()[:80]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
