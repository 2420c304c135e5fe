"""The camera: from statures in space to pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .body import rotation_x


@dataclass(frozen=True)
class View:
    """How a figure is seen: ``scale`` px a stature, from ``distance`` statures, looking down by ``pitch`` degrees."""

    scale: float
    pitch: float
    distance: float
    offset: tuple[float, float] = (0.0, 0.0)  # px: where the middle of the hips comes to lie

    @cached_property
    def _turn(self) -> np.ndarray:
        return rotation_x(self.pitch)

    @cached_property
    def _cosine_sine(self) -> tuple[float, float]:
        return float(self._turn[1, 1]), float(self._turn[2, 1])

    def project(self, point: np.ndarray) -> np.ndarray:
        """(3,) statures to (3,) px; z in px too. Rounded to 1/64 px, so that the last bits of sines do not matter."""
        x, y, z = point.tolist()
        cosine, sine = self._cosine_sine
        y, z = cosine * y - sine * z, sine * y + cosine * z
        near = self.distance / (self.distance + z) * self.scale
        placed = (x * near + self.offset[0], y * near + self.offset[1], z * self.scale)
        return np.array([round(value * 64) / 64 for value in placed])

    def directions(self, frame: np.ndarray) -> np.ndarray:
        """A part's frame (columns left, down, back) in camera axes, rounded likewise."""
        return np.round(self._turn @ frame * 2**20) / 2**20

    def factor(self, point: np.ndarray) -> float:
        """px a stature at this point, to 1/1024 of the scale."""
        cosine, sine = self._cosine_sine
        depth = sine * float(point[1]) + cosine * float(point[2])
        return self.scale * round(self.distance / (self.distance + depth) * 1024) / 1024
