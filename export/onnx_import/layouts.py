"""What the columns of a third_party network's outputs mean.

Rows of box, objectness, classes and keypoints, as YOLOv5-pose, YOLOv7-pose and YOLOX-pose export them; people as
edgeai-yolov5 and mmdeploy (YOLOX-Pose, RTMO) write them behind their own NMS.

Three anchors a cell are YOLOv5's and YOLOv7's, whose images are RGB in 0..1; one a cell is edgeai-yolox, whose images
are BGR bytes with padding on the right and at the bottom; mmdeploy's are BGR bytes padded all around.

Ultralytics' pose heads (v8, 11, 26): all predictions, or people, by ``nms=True`` or the head that needs no NMS.

Facts read from exported files: metadata names the task, ``kpt_shape``, ``names`` and stride; images are RGB in 0..1,
letterboxed in the centre on grey 114; predictions are (B, 4 + classes + 3K, N) with boxes as centre and size, people
(B, R, 6 + 3K) with corners, score and class.

Which layout a file has: every adapter is asked, and more than one answer is the user's to decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from yolopose.model.config import InputSpec
from yolopose.runtime.errors import UnknownCheckpoint

from .onnx_file import OnnxFile

STRIDES = ((8, 16, 32), (8, 16, 32, 64))


@dataclass(frozen=True)
class Layout:
    """Outputs, concatenated along their features: a row a prediction, or a person where NMS is inside already.

    Columns: box 0..3; scores of ``num_classes`` classes from ``scores`` on, times column ``objectness`` where there is
    one; of nms_free rows the one score, and the class as a number in column ``label``; x, y, visibility of each
    keypoint from ``keypoints`` on, in pixels and 0..1.
    """

    name: str
    why: str  # how it was recognised
    outputs: tuple[str, ...]
    features_axis: int  # 1: (B, F, N); 2: (B, N, F)
    box: str  # "xywh": centre and size; "xyxy"
    scores: int
    num_classes: int
    keypoints: int
    num_keypoints: int
    input: InputSpec
    objectness: int | None = None
    label: int | None = None
    nms_free: bool = False  # NMS, or a head that needs none, is inside


def anchors(shape_hw: tuple[int, int], strides: tuple[int, ...]) -> int:
    """Cells of all levels."""
    return sum((shape_hw[0] // stride) * (shape_hw[1] // stride) for stride in strides)


def strides_of(rows: int, shape_hw: tuple[int, int], per_cell: int = 1) -> tuple[int, ...] | None:
    """The levels whose cells, so many times each, are ``rows``; None: they are something else."""
    return next((strides for strides in STRIDES if per_cell * anchors(shape_hw, strides) == rows), None)


def keypoints_in(features: int, others: int) -> int | None:
    """How many triples (x, y, visibility) fill what ``others`` columns leave; None: they do not."""
    left = features - others
    return left // 3 if left >= 3 and left % 3 == 0 else None


YOLOV5, YOLOX, EDGEAI, MMDEPLOY = "yolov5", "yolox", "edgeai-people", "mmdeploy"
_RGB = InputSpec("rgb", 1 / 255, 114, "center")
_PADDED_RIGHT = InputSpec("bgr", 1.0, 114, "bottom-right")
_BGR = InputSpec("bgr", 1.0, 114, "center")


def layouts_rows(source: OnnxFile) -> list[Layout | str]:
    """What the outputs may be; a sentence for each layout that they are not."""
    return [
        _dense_rows(source, YOLOV5, 3, _RGB),
        _dense_rows(source, YOLOX, 1, _PADDED_RIGHT),
        _edgeai(source),
        _mmdeploy(source),
    ]


def _dense_rows(source: OnnxFile, layout: str, per_cell: int, given: InputSpec) -> Layout | str:
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


def _edgeai(source: OnnxFile) -> Layout | str:
    shapes = list(source.shapes.items())
    if len(shapes) != 1 or len(shapes[0][1]) != 2:
        return f"{EDGEAI}: one output of two dimensions is wanted"
    name, (_, features) = shapes[0]
    keypoints = keypoints_in(features, 6)
    if keypoints is None or source.batch != 1:
        return f"{EDGEAI}: rows of 6 + 3K columns for a batch of 1 are wanted"
    size = _sized(source, _RGB, 64)
    why = "one list of people, without a batch"
    return Layout(EDGEAI, why, (name,), 2, "xyxy", 4, 1, 6, keypoints, size, label=5, nms_free=True)


def _mmdeploy(source: OnnxFile) -> Layout | str:
    boxes = [name for name, shape in source.shapes.items() if len(shape) == 3 and shape[2] == 5]
    points = [name for name, shape in source.shapes.items() if len(shape) == 4 and shape[3] == 3]
    if len(source.shapes) != 2 or len(boxes) != 1 or len(points) != 1:
        return f"{MMDEPLOY}: boxes (batch, rows, 5) and keypoints (batch, rows, K, 3) are wanted"
    keypoints = source.shapes[points[0]][2]
    size = _sized(source, _BGR, 32)
    outputs = (boxes[0], points[0])
    return Layout(MMDEPLOY, "its two outputs", outputs, 2, "xyxy", 4, 1, 5, keypoints, size, nms_free=True)


def _sized(source: OnnxFile, given: InputSpec, multiple: int) -> InputSpec:
    """The convention, at the size that the file says, else the usual one."""
    known = [side for side in source.shape_hw if side is not None]
    size = max(known) // multiple * multiple if known else 640
    return InputSpec(given.channel_order, given.scale, given.pad_value, given.pad_side, multiple, max(size, multiple))


DENSE, PEOPLE = "ultralytics", "ultralytics-people"
_MOST_PEOPLE = 1000


def wrote(source: OnnxFile) -> bool:
    """Whether Ultralytics did, by its metadata."""
    return "kpt_shape" in source.metadata and "stride" in source.metadata


def layouts(source: OnnxFile) -> list[Layout | str]:
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


def _dense(source: OnnxFile, name: str, shape: tuple[int, ...], told: bool, classes: int) -> Layout | str:
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


def _people(source: OnnxFile, name: str, shape: tuple[int, ...], told: bool) -> Layout | str:
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
    return Layout(PEOPLE, why, (name,), 2, "xyxy", 4, 1, 6, keypoints, _input(source, multiple), label=5, nms_free=True)


def _input(source: OnnxFile, multiple: int) -> InputSpec:
    size = source.metadata.get("imgsz")
    best = max(size) if isinstance(size, list | tuple) and all(isinstance(each, int) for each in size) else 640
    return InputSpec("rgb", 1 / 255, 114, "center", multiple, max(best // multiple, 1) * multiple)


LAYOUTS = (DENSE, PEOPLE, YOLOV5, YOLOX, EDGEAI, MMDEPLOY)
_OTHER_TASKS = {"detect": "detection", "segment": "segmentation", "classify": "classification", "obb": "oriented boxes"}


def recognise(source: OnnxFile, name: str | None = None) -> Layout:
    """The layout of the outputs; name: the one that the user says it is.

    Raises UnknownCheckpoint: none fits, or several do, with what each adapter saw.
    """
    task = source.metadata.get("task")
    if task in _OTHER_TASKS:
        raise UnknownCheckpoint(
            f"{source.path} is for {_OTHER_TASKS[task]} (its metadata says task {task!r}): a pose network is wanted"
        )
    answers = layouts(source) if wrote(source) else [*layouts(source), *layouts_rows(source)]
    found = {answer.name: answer for answer in answers if isinstance(answer, Layout)}
    reasons = [answer for answer in answers if isinstance(answer, str)]
    if name is not None and name not in found:
        why = "; ".join(
            reason for reason in reasons if reason.startswith(f"{name}:")
        ) or "it is not one of " + ", ".join(LAYOUTS)
        raise UnknownCheckpoint(f"{source.path} is not of the layout {name}: {why} ({source.describe()})")
    if name is not None:
        return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        told = "; ".join(f"{layout.name} ({layout.why})" for layout in found.values())
        raise UnknownCheckpoint(f"{source.path} may be {told}: say which by --layout ({source.describe()})")
    raise UnknownCheckpoint(f"{source.path}: {source.describe()} is no layout that is known. " + "; ".join(reasons))
