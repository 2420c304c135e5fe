"""Rows of box, objectness, classes and keypoints, as YOLOv5-pose, YOLOv7-pose and YOLOX-pose export them; people as
edgeai-yolov5 and mmdeploy (YOLOX-Pose, RTMO) write them behind their own NMS.

Three anchors a cell are YOLOv5's and YOLOv7's, whose images are RGB in 0..1; one a cell is edgeai-yolox, whose images
are BGR bytes with padding on the right and at the bottom; mmdeploy's are BGR bytes padded all around.
"""

from __future__ import annotations

from yolopose.model.input_spec import InputSpec

from .layout import Layout, keypoints_in, strides_of
from .source import Source

YOLOV5, YOLOX, EDGEAI, MMDEPLOY = "yolov5", "yolox", "edgeai-people", "mmdeploy"
_RGB = InputSpec("rgb", 1 / 255, 114, "center")
_PADDED_RIGHT = InputSpec("bgr", 1.0, 114, "bottom-right")
_BGR = InputSpec("bgr", 1.0, 114, "center")


def layouts(source: Source) -> list[Layout | str]:
    """What the outputs may be; a sentence for each layout that they are not."""
    return [
        _dense(source, YOLOV5, 3, _RGB),
        _dense(source, YOLOX, 1, _PADDED_RIGHT),
        _edgeai(source),
        _mmdeploy(source),
    ]


def _dense(source: Source, layout: str, per_cell: int, given: InputSpec) -> Layout | str:
    shapes = list(source.shapes.items())
    if len(shapes) != 1 or len(shapes[0][1]) != 3:
        return f"{layout}: one output of three dimensions is wanted"
    name, (_, rows, features) = shapes[0]
    strides = strides_of(rows, source.probe_hw, per_cell)
    if strides is None:
        told = "three anchors" if per_cell == 3 else "one anchor"
        return f"{layout}: {rows} rows are not {told} in each cell of strides 8, 16, 32 (and 64)"
    keypoints = keypoints_in(features, 6)
    if keypoints is None:
        return f"{layout}: {features} columns are not a box, objectness, one class and keypoints of three numbers"
    size = _sized(source, given, strides[-1])
    return Layout(layout, "rows and columns of the output", (name,), 2, "xywh", 5, 1, 6, keypoints, size, objectness=4)


def _edgeai(source: Source) -> Layout | str:
    shapes = list(source.shapes.items())
    if len(shapes) != 1 or len(shapes[0][1]) != 2:
        return f"{EDGEAI}: one output of two dimensions is wanted"
    name, (_, features) = shapes[0]
    keypoints = keypoints_in(features, 6)
    if keypoints is None or source.batch != 1:
        return f"{EDGEAI}: rows of 6 + 3K columns for a batch of 1 are wanted"
    size = _sized(source, _RGB, 64)
    why = "one list of people, without a batch"
    return Layout(EDGEAI, why, (name,), 2, "xyxy", 4, 1, 6, keypoints, size, label=5, finished=True)


def _mmdeploy(source: Source) -> Layout | str:
    boxes = [name for name, shape in source.shapes.items() if len(shape) == 3 and shape[2] == 5]
    points = [name for name, shape in source.shapes.items() if len(shape) == 4 and shape[3] == 3]
    if len(source.shapes) != 2 or len(boxes) != 1 or len(points) != 1:
        return f"{MMDEPLOY}: boxes (batch, rows, 5) and keypoints (batch, rows, K, 3) are wanted"
    keypoints = source.shapes[points[0]][2]
    size = _sized(source, _BGR, 32)
    outputs = (boxes[0], points[0])
    return Layout(MMDEPLOY, "its two outputs", outputs, 2, "xyxy", 4, 1, 5, keypoints, size, finished=True)


def _sized(source: Source, given: InputSpec, multiple: int) -> InputSpec:
    """The convention, at the size that the file says, else the usual one."""
    known = [side for side in source.shape_hw if side is not None]
    size = max(known) // multiple * multiple if known else 640
    return InputSpec(given.channel_order, given.scale, given.pad_value, given.pad_side, multiple, max(size, multiple))
