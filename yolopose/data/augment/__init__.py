"""Random pictures from labelled ones: position, size, angle, mirror, mosaic, mixing, colour."""

from __future__ import annotations

from .recipe import Augment, AugmentSettings

__all__ = ["Augment", "AugmentSettings"]
