"""Layouts: what the outputs of third-party pose networks mean, recognized from metadata and shapes.

One row per prediction, box, objectness, classes and keypoints: YOLOv5-pose and YOLOv7-pose (three anchors per cell, RGB
in 0..1), YOLOX-pose of edgeai-yolox (one anchor per cell, BGR in 0..255, padded right and below).

Ultralytics' pose heads (v8, 11, 26): predictions as (B, 4 + classes + 3K, N) with boxes as center and size, or people
as (B, R, 6 + 3K) with corners, score and class, from ``nms=True`` or the head without NMS. Metadata gives the task,
``kpt_shape``, ``names`` and stride; images are RGB in 0..1, letterboxed at the center on gray 114. Facts read from
exported files.

People after the file's own NMS: a list of rows by edgeai-yolov5, boxes and keypoints by mmdeploy (YOLOX-Pose, RTMO; BGR
in 0..255, padded on all sides).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from yolopose.model.config import InputSpec
from yolopose.runtime.errors import UnknownCheckpoint

from ..source import Suppression
from .onnx_file import OnnxFile

ULTRALYTICS, ULTRALYTICS_PEOPLE = "ultralytics", "ultralytics-people"
YOLOV5, YOLOX, EDGEAI, MMDEPLOY = "yolov5", "yolox", "edgeai-people", "mmdeploy"
LAYOUTS = (ULTRALYTICS, ULTRALYTICS_PEOPLE, YOLOV5, YOLOX, EDGEAI, MMDEPLOY)

_STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_MAX_PEOPLE = 1000  # more rows are predictions, not people
_OTHER_TASKS = {"detect": "detection", "segment": "segmentation", "classify": "classification", "obb": "oriented boxes"}
_RGB = InputSpec("rgb", 1 / 255, 114, "center")
_BGR = InputSpec("bgr", 1.0, 114, "center")
_BGR_PADDED_RIGHT = InputSpec("bgr", 1.0, 114, "bottom-right")


@dataclass(frozen=True)
class Layout:
    """Meaning of the outputs, concatenated along their features: one row per prediction, or per person.

    name             one of ``LAYOUTS``
    why              what it was recognized by
    outputs          names of the outputs to concatenate
    features_axis    1: (B, F, N); 2: (B, N, F)
    box              columns 0..3: "xywh" (center and size) or "xyxy", in pixels
    scores           first column of the ``num_classes`` scores, in 0..1
    keypoints        first column of the keypoints: x, y in pixels and visibility in 0..1, ``num_keypoints`` times
    keypoint_numbers 3; 2 for a network without visibility, whose keypoint scores are 1
    input            what the network takes
    objectness       column that multiplies the scores; None: there is none
    label            column with the class as a number; None: the class is the best score's
    suppression      "added": rows are predictions; otherwise rows are people
    """

    name: str
    why: str
    outputs: tuple[str, ...]
    features_axis: int
    box: str
    scores: int
    num_classes: int
    keypoints: int
    num_keypoints: int
    input: InputSpec
    objectness: int | None = None
    label: int | None = None
    suppression: Suppression = "added"
    keypoint_numbers: int = 3

    @property
    def nms_free(self) -> bool:
        """Rows are people."""
        return self.suppression != "added"


def recognize(source: OnnxFile, name: str | None = None) -> Layout:
    """The layout of the outputs; name: the layout given by the user.

    Raises UnknownCheckpoint if no layout fits or several do; the message says what each layout needs.
    """
    task = source.metadata.get("task")
    if task in _OTHER_TASKS:
        raise UnknownCheckpoint(
            f"{source.path} is for {_OTHER_TASKS[task]} (its metadata gives task {task!r}): give a pose network"
        )
    readers = _READERS[:2] if _written_by_ultralytics(source) else _READERS
    answers = [read(source) for read in readers]
    found = {answer.name: answer for answer in answers if isinstance(answer, Layout)}
    reasons = list(dict.fromkeys(answer for answer in answers if isinstance(answer, str)))
    if name is not None:
        if name in found:
            return found[name]
        reason = "; ".join(reason for reason in reasons if reason.startswith(f"{name}:"))
        reason = reason or "it is not one of " + ", ".join(LAYOUTS)
        raise UnknownCheckpoint(f"{source.path} does not have the layout {name}: {reason} ({source.describe()})")
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        choices = "; ".join(f"{layout.name} ({layout.why})" for layout in found.values())
        raise UnknownCheckpoint(f"{source.path} may be {choices}: choose one by --layout ({source.describe()})")
    raise UnknownCheckpoint(f"{source.path} has no known layout ({source.describe()}). " + "; ".join(reasons))


# One reader per layout: the layout, or a sentence on why the outputs do not have it.


def _ultralytics(source: OnnxFile) -> Layout | str:
    output = _ultralytics_output(source, ULTRALYTICS)
    if isinstance(output, str):
        return output
    name, (_, features, rows) = output
    strides = _strides(rows, source.probe_hw)
    if strides is None:
        height, width = source.probe_hw
        return f"{ULTRALYTICS}: {rows} columns are not the cells of strides 8, 16, 32 (and 64) at {height}x{width}"
    names, expected = source.metadata.get("names"), _keypoints_in_metadata(source)
    classes = len(names) if expected is not None and isinstance(names, dict) else 1
    numbers = _numbers_in_metadata(source)
    keypoints = _keypoints_in(features, 4 + classes, numbers)
    if keypoints is None or expected not in (None, keypoints):
        return f"{ULTRALYTICS}: {features} features are not a box, {classes} classes and keypoints of {numbers} numbers"
    why = "shape of the output" if expected is None else "metadata and shape of the output"
    spec = _ultralytics_input(source, strides[-1])
    return Layout(
        ULTRALYTICS, why, (name,), 1, "xywh", 4, classes, 4 + classes, keypoints, spec, keypoint_numbers=numbers
    )


def _ultralytics_people(source: OnnxFile) -> Layout | str:
    output = _ultralytics_output(source, ULTRALYTICS_PEOPLE)
    if isinstance(output, str):
        return output
    name, (_, rows, features) = output
    numbers, expected = _numbers_in_metadata(source), _keypoints_in_metadata(source)
    keypoints = _keypoints_in(features, 6, numbers)
    if keypoints is None or rows > _MAX_PEOPLE:
        return (
            f"{ULTRALYTICS_PEOPLE}: needs at most {_MAX_PEOPLE} rows of box, score, class and keypoints, "
            f"this is {rows} x {features}"
        )
    if expected not in (None, keypoints):
        return f"{ULTRALYTICS_PEOPLE}: {features} columns are not those of {expected} keypoints"
    if _strides(features, source.probe_hw) is not None:
        return f"{ULTRALYTICS_PEOPLE}: {features} columns are the cells of a grid"
    if _strides(rows, source.probe_hw, 3) is not None:
        return f"{ULTRALYTICS_PEOPLE}: {rows} rows are the anchors of a grid"
    suppression: Suppression = "not needed" if source.metadata.get("end2end") is True else "in the source file"
    why = "shape of the output; " + ("NMS inside" if suppression == "in the source file" else "a head without NMS")
    stride = source.metadata.get("stride")
    spec = _ultralytics_input(source, stride if isinstance(stride, int) and stride > 0 else 32)
    return Layout(
        ULTRALYTICS_PEOPLE, why, (name,), 2, "xyxy", 4, 1, 6, keypoints, spec,
        label=5, suppression=suppression, keypoint_numbers=numbers,
    )  # fmt: skip


def _yolov5(source: OnnxFile) -> Layout | str:
    return _rows(source, YOLOV5, 3, _RGB)


def _yolox(source: OnnxFile) -> Layout | str:
    return _rows(source, YOLOX, 1, _BGR_PADDED_RIGHT)


def _rows(source: OnnxFile, layout: str, per_cell: int, spec: InputSpec) -> Layout | str:
    shapes = list(source.shapes.items())
    if len(shapes) != 1 or len(shapes[0][1]) != 3:
        return f"{layout}: needs one output of three dimensions"
    name, (_, rows, features) = shapes[0]
    strides = _strides(rows, source.probe_hw, per_cell)
    if strides is None:
        anchors = "three anchors" if per_cell == 3 else "one anchor"
        return f"{layout}: {rows} rows are not {anchors} in each cell of strides 8, 16, 32 (and 64)"
    keypoints = _keypoints_in(features, 6)
    if keypoints is None:
        return f"{layout}: {features} columns are not a box, objectness, one class and keypoints of three numbers"
    spec = _at_size_of(source, spec, strides[-1])
    return Layout(layout, "rows and columns of the output", (name,), 2, "xywh", 5, 1, 6, keypoints, spec, objectness=4)


def _edgeai(source: OnnxFile) -> Layout | str:
    shapes = list(source.shapes.items())
    if len(shapes) != 1 or len(shapes[0][1]) != 2:
        return f"{EDGEAI}: needs one output of two dimensions"
    name, (_, features) = shapes[0]
    keypoints = _keypoints_in(features, 6)
    if keypoints is None or source.batch != 1:
        return f"{EDGEAI}: needs rows of 6 + 3K columns for a batch of 1"
    why, spec = "one list of people, without a batch", _at_size_of(source, _RGB, 64)
    return Layout(EDGEAI, why, (name,), 2, "xyxy", 4, 1, 6, keypoints, spec, label=5, suppression="in the source file")


def _mmdeploy(source: OnnxFile) -> Layout | str:
    boxes = [name for name, shape in source.shapes.items() if len(shape) == 3 and shape[2] == 5]
    points = [name for name, shape in source.shapes.items() if len(shape) == 4 and shape[3] == 3]
    if len(source.shapes) != 2 or len(boxes) != 1 or len(points) != 1:
        return f"{MMDEPLOY}: needs boxes (batch, rows, 5) and keypoints (batch, rows, K, 3)"
    outputs, keypoints = (boxes[0], points[0]), source.shapes[points[0]][2]
    spec = _at_size_of(source, _BGR, 32)
    return Layout(
        MMDEPLOY, "its two outputs", outputs, 2, "xyxy", 4, 1, 5, keypoints, spec, suppression="in the source file"
    )


_READERS: tuple[Callable[[OnnxFile], Layout | str], ...] = (
    _ultralytics,
    _ultralytics_people,
    _yolov5,
    _yolox,
    _edgeai,
    _mmdeploy,
)


def _written_by_ultralytics(source: OnnxFile) -> bool:
    return "kpt_shape" in source.metadata and "stride" in source.metadata


def _ultralytics_output(source: OnnxFile, layout: str) -> tuple[str, tuple[int, ...]] | str:
    """Name and shape of the one output, or why it is not Ultralytics'."""
    if len(source.shapes) != 1:
        return f"{layout}: needs one output, there are {len(source.shapes)}"
    ((name, shape),) = source.shapes.items()
    if len(shape) != 3:
        return f"{layout}: needs an output of three dimensions, this one has {len(shape)}"
    kpt_shape = source.metadata.get("kpt_shape")
    if isinstance(kpt_shape, list | tuple) and len(kpt_shape) == 2 and kpt_shape[1] not in (2, 3):
        return f"{layout}: its keypoints are {list(kpt_shape)}: [K, 3] or [K, 2] (without visibility) is needed"
    return name, shape


