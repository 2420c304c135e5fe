"""What the tensors of a network hold on real pictures: extremes, and rows of values to measure errors with.

What reads a tensor, so that the error of rounding it is measured where it matters: at outputs of convolutions.

How a tensor becomes 8-bit integers: several ways to choose its range, of which the one with the least error wins.

The error is that of what is computed from the tensor (``readers``), measured on its samples: a range that cuts values
which the next convolution hardly weighs, or which SiLU flattens anyway, costs nothing.
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

ROW_VALUES = 2048  # kept of each tensor and image; of 64 images and 300 tensors this is 150 MiB
MIN_POSITIONS = 16


@dataclass(frozen=True)
class Samples:
    """Of one tensor over all calibration images."""

    low: float  # least and largest of all values
    high: float
    rows: np.ndarray  # (n, channels) float32: all channels at random positions


def collect(
    model: onnx.ModelProto, tensors: Sequence[str], images: Iterable[np.ndarray], seed: int = 0, rows: int = 1
) -> dict[str, Samples]:
    """Run ``model`` (float32, inputs of the contract) and keep what ``tensors`` (N, C, H, W) hold.

    images: letterboxed (h, w, 3) uint8; rows: of a fixed batch. Memory is bounded by ``ROW_VALUES`` a tensor and image.
    ArtifactError when a tensor holds values that are not finite.
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
            for one in value[: len(batch)]:
                flat = one.reshape(len(one), -1)
                wanted = max(MIN_POSITIONS, ROW_VALUES // len(flat))
                kept[name].append(flat[:, rng.integers(flat.shape[1], size=wanted)].T.copy())
    return {name: Samples(*extremes[name], np.concatenate(kept[name])) for name in tensors}


Reader = Callable[[np.ndarray, np.ndarray], float]  # (rows, the same rounded) -> mean squared error behind it


def tensors_read(body: Body) -> set[str]:
    """What ``Readers`` wants samples of."""
    joined = {name for node in body.nodes if node.op_type == "Concat" for name in node.input}
    return joined | {layer.input for layer in (*body.layers, *body.predictions)}


_SAME_CHANNELS = ("Add", "MaxPool", "Resize")  # pass values on, channel by channel


class Readers:
    """samples: of ``tensors_read``; they tell channels, and how large the outputs are that errors add to."""

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

    def of(self, tensor: str) -> Reader:
        """Error of all convolutions that the tensor reaches, each relative to its output; of its values without any."""
        if (layer := self._activations.get(tensor)) is not None:
            behind = self.of(layer.result)
            slope = layer.negative_slope
            activation = silu if slope is None else partial(leaky_relu, slope=slope)
            return lambda rows, rounded: behind(activation(rows), activation(rounded))
        readers = self._convolutions(tensor, 0, None)
        if not readers:
            return reads_values
        return lambda rows, rounded: sum(reader(rows, rounded) for reader in readers)

    def _convolutions(self, tensor: str, first: int, count: int | None) -> list[Reader]:
        """Through joins and moves; of what ``tensor`` holds, channels first..first + count are those asked about."""
        found: list[Reader] = []
        for layer in self._layers.get(tensor, []):
            if count is None:
                found.append(_relative(layer.weight, layer.groups, self._energy(layer)))
            elif layer.groups == 1:
                found.append(_relative(layer.weight[:, first : first + count], 1, self._energy(layer)))
        for node in self._nodes.get(tensor, []):
            if node.op_type == "Concat":
                own = self._channels(tensor) if count is None else count
                for position, name in enumerate(node.input):
                    if name == tensor:
                        before = sum(self._channels(other) for other in node.input[:position])
                        found += self._convolutions(node.output[0], before + first, own)
            elif node.op_type in _SAME_CHANNELS:
                found += self._convolutions(node.output[0], first, count)
        return found

    def _channels(self, tensor: str) -> int:
        return self._samples[tensor].rows.shape[1]

    def _energy(self, layer: Layer) -> float:
        if layer.name not in self._energies:
            rows = self._samples[layer.input].rows
            energy = reads_convolution(layer.weight, layer.groups)(rows, np.zeros_like(rows))
            self._energies[layer.name] = max(energy, float(np.finfo(np.float32).tiny))
        return self._energies[layer.name]


def _relative(weight: np.ndarray, groups: int, energy: float) -> Reader:
    error = reads_convolution(weight, groups)
    return lambda rows, rounded: error(rows, rounded) / energy


def silu(values: np.ndarray) -> np.ndarray:
    return np.asarray(values / (1 + np.exp(-values.clip(-80, None))), np.float32)


def leaky_relu(values: np.ndarray, slope: float) -> np.ndarray:
    return np.where(values < 0, np.float32(slope) * values, values)


def reads_values(rows: np.ndarray, rounded: np.ndarray) -> float:
    """Mean squared error of the values themselves."""
    return float(np.square(rows - rounded, dtype=np.float64).mean())


def reads_convolution(weight: np.ndarray, groups: int) -> Reader:
    """Mean squared error at the outputs of a convolution with ``weight`` (out, in / groups, h, w).

    Errors at different taps are taken as unrelated, so e^T (sum over taps of W^T W) e at each position; of a grouped
    one only the diagonal.
    """
    outputs = len(weight)
    if groups > 1:
        per_group = np.square(weight, dtype=np.float64).sum((2, 3))  # (out, in / groups)
        diagonal = per_group.reshape(groups, -1, weight.shape[1]).sum(1).ravel()
        return lambda rows, rounded: float((np.square(rows - rounded, dtype=np.float64) @ diagonal).mean() / outputs)
    taps = np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1]).astype(np.float64)  # (out * h * w, in)
    gram = (taps.T @ taps / outputs).astype(np.float32)

    def error(rows: np.ndarray, rounded: np.ndarray) -> float:
        off = rows - rounded
        return float(((off @ gram) * off).sum(1, dtype=np.float64).mean())

    return error


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
