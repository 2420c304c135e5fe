"""Random numbers that are the same on every machine and with every version of numpy.

``numpy.random.Generator`` may change what its distributions return from one release to the next; the raw stream of a
bit generator may not (NEP 19). So everything here is made from the raw 64-bit words of PCG64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """A stream of random choices fixed by a few non-negative integers, e.g. ``Dice(seed, index)``."""

    def __init__(self, *words: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(words))

    def fork(self) -> Dice:
        """A stream of its own, so that one more draw in one place does not change every other place."""
        return Dice(int(self._bits.random_raw()))

    def unit(self) -> float:
        """A number in [0, 1)."""
        return (int(self._bits.random_raw()) >> 11) * 2.0**-53

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def bell(self, centre: float, spread: float) -> float:
        """Roughly normal around ``centre`` with standard deviation ``spread``, never further than three of them."""
        return centre + spread * 2.0 * (self.unit() + self.unit() + self.unit() - 1.5)

    def integer(self, low: int, high: int) -> int:
        """An integer of low..high, both included."""
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
        """Independent uint8 noise of this shape."""
        count = int(np.prod(shape))
        words = self._bits.random_raw((count + 7) // 8).astype("<u8")
        return words.view(np.uint8)[:count].reshape(shape)
