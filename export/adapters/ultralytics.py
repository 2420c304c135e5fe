"""Ultralytics' pose heads (v8, 11, 26): all predictions, or people, by ``nms=True`` or the head that needs no NMS.

Facts read from exported files: metadata names the task, ``kpt_shape``, ``names`` and stride; images are RGB in 0..1,
letterboxed in the centre on grey 114; predictions are (B, 4 + classes + 3K, N) with boxes as centre and size, people
(B, R, 6 + 3K) with corners, score and class.
"""

from __future__ import annotations

from yolopose.model.input_spec import InputSpec

from .layout import Layout, keypoints_in, strides_of
from .source import Source

DENSE, PEOPLE = "ultralytics", "ultralytics-people"
_MOST_PEOPLE = 1000


def wrote(source: Source) -> bool:
    """Whether Ultralytics did, by its metadata."""
    return "kpt_shape" in source.metadata and "stride" in source.metadata


def layouts(source: Source) -> list[Layout | str]:
    """What the outputs may be; a sentence for each layout that they are not."""
    if len(source.shapes) != 1:
        return [f"{DENSE}: one output is wanted, there are {len(source.shapes)}"]
    ((name, shape),) = source.shapes.items()
    if len(shape) != 3:
        return [f"{DENSE}: an output of three dimensions is wanted, this one has {len(shape)}"]
    names, kpt_shape = source.metadata.get("names"), source.metadata.get("kpt_shape")
    told = isinstance(kpt_shape, list | tuple) and len(kpt_shape) == 2
    if isinstance(kpt_shape, list | tuple) and len(kpt_shape) == 2 and kpt_shape[1] != 3:
        return [
            f"{DENSE}: its keypoints are {list(kpt_shape)}, without visibility: train it with kpt_shape [K, 3], "
            "the runtime promises a score for each keypoint"
        ]
    classes = len(names) if told and isinstance(names, dict) else 1
    return [_dense(source, name, shape, told, classes), _people(source, name, shape, told)]


def _dense(source: Source, name: str, shape: tuple[int, ...], told: bool, classes: int) -> Layout | str:
    _, features, rows = shape
    strides = strides_of(rows, source.probe_hw)
    if strides is None:
        height, width = source.probe_hw
        return f"{DENSE}: {rows} columns are not the cells of strides 8, 16, 32 (and 64) at {height}x{width}"
    keypoints = keypoints_in(features, 4 + classes)
    if keypoints is None or (told and keypoints != source.metadata["kpt_shape"][0]):
        return f"{DENSE}: {features} features are not a box, {classes} classes and keypoints of three numbers"
    why = "metadata and shape of the output" if told else "shape of the output"
    return Layout(DENSE, why, (name,), 1, "xywh", 4, classes, 4 + classes, keypoints, _input(source, strides[-1]))


def _people(source: Source, name: str, shape: tuple[int, ...], told: bool) -> Layout | str:
    _, rows, features = shape
    keypoints = keypoints_in(features, 6)
    if keypoints is None or rows > _MOST_PEOPLE:
        return (
            f"{PEOPLE}: at most {_MOST_PEOPLE} rows of box, score, class and keypoints are wanted, this is "
            f"{rows} x {features}"
        )
    if told and keypoints != source.metadata["kpt_shape"][0]:
        return f"{PEOPLE}: {features} columns are not those of {source.metadata['kpt_shape'][0]} keypoints"
    if strides_of(features, source.probe_hw) is not None:
        return f"{PEOPLE}: {features} columns are the cells of a grid"
    if strides_of(rows, source.probe_hw, 3) is not None:
        return f"{PEOPLE}: {rows} rows are the anchors of a grid"
    nms = "a head without NMS" if source.metadata.get("end2end") is True else "NMS inside"
    why = f"shape of the output; {nms}"
    stride = source.metadata.get("stride")
    multiple = stride if isinstance(stride, int) and stride > 0 else 32
    return Layout(PEOPLE, why, (name,), 2, "xyxy", 4, 1, 6, keypoints, _input(source, multiple), label=5, finished=True)


def _input(source: Source, multiple: int) -> InputSpec:
    size = source.metadata.get("imgsz")
    best = max(size) if isinstance(size, list | tuple) and all(isinstance(each, int) for each in size) else 640
    return InputSpec("rgb", 1 / 255, 114, "center", multiple, max(best // multiple, 1) * multiple)
