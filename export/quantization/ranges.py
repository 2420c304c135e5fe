"""How a tensor becomes 8-bit integers: several ways to choose its range, of which the one with the least error wins.

The error is that of what is computed from the tensor (``readers``), measured on its samples: a range that cuts values
which the next convolution hardly weighs, or which SiLU flattens anyway, costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .calibration import Samples
from .readers import Reader

METHODS = ("min-max", "percentile", "entropy", "mse")
PERCENTILE = 99.99
FEW_VALUES = 32_768  # to try many ranges on; the winners are measured on all rows
_SHARES = np.linspace(1.0, 0.3, 29)  # of the full range
_BINS, _LEVELS = 2048, 128  # of the histogram for entropy, as in TensorRT's calibrator


@dataclass(frozen=True)
class Grid:
    """real = (integer - zero_point) * scale, integers in low..high."""

    scale: float  # a float32
    zero_point: int
    low: int
    high: int

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def range(self) -> tuple[float, float]:
        """Least and largest value; of signed grids as far as both sides reach."""
        least = -self.high if self.signed else self.low
        return (least - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """float32 values as they come back from the integers; ties to even, as ONNX has it."""
        scale = np.float32(self.scale)
        integers = np.rint(values / scale) + self.zero_point
        return (np.clip(integers, self.low, self.high) - self.zero_point).astype(np.float32) * scale


def grid_of(low: float, high: float, symmetric: bool) -> Grid:
    """Of values low..high: signed with zero point 0 (symmetric), or unsigned with one that represents 0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    tiny = float(np.finfo(np.float32).tiny) * 256
    if symmetric:
        return Grid(float(np.float32(max(-low, high, tiny) / 127)), 0, -128, 127)
    scale = float(np.float32(max(high - low, tiny) / 255))
    return Grid(scale, int(np.clip(np.rint(-low / scale), 0, 255)), 0, 255)


@dataclass(frozen=True)
class Choice:
    """The grid of one tensor, and the error of every method relative to the energy of what is read."""

    grid: Grid
    method: str
    errors: dict[str, float]


def choose(samples: Samples, reader: Reader, symmetric: bool) -> Choice:
    """The method whose range costs what reads the tensor least; the earlier of ``METHODS`` among equals."""
    few = samples.rows[:: max(samples.rows.size // FEW_VALUES, 1)]
    ranges = {
        "min-max": (samples.low, samples.high),
        "percentile": _percentile(samples),
        "entropy": _entropy(samples),
        "mse": _least_error(samples, few, reader, symmetric),
    }
    grids = {method: grid_of(*ranges[method], symmetric) for method in METHODS}
    energy = max(reader(samples.rows, np.zeros_like(samples.rows)), float(np.finfo(np.float32).tiny))
    errors = {m: reader(samples.rows, grid.rounded(samples.rows)) / energy for m, grid in grids.items()}
    method = min(METHODS, key=lambda m: errors[m])
    return Choice(grids[method], method, errors)


def _percentile(samples: Samples) -> tuple[float, float]:
    low, high = np.percentile(samples.rows, [100 - PERCENTILE, PERCENTILE])
    return float(low), float(high)


def _least_error(samples: Samples, rows: np.ndarray, reader: Reader, symmetric: bool) -> tuple[float, float]:
    """Either end drawn in on its own, the other held; twice, as each depends on the other."""

    def best(candidates: Sequence[tuple[float, float]]) -> tuple[float, float]:
        errors = [reader(rows, grid_of(low, high, symmetric).rounded(rows)) for low, high in candidates]
        return candidates[int(np.argmin(errors))]

    low, high = samples.low, samples.high
    if symmetric:
        return best([(low * share, high * share) for share in _SHARES])
    for _ in range(2):
        low, high = best([(low, samples.high * share) for share in _SHARES])
        low, high = best([(samples.low * share, high) for share in _SHARES])
    return low, high


def _entropy(samples: Samples) -> tuple[float, float]:
    """The cut of |x| whose 128 levels lose least information (Kullback-Leibler, as TensorRT's calibrator)."""
    sizes = np.abs(samples.rows).ravel()
    top = max(float(sizes.max(initial=0.0)), float(np.finfo(np.float32).tiny))
    counts, edges = np.histogram(sizes, _BINS, (0.0, top))
    best, cut = np.inf, top
    for bins in range(_LEVELS, _BINS + 1, 32):
        loss = _divergence(counts, bins)
        if loss < best:
            best, cut = loss, float(edges[bins])
    return max(samples.low, -cut), min(samples.high, cut)


def _divergence(counts: np.ndarray, bins: int) -> float:
    kept = counts[:bins].astype(np.float64)
    reference = kept.copy()
    reference[-1] += counts[bins:].sum()  # what is cut lands in the last level
    level = np.arange(bins) * _LEVELS // bins
    filled = kept > 0
    sums, widths = np.bincount(level, kept, _LEVELS), np.bincount(level, filled, _LEVELS)
    coarse = np.where(filled, (sums / np.maximum(widths, 1))[level], 0.0)
    p, q = reference / reference.sum(), coarse / max(coarse.sum(), 1e-300)
    seen = p > 0
    if (q[seen] == 0).any():
        return np.inf
    return float((p[seen] * np.log(p[seen] / q[seen])).sum())
