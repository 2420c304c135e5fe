"""A checkpoint -> a verified artifact. Needs torch and onnx: ``pip install "yolopose[export,cpu]"``."""
