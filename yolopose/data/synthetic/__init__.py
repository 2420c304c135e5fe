"""Synthetic scenes: deterministic images of articulated people with exact keypoints. Needs only numpy and OpenCV.

In the order of the data: `dice` (random numbers), `poses` and `body` (joint angles -> joints in space -> pixels),
`clothes` and `figure` (one painted person, with `painter`), `objects` and `background`, `stage` (who stands where),
`scene` (the finished image and its labels).
"""

from __future__ import annotations

from .scene import LabeledPerson, Scene, SyntheticScenes

__all__ = ["LabeledPerson", "Scene", "SyntheticScenes"]
