"""`Dice`, a deterministic random generator: the same numbers on every machine and with every version of numpy.

The distributions of ``numpy.random.Generator`` may change from one release to the next; the raw stream of a bit
generator may not (NEP 19). So all numbers here are made from the raw 64-bit words of PCG64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """A stream of random numbers seeded with non-negative integers, e.g. ``Dice(seed, index)``."""

    def __init__(self, *words: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(words))

    def fork(self) -> Dice:
        """An independent stream, so that a part of a scene can draw more numbers without changing the others."""
        return Dice(int(self._bits.random_raw()))

    def unit(self) -> float:
        """A number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def bell(self, center: float, spread: float) -> float:
        """Roughly normal with mean ``center`` and standard deviation ``spread``, at most three of them away."""
        return center + spread * 2.0 * (self.unit() + self.unit() + self.unit() - 1.5)

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def sign(self) -> int:
        return 1 if self.chance(0.5) else -1

    def pick(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def pick_weighted(self, options: Sequence[tuple[T, float]]) -> T:
        """One of (value, weight) pairs."""
        left = self.uniform(0.0, sum(weight for _, weight in options))
        for value, weight in options:
            left -= weight
            if left < 0:
                return value
        return options[-1][0]

    def noise(self, shape: tuple[int, ...]) -> np.ndarray:
        """Uniform, independent uint8 values of this shape."""
        count = int(np.prod(shape))
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape)
