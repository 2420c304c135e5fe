"""What reads a tensor, so that the error of rounding it is measured where it matters: at outputs of convolutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from .calibration import Samples
from .layers import Body, Layer

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
