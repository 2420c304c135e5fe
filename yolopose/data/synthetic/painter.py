"""A small rasterizer of tapered limbs and ellipsoids with soft edges, a depth buffer and one lamp.

Pixels are made with additions, multiplications, divisions and square roots only. IEEE 754 defines these to the last
bit, so an image does not depend on the processor. Units: pixels of the canvas; z in pixels, away from the camera.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np


class Surface(NamedTuple):
    """The n visible pixels of one shape, for its shader."""

    along: np.ndarray  # (n,) 0..1 from the start to the end of a limb
    normal: np.ndarray  # (n, 3) unit outward normal
    local: np.ndarray  # (n, 3) position on an ellipsoid in its own axes; for a limb the normal
    rows: np.ndarray  # (n,) canvas row
    columns: np.ndarray  # (n,) canvas column


Shader = Callable[[Surface], np.ndarray]  # surface -> (n, 3) unlit color, 0..255


@dataclass(frozen=True)
class Light:
    """One distant lamp and ambient light."""

    towards: tuple[float, float, float]  # unit vector from the figure to the lamp
    ambient: float
    strength: float


@dataclass(frozen=True)
class Loft:
    """A shape swept from ``start`` to ``end`` (3,) px, with three half axes (3, 3), rows in px, at each end."""

    start: np.ndarray
    end: np.ndarray
    start_axes: np.ndarray
    end_axes: np.ndarray
    bulge: float = 0.0  # px added to the half width in the middle
    flat: float = 0.0  # 0: round like a limb, 1: flat in front like a chest


class Canvas:
    """A window of the image in which one figure is painted, at ``scale`` times the resolution of the image."""

    def __init__(self, left: int, top: int, width: int, height: int, scale: int, light: Light, contact: float) -> None:
        self.left, self.top, self.scale, self.light = left, top, scale, light
        self.color = np.zeros((height * scale, width * scale, 3), np.float32)  # premultiplied by alpha
        self.alpha = np.zeros((height * scale, width * scale), np.float32)
        self.depth = np.full((height * scale, width * scale), np.inf, np.float32)
        self.contact = contact  # px: width of the soft shadow that a part casts on parts behind it

    def window(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, slice] | None:
        """Rows and columns of the canvas between two corners (2,), or None if they are outside."""
        height, width = self.alpha.shape
        x0, y0 = max(0, int(np.floor(low[0]))), max(0, int(np.floor(low[1])))
        x1, y1 = min(width, int(np.ceil(high[0])) + 1), min(height, int(np.ceil(high[1])) + 1)
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def loft(self, loft: Loft, shader: Shader) -> None:
        """Paint a swept shape."""
        start, end = loft.start.astype(np.float32), loft.end.astype(np.float32)
        axis = end[:2] - start[:2]
        length = max(float(np.sqrt(axis[0] * axis[0] + axis[1] * axis[1])), 1e-3)
        e = axis / length if length > 1e-3 else np.array([0, 1], np.float32)
        n = np.array([-e[1], e[0]], np.float32)
        (wide_a, cap_a, deep_a), (wide_b, cap_b, deep_b) = (
            _extents(axes, n, e) for axes in (loft.start_axes, loft.end_axes)
        )
        reach = max(wide_a, wide_b, cap_a, cap_b) + max(loft.bulge, 0.0) + self.contact + 1
        window = self.window(np.minimum(start[:2], end[:2]) - reach, np.maximum(start[:2], end[:2]) + reach)
        if window is None:
            return
        y = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - start[1]
        x = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] - start[0]
        run = x * e[0] + y * e[1]
        along = np.clip(run / np.float32(length), 0, 1)
        wide = wide_a + (wide_b - wide_a) * along
        if loft.bulge:
            wide += np.float32(4 * loft.bulge) * along * (1 - along)
        side = (x * n[0] + y * n[1]) / wide
        over = run - along * np.float32(length)
        over /= np.where(over < 0, cap_a, cap_b)
        radius2 = side * side + over * over
        edge = (1 - np.sqrt(radius2)) * wide
        self._cast_contact(window, edge, float(max(start[2], end[2])))
        inside = np.flatnonzero(edge > -0.5)
        t, u, s, r2 = (field.take(inside) for field in (along, side, over, radius2))
        out = np.sqrt(np.maximum(0, 1 - r2))
        depth = start[2] + (end[2] - start[2]) * t - (deep_a + (deep_b - deep_a) * t) * out
        u = u * ((1 - np.float32(loft.flat)) + np.float32(loft.flat) * u * u)
        out = np.sqrt(np.maximum(0.02, 1 - u * u - s * s))
        normal = np.stack([u * n[0] + s * e[0], u * n[1] + s * e[1], -out], 1)
        self._blend(window, inside, edge.take(inside), depth, shader, t, normal, normal)

    def ellipsoid(self, center: np.ndarray, axes: np.ndarray, shader: Shader) -> None:
        """Paint an ellipsoid: ``center`` (3,) px, ``axes`` (3, 3) whose rows are its half axes at right angles, px."""
        # rows: image -> axes of the unit sphere
        inverse = (axes / (axes * axes).sum(1, keepdims=True)).astype(np.float32)
        reach = np.sqrt((axes * axes).sum(0))[:2] + 1
        window = self.window(center[:2] - reach, center[:2] + reach)
        if window is None:
            return
        y = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None, None] - np.float32(center[1])
        x = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :, None] - np.float32(center[0])
        flat = x * inverse[:, 0] + y * inverse[:, 1]  # (h, w, 3) in axes of the unit sphere, at z = 0
        dz = inverse[:, 2]
        a = dz[0] * dz[0] + dz[1] * dz[1] + dz[2] * dz[2]
        b = (flat[..., 0] * dz[0] + flat[..., 1] * dz[1] + flat[..., 2] * dz[2]) / a
        c = (flat[..., 0] * flat[..., 0] + flat[..., 1] * flat[..., 1] + flat[..., 2] * flat[..., 2] - 1) / a
        root2 = b * b - c  # largest at the center of the projected ellipse, zero on its outline
        half = np.float32(0.5) * np.float32(reach[0] + reach[1] - 2)
        edge = (1 - np.sqrt(np.maximum(0, 1 - root2 * a))) * half
        inside = np.flatnonzero(edge > -0.5)
        z = -b.take(inside) - np.sqrt(np.maximum(0, root2.take(inside)))
        local = flat.reshape(-1, 3).take(inside, 0) + z[:, None] * dz
        normal = local[:, :1] * inverse[0] + local[:, 1:2] * inverse[1] + local[:, 2:] * inverse[2]
        normal /= np.sqrt((normal * normal).sum(1, keepdims=True)) + np.float32(1e-12)
        along = np.zeros(len(z), np.float32)
        self._blend(window, inside, edge.take(inside), z + np.float32(center[2]), shader, along, normal, local)

    def _cast_contact(self, window: tuple[slice, slice], edge: np.ndarray, depth: float) -> None:
        """Darken parts well behind, near the outline: it separates an arm from a shirt of the same color."""
        if self.contact < 1:
            return
        near = np.flatnonzero((edge < 0) & (edge > -self.contact))
        places = self._places(window, near)
        behind = np.flatnonzero(self.depth.reshape(-1).take(places) > depth + self.contact)
        places = places.take(behind)
        shade = 1 - np.float32(0.32) * (1 + edge.take(near.take(behind)) / np.float32(self.contact))
        self.color.reshape(-1, 3)[places] *= shade[:, None]

    def _places(self, window: tuple[slice, slice], inside: np.ndarray) -> np.ndarray:
        """Flat indices into a window of the canvas -> flat indices into the canvas."""
        rows, columns = np.divmod(inside, window[1].stop - window[1].start)
        return (rows + window[0].start) * self.alpha.shape[1] + columns + window[1].start

    def _blend(
        self,
        window: tuple[slice, slice],
        inside: np.ndarray,
        edge: np.ndarray,
        depth: np.ndarray,
        shader: Shader,
        along: np.ndarray,
        normal: np.ndarray,
        local: np.ndarray,
    ) -> None:
        """Light the pixels of a shape and blend them over the canvas where nothing nearer is painted."""
        width = self.alpha.shape[1]
        places = self._places(window, inside)
        depths = self.depth.reshape(-1)
        front = np.flatnonzero(depth < depths.take(places))
        if not len(front):
            return
        places, edge, depth, normal = places.take(front), edge.take(front), depth.take(front), normal.take(front, 0)
        color = shader(Surface(along.take(front), normal, local.take(front, 0), places // width, places % width))
        lamp = self.light.towards
        facing = normal[:, 0] * np.float32(lamp[0])
        facing += normal[:, 1] * np.float32(lamp[1])
        facing += normal[:, 2] * np.float32(lamp[2])
        shade = np.float32(self.light.ambient) + np.float32(self.light.strength) * np.maximum(0, 0.35 + 0.65 * facing)
        shade *= 0.72 - 0.28 * normal[:, 2]  # the outline is darker: it faces away from any light
        alpha = np.clip(edge + np.float32(0.5), 0, 1)
        colors, alphas = self.color.reshape(-1, 3), self.alpha.reshape(-1)
        painted = colors.take(places, 0)
        painted *= (1 - alpha)[:, None]
        painted += color * (shade * alpha)[:, None]
        colors[places] = painted
        alphas[places] = alphas.take(places) * (1 - alpha) + alpha
        solid = alpha > 0.5
        depths[places[solid]] = depth[solid]

    def reduced(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Premultiplied color (h, w, 3), alpha (h, w) and depth (h, w) at the resolution of the image."""
        if self.scale == 1:
            return self.color, self.alpha, self.depth
        height, width = (side // self.scale for side in self.alpha.shape)
        color, alpha = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
        depth = np.full((height, width), np.inf, np.float32)
        for row in range(self.scale):  # a fixed order of summation: numpy's depends on the processor
            for column in range(self.scale):
                part = (slice(row, None, self.scale), slice(column, None, self.scale))
                color += self.color[part]
                alpha += self.alpha[part]
                np.minimum(depth, self.depth[part], out=depth)
        area = np.float32(self.scale * self.scale)
        return color / area, alpha / area, depth


def _extents(axes: np.ndarray, n: np.ndarray, e: np.ndarray) -> tuple[np.float32, np.float32, np.float32]:
    """Half extents across (n), along (e) and in depth of an ellipsoid with these half axes, at least 0.45 px."""
    (nx, ny), (ex, ey) = n.tolist(), e.tolist()
    wide = along = deep = 0.0
    for x, y, z in axes.tolist():
        across, ahead = x * nx + y * ny, x * ex + y * ey
        wide += across * across
        along += ahead * ahead
        deep += z * z
    return np.float32(max(sqrt(wide), 0.45)), np.float32(max(sqrt(along), 0.45)), np.float32(max(sqrt(deep), 0.45))
