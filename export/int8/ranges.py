"""Calibration: values of each tensor on images, and the range by which it is quantized with the least error.

Four methods propose a range for each tensor (``METHODS``). The one with the least measured error is taken. The error is
not that of the tensor itself but that of what is computed from it (``Consumers``): the outputs of the convolutions that
it reaches. A range that clips values which the next convolution hardly weights, or which SiLU flattens, costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from yolopose.runtime.errors import ArtifactError

from ..graph import feed, in_batches, open_session, with_outputs
from .layers import Body, Layer

ROW_VALUES = 2048  # values kept per tensor and image; 150 MiB for 64 images and 300 tensors
MIN_POSITIONS = 16  # positions kept per tensor and image, also where there are many channels
METHODS = ("min-max", "percentile", "entropy", "mse")
PERCENTILE = 99.99
SEARCH_VALUES = 32_768  # values on which the ranges of "mse" are tried; its best range is measured on all values
_SHARES = np.linspace(1.0, 0.3, 29)  # of the full range
_BINS, _LEVELS = 2048, 128  # of the histogram for "entropy", as in TensorRT's calibrator
_TINY = float(np.finfo(np.float32).tiny)
_SAME_CHANNELS = ("Add", "MaxPool", "Resize")  # operators that keep the channels apart

ErrorFunction = Callable[[np.ndarray, np.ndarray], float]  # (values, quantized values), each (n, channels) -> error
Progress = Callable[[Iterable[int], int, str], Iterable[int]]  # as Console.progress


@dataclass(frozen=True)
class Samples:
    """Values of one tensor on all calibration images."""

    low: float  # smallest and largest of all values
    high: float
    rows: np.ndarray  # (n, channels) float32: all channels at random positions


def collect_samples(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray], seed: int = 0, rows: int = 1
) -> dict[str, Samples]:
    """Run the float32 ``model`` on ``images`` and sample ``tensors`` (N, C, H, W).

    images: letterboxed (h, w, 3) uint8; rows: size of a fixed batch. Memory is bounded by ``ROW_VALUES`` per tensor and
    image. ArtifactError for values that are not finite.
    """
    session = open_session(with_outputs(model, tensors))
    rng = np.random.default_rng(seed)
    extremes = {name: (np.inf, -np.inf) for name in tensors}
    kept: dict[str, list[np.ndarray]] = {name: [] for name in tensors}
    for batch in in_batches(images, rows):
        for name, value in zip(tensors, session.run(list(tensors), feed(batch, rows=rows)), strict=True):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite([low, high]).all():
                raise ArtifactError(
                    f"the network computes values that are not finite ({name}): train or export it again"
                )
            extremes[name] = min(low, extremes[name][0]), max(high, extremes[name][1])
            for image in value[: len(batch)]:
                flat = image.reshape(len(image), -1)
                count = max(MIN_POSITIONS, ROW_VALUES // len(flat))
                kept[name].append(flat[:, rng.integers(flat.shape[1], size=count)].T.copy())
    return {name: Samples(*extremes[name], np.concatenate(kept[name])) for name in tensors}


def tensors_to_compare(body: Body) -> set[str]:
    """Tensors of which ``Consumers`` needs samples."""
    joined = {name for node in body.nodes if node.op_type == "Concat" for name in node.input}
    return joined | {layer.input for layer in (*body.layers, *body.predictions)}


class Consumers:
    """What reads each tensor, so that its quantization error is measured at the outputs of convolutions.

    samples: of ``tensors_to_compare``; they give the number of channels and the size of the outputs.
    """

    def __init__(self, body: Body, samples: dict[str, Samples]) -> None:
        self._samples = samples
        self._activations = {layer.output: layer for layer in body.layers if layer.result != layer.output}
        self._layers: dict[str, list[Layer]] = {}
        for layer in (*body.layers, *body.predictions):
            self._layers.setdefault(layer.input, []).append(layer)
        self._nodes: dict[str, list[onnx.NodeProto]] = {}
        for node in body.nodes:
            for name in node.input:
                self._nodes.setdefault(name, []).append(node)
        self._energies: dict[str, float] = {}

    def error_of(self, tensor: str) -> ErrorFunction:
        """Sum of the errors of all convolutions that ``tensor`` reaches, each relative to the energy of its output.

        Mean squared error of the values themselves if it reaches no convolution.
        """
        if (layer := self._activations.get(tensor)) is not None:
            error = self.error_of(layer.result)
            slope = layer.negative_slope
            activation = silu if slope is None else partial(leaky_relu, slope=slope)
            return lambda rows, quantized: error(activation(rows), activation(quantized))
        errors = self._convolutions(tensor, 0, None)
        if not errors:
            return value_error
        return lambda rows, quantized: sum(error(rows, quantized) for error in errors)

    def _convolutions(self, tensor: str, first: int, count: int | None) -> list[ErrorFunction]:
        """Errors of the convolutions behind ``tensor``, also through joins and moves.

        The values in question are channels first..first + count of ``tensor``; count None: all channels.
        """
        found: list[ErrorFunction] = []
        for layer in self._layers.get(tensor, []):
            if count is None:
                found.append(_relative_error(layer.weight, layer.groups, self._energy(layer)))
            elif layer.groups == 1:
                found.append(_relative_error(layer.weight[:, first : first + count], 1, self._energy(layer)))
        for node in self._nodes.get(tensor, []):
            if node.op_type == "Concat":
                own = self._channels(tensor) if count is None else count
                for position, name in enumerate(node.input):
                    if name == tensor:
                        offset = sum(self._channels(other) for other in node.input[:position])
                        found += self._convolutions(node.output[0], offset + first, own)
            elif node.op_type in _SAME_CHANNELS:
                found += self._convolutions(node.output[0], first, count)
        return found

    def _channels(self, tensor: str) -> int:
        return int(self._samples[tensor].rows.shape[1])

    def _energy(self, layer: Layer) -> float:
        """Mean square of the output without bias, on the samples of the input."""
        if layer.name not in self._energies:
            rows = self._samples[layer.input].rows
            energy = convolution_error(layer.weight, layer.groups)(rows, np.zeros_like(rows))
            self._energies[layer.name] = max(energy, _TINY)
        return self._energies[layer.name]


def _relative_error(weight: np.ndarray, groups: int, energy: float) -> ErrorFunction:
    error = convolution_error(weight, groups)
    return lambda rows, quantized: error(rows, quantized) / energy


def value_error(rows: np.ndarray, quantized: np.ndarray) -> float:
    """Mean squared error of the values themselves."""
    return float(np.square(rows - quantized, dtype=np.float64).mean())


def convolution_error(weight: np.ndarray, groups: int) -> ErrorFunction:
    """Mean squared error at the outputs of a convolution with ``weight`` (out, in / groups, h, w).

    Errors at different taps are taken as uncorrelated: at each position the error is e^T (sum over taps of W^T W) e,
    where e is the error of the channels. For grouped convolutions only the diagonal is used.
    """
    outputs = len(weight)
    if groups > 1:
        per_group = np.square(weight, dtype=np.float64).sum((2, 3))  # (out, in / groups)
        diagonal = per_group.reshape(groups, -1, weight.shape[1]).sum(1).ravel()
        return lambda rows, quantized: float(
            (np.square(rows - quantized, dtype=np.float64) @ diagonal).mean() / outputs
        )
    taps = np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]).astype(np.float64)  # (out * h * w, in)
    gram = (taps.T @ taps / outputs).astype(np.float32)

    def error(rows: np.ndarray, quantized: np.ndarray) -> float:
        difference = rows - quantized
        return float(((difference @ gram) * difference).sum(1, dtype=np.float64).mean())

    return error


def silu(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / (1 + np.exp(-values.clip(-80, None))), np.float32)


def leaky_relu(values: np.ndarray, slope: float) -> np.ndarray:
    return np.where(values < 0, np.float32(slope) * values, values)


@dataclass(frozen=True)
class Grid:
    """8-bit integers of a tensor: real = (integer - zero_point) * scale, with integers in low..high."""

    scale: float  # a float32
    zero_point: int
    low: int
    high: int

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest real value; a signed grid counts as symmetric (-127..127)."""
        lowest = -self.high if self.signed else self.low
        return (lowest - self.zero_point) * self.scale, (self.high - self.zero_point) * self.scale

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """float32 ``values`` after quantization and dequantization; ties round to even, as in ONNX."""
        scale = np.float32(self.scale)
        integers = np.rint(values / scale) + self.zero_point
        return np.asarray((np.clip(integers, self.low, self.high) - self.zero_point).astype(np.float32) * scale)


