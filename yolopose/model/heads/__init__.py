"""Heads: the paper's with anchors, and the anchor-free ones of YOLOX-Pose."""
