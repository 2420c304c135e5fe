"""Other pictures in place of damaged ones, so that training goes on and says what it did without."""

from __future__ import annotations

import numpy as np

from yolopose.runtime.errors import DataError

from .sample import DamagedImage, Sample, Source

MOST_TRIES = 100  # damaged pictures in a row before the data set itself is to blame


class StandIns:
    """A Source in which another picture, always the same one, stands in for each that is damaged.

    damaged: "name: reason" of every damaged picture met, each time that it was met.
    """

    def __init__(self, source: Source) -> None:
        self.skeleton, self.classes = source.skeleton, source.classes
        self.damaged: list[str] = []
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        """Raises DataError when the picture and all others tried, at most MOST_TRIES, are damaged."""
        try:
            return self._source[index]
        except DamagedImage as error:
            self.damaged.append(str(error))
        # In random order: damaged pictures often lie side by side.
        others = [int(other) for other in np.random.default_rng(index).permutation(len(self)) if other != index]
        for other in others[: MOST_TRIES - 1]:
            try:
                return self._source[other]
            except DamagedImage as error:
                self.damaged.append(str(error))
        tried = min(len(self), MOST_TRIES)
        raise DataError(f"none of {tried} pictures tried, of {len(self)}, can be used; the last: {self.damaged[-1]}")