def make_grid(low: float, high: float, symmetric: bool) -> Grid:
    """A grid for values low..high: int8 with zero point 0 (symmetric), or uint8 with the zero point that makes 0 exact.

    Zero is always in the range.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    tiny = _TINY * 256
    if symmetric:
        return Grid(float(np.float32(max(-low, high, tiny) / 127)), 0, -128, 127)
    scale = float(np.float32(max(high - low, tiny) / 255))
    return Grid(scale, int(np.clip(np.rint(-low / scale), 0, 255)), 0, 255)


@dataclass(frozen=True)
class RangeChoice:
    """The grid of one tensor; ``errors``: error of each method relative to the energy of the consumers' outputs."""

    grid: Grid
    method: str
    errors: dict[str, float]


def choose_range(samples: Samples, error: ErrorFunction, symmetric: bool) -> RangeChoice:
    """The method with the least ``error`` (see ``Consumers.error_of``); of equal ones the first in ``METHODS``."""
    some_rows = samples.rows[:: max(samples.rows.size // SEARCH_VALUES, 1)]
    ranges = {
        "min-max": (samples.low, samples.high),
        "percentile": _percentile_range(samples),
        "entropy": _entropy_range(samples),
        "mse": _least_error_range(samples, some_rows, error, symmetric),
    }
    grids = {method: make_grid(*ranges[method], symmetric) for method in METHODS}
    energy = max(error(samples.rows, np.zeros_like(samples.rows)), _TINY)
    errors = {method: error(samples.rows, grid.quantized(samples.rows)) / energy for method, grid in grids.items()}
    method = min(METHODS, key=lambda m: errors[m])
    return RangeChoice(grids[method], method, errors)


def _percentile_range(samples: Samples) -> tuple[float, float]:
    low, high = np.percentile(samples.rows, [100 - PERCENTILE, PERCENTILE])
    return float(low), float(high)


def _least_error_range(
    samples: Samples, rows: np.ndarray, error: ErrorFunction, symmetric: bool
) -> tuple[float, float]:
    """Search each end with the other fixed; twice, because each end depends on the other."""

    def best(candidates: Sequence[tuple[float, float]]) -> tuple[float, float]:
        errors = [error(rows, make_grid(low, high, symmetric).quantized(rows)) for low, high in candidates]
        return candidates[int(np.argmin(errors))]

    low, high = samples.low, samples.high
    if symmetric:
        return best([(low * share, high * share) for share in _SHARES])
    for _ in range(2):
        low, high = best([(low, samples.high * share) for share in _SHARES])
        low, high = best([(samples.low * share, high) for share in _SHARES])
    return low, high


def _entropy_range(samples: Samples) -> tuple[float, float]:
    """Clip |x| where 128 levels lose the least information: least Kullback-Leibler divergence, as in TensorRT.

    S. Migacz, "8-bit inference with TensorRT", GTC 2017.
    """
    sizes = np.abs(samples.rows).ravel()
    top = max(float(sizes.max(initial=0.0)), _TINY)
    counts, edges = np.histogram(sizes, _BINS, (0.0, top))
    best, limit = np.inf, top
    for bins in range(_LEVELS, _BINS + 1, 32):
        loss = _divergence(counts, bins)
        if loss < best:
            best, limit = loss, float(edges[bins])
    return max(samples.low, -limit), min(samples.high, limit)


def _divergence(counts: np.ndarray, bins: int) -> float:
    """Kullback-Leibler divergence of the histogram clipped at ``bins`` from the same in ``_LEVELS`` levels."""
    kept = counts[:bins].astype(np.float64)
    reference = kept.copy()
    reference[-1] += counts[bins:].sum()  # clipped values fall into the last level
    level = np.arange(bins) * _LEVELS // bins
    filled = kept > 0
    sums, widths = np.bincount(level, kept, _LEVELS), np.bincount(level, filled, _LEVELS)
    coarse = np.where(filled, (sums / np.maximum(widths, 1))[level], 0.0)
    p, q = reference / reference.sum(), coarse / max(coarse.sum(), 1e-300)
    present = p > 0
    if (q[present] == 0).any():
        return np.inf
    return float((p[present] * np.log(p[present] / q[present])).sum())
