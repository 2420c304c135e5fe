"""Benchmark of artifacts: time, memory and accuracy of the very same file (command ``yolopose-bench``)."""
