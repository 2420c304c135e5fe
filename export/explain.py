"""``yolopose-export --explain``: what a file is, what would be made of it, what that takes and gives."""

from __future__ import annotations

from pathlib import Path

from yolopose.runtime.contract import InputInfo, NmsInfo

from .subject import Subject


def explained(subject: Subject, given: InputInfo, nms: NmsInfo, precision: str, target: Path) -> list[str]:
    """Ten lines."""
    spec, model, skeleton = subject.input, subject.model, subject.skeleton
    values = "bytes" if spec.scale == 1 else f"bytes times {spec.scale:.4g}"
    classes = ", ".join(model.classes[:5]) + (f" and {len(model.classes) - 5} more" if len(model.classes) > 5 else "")
    finished = subject.finished
    suppression = (
        f"none of ours: each person comes once, the {nms.max_people} best are kept"
        if finished
        else f"ours, in the graph: {nms.candidates} candidates, {nms.rounds} rounds, {nms.max_people} people"
        + (", each class by itself" if nms.class_aware else "")
    )
    rows, points = f"(batch, {nms.max_people}", skeleton.num_keypoints
    letterbox = f"letterboxed on grey {spec.pad_value}, padded {spec.pad_side}"
    thresholds = f"score and IoU threshold of each image, by default {nms.score_threshold:g} and {nms.iou_threshold:g}"
    return [
        f"is:        {subject.told}",
        f"network:   {model.name} ({model.family}); classes: {classes}",
        f"keypoints: {points} ({skeleton.name}), each with x, y and a score",
        f"wants:     {spec.channel_order.upper()}, {values}, {letterbox}",
        f"NMS:       {suppression}",
        f"precision: {precision}, verified against {subject.witness}",
        f"takes:     images uint8 (batch, height, width, 3) BGR; height {given.height}, width {given.width}",
        f"           batch {given.batch}; {thresholds}",
        f"gives:     boxes {rows}, 4), scores, labels, keypoints {rows}, {points}, 3), num_people, flags",
        f"writes:    {target}; licence of the weights: {subject.weights_licence or 'the file does not say'}",
    ]
