"""Heads: the paper's with anchors, the anchor-free ones of YOLOX-Pose, and that of YOLOv8 and its successors."""
