"""A checkpoint (or a foreign ONNX) -> a verified artifact. Needs torch and onnx; ``pip install "yolopose[export,cpu]"``."""
