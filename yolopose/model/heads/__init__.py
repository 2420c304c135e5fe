"""Heads: ``anchor`` (the paper's), ``anchor_free`` (YOLOX-Pose), ``distance`` (YOLOv8 and its successors)."""

from .base import Head, HeadOutput, as_rows, at_anchors, priors_of_level

__all__ = ["Head", "HeadOutput", "as_rows", "at_anchors", "priors_of_level"]
