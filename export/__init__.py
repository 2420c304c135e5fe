"""Weights to a verified artifact: ``yolopose-export``. Needs ``pip install "yolopose[export,cpu]"``."""
