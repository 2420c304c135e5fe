"""Pose networks that others exported as ONNX: what their outputs mean, one small file a layout."""
