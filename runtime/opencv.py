"""The one place that imports OpenCV, so that its absence has one clear message.

The base install does not name OpenCV: a Jetson brings its own cv2 from apt, which pip's would shadow.
"""

from __future__ import annotations

from .errors import BackendUnavailable

try:
    import cv2
except ImportError as error:
    raise BackendUnavailable(
        f'OpenCV cannot be imported ({error}): pip install "yolopose[opencv]", on a Jetson apt install python3-opencv'
    ) from error

__all__ = ["cv2"]
