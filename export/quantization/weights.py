"""Weights as 8-bit integers, one scale an output channel, and the bias that makes up for what rounding shifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .calibration import Samples
from .layers import Layer
from .ranges import Grid

_SHARES = np.linspace(2.1, 0.5, 65)  # of the scale at which a channel's largest weight just fits
_LARGEST = 127
_LARGEST_BIAS = 2.0**30
_LARGEST_PAIR = 128  # 255 x 128 = 32,640, the most below 2^15


@dataclass(frozen=True)
class RoundedWeights:
    """weight = integers * scales, zero point 0."""

    integers: np.ndarray  # (out, in / groups, h, w) int8
    scales: np.ndarray  # (out,) float32
    bias: np.ndarray  # (out,) float32


def round_weights(layer: Layer, inputs: Samples, grid: Grid, pairs: bool, correct_bias: bool = True) -> RoundedWeights:
    """Scales with the least error at the layer's output, weighting each input channel by its energy.

    pairs: only scales at which two products of a uint8 with neighbouring weights fit 16 bits together. Processors with
    AVX2 but without VNNI add them there and cut off what is larger without a word (``vpmaddubsw``). The usual remedy,
    7-bit weights, is the case that all pairs are as large as the largest weight.
    """
    weight = layer.weight.astype(np.float64)
    energy = np.square(inputs.rows, dtype=np.float64).mean(0)  # (in,)
    importance = _per_weight(layer, energy)
    peak = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1), np.finfo(np.float32).tiny * 256)
    best, scales = np.full(len(weight), np.inf), np.zeros(len(weight), np.float32)
    for share in _SHARES:
        tried = (peak * share / _LARGEST).astype(np.float32)
        integers = _integers(layer.weight, tried)
        error = (np.square(integers * tried[:, None, None, None] - weight) * importance).reshape(len(weight), -1).sum(1)
        if pairs:
            error[_largest_pair(integers) > _LARGEST_PAIR] = np.inf
        better = error < best
        best, scales = np.where(better, error, best), np.where(better, tried, scales)
    # The bias becomes an int32 of this scale: it must fit, also where weights are next to nothing.
    scales = np.maximum(scales, (np.abs(layer.bias) / (_LARGEST_BIAS * grid.scale)).astype(np.float32))
    integers = _integers(layer.weight, scales)
    bias = layer.bias
    if correct_bias:
        bias = bias - _shift(layer, inputs, grid, integers * scales[:, None, None, None])
    return RoundedWeights(integers.astype(np.int8), scales, bias.astype(np.float32))


def _integers(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weight / scales[:, None, None, None]), -_LARGEST, _LARGEST)


def _largest_pair(integers: np.ndarray) -> np.ndarray:
    """(out,): the largest sum of two neighbours of one sign, whether channels or taps lie side by side in memory."""
    orders = (integers, integers.transpose(0, 2, 3, 1))
    most = np.zeros(len(integers))
    for order in orders:
        flat = order.reshape(len(order), -1)
        for sign in (1, -1):
            one = np.maximum(sign * flat, 0)
            most = np.maximum(most, (one[:, 1:] + one[:, :-1]).max(1, initial=0))
            most = np.maximum(most, one.max(1, initial=0))
    return most


def _shift(layer: Layer, inputs: Samples, grid: Grid, rounded: np.ndarray) -> np.ndarray:
    """(out,): how much the mean output moves by rounding inputs and weights; the borders' padding is left out."""
    before = inputs.rows.mean(0, dtype=np.float64)
    after = grid.rounded(inputs.rows).mean(0, dtype=np.float64)
    axes = (1, 2, 3)
    moved = (rounded * _per_weight(layer, after)).sum(axes) - (layer.weight * _per_weight(layer, before)).sum(axes)
    return np.asarray(moved)


def _per_weight(layer: Layer, channels: np.ndarray) -> np.ndarray:
    """(in,) -> (out or 1, in / groups, 1, 1): the input channel's value at each weight."""
    if layer.groups == 1:
        return channels[None, :, None, None]
    grouped = channels.reshape(layer.groups, -1)  # (groups, in / groups)
    return np.repeat(grouped, len(layer.weight) // layer.groups, axis=0)[:, :, None, None]
