"""Which layout a file has: every adapter is asked, and more than one answer is the user's to decide."""

from __future__ import annotations

from yolopose.runtime.errors import UnknownCheckpoint

from . import rows, ultralytics
from .layout import Layout
from .source import Source

LAYOUTS = (ultralytics.DENSE, ultralytics.PEOPLE, rows.YOLOV5, rows.YOLOX, rows.EDGEAI, rows.MMDEPLOY)
_OTHER_TASKS = {"detect": "detection", "segment": "segmentation", "classify": "classification", "obb": "oriented boxes"}


def recognise(source: Source, name: str | None = None) -> Layout:
    """The layout of the outputs; name: the one that the user says it is.

    Raises UnknownCheckpoint: none fits, or several do, with what each adapter saw.
    """
    task = source.metadata.get("task")
    if task in _OTHER_TASKS:
        raise UnknownCheckpoint(
            f"{source.path} is for {_OTHER_TASKS[task]} (its metadata says task {task!r}): a pose network is wanted"
        )
    adapters = (ultralytics,) if ultralytics.wrote(source) else (ultralytics, rows)
    answers = [answer for adapter in adapters for answer in adapter.layouts(source)]
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