def _keypoints_in_metadata(source: OnnxFile) -> int | None:
    kpt_shape = source.metadata.get("kpt_shape")
    return kpt_shape[0] if isinstance(kpt_shape, list | tuple) and len(kpt_shape) == 2 else None


def _numbers_in_metadata(source: OnnxFile) -> int:
    """Numbers of a keypoint: 3, or 2 without visibility."""
    kpt_shape = source.metadata.get("kpt_shape")
    return 2 if isinstance(kpt_shape, list | tuple) and len(kpt_shape) == 2 and kpt_shape[1] == 2 else 3


def _ultralytics_input(source: OnnxFile, multiple: int) -> InputSpec:
    size = source.metadata.get("imgsz")
    best = max(size) if isinstance(size, list | tuple) and all(isinstance(each, int) for each in size) else 640
    return InputSpec("rgb", 1 / 255, 114, "center", multiple, max(best // multiple, 1) * multiple)


def _at_size_of(source: OnnxFile, spec: InputSpec, multiple: int) -> InputSpec:
    """``spec`` at the size that the file fixes, else at 640."""
    known = [side for side in source.shape_hw if side is not None]
    size = max(known) // multiple * multiple if known else 640
    return InputSpec(spec.channel_order, spec.scale, spec.pad_value, spec.pad_side, multiple, max(size, multiple))


def _strides(rows: int, shape_hw: tuple[int, int], per_cell: int = 1) -> tuple[int, ...] | None:
    """The levels that have ``rows`` anchors, ``per_cell`` in each cell; None if there are none."""
    height, width = shape_hw
    for strides in _STRIDES:
        if per_cell * sum((height // stride) * (width // stride) for stride in strides) == rows:
            return strides
    return None


def _keypoints_in(features: int, others: int, numbers: int = 3) -> int | None:
    """Number of keypoints of ``numbers`` in ``features`` columns without ``others``; None if they do not fit."""
    left = features - others
    return left // numbers if left >= numbers and left % numbers == 0 else None
