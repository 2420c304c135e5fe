"""Synthetic scenes: deterministic pictures of articulated people with exact keypoints. Needs numpy and OpenCV only."""

from __future__ import annotations

from .scene import LabelledPerson, Scene, SyntheticScenes

__all__ = ["LabelledPerson", "Scene", "SyntheticScenes"]
