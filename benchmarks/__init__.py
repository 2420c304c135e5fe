"""Benchmark of artifacts and checkpoints: time, memory and accuracy of the same file (``yolopose-bench``)."""
