"""What is told of an epoch: a row of figures, curves, pictures and a line of text."""

from __future__ import annotations

import math
import time

from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, SourceError

from ..data.sources import Labels
from .curves import draw_curves
from .logs import Logs
from .preview import predictions_grid
from .run_folder import RunFolder
from .validate import Validation

PAUSE = 20.0  # seconds between pictures: drawing takes one, as long as a short epoch on a GPU


class Reporter:
    """Called after each epoch, ``finish`` after the last. OutputError when a file cannot be written; what a picture
    lacks is only said."""

    def __init__(self, folder: RunFolder, logs: Logs, val: Labels | None, console: Console) -> None:
        self.folder, self.logs, self.val, self.console = folder, logs, val, console
        self._told: set[str] = set()
        self._drawn, self._undrawn = -math.inf, False
        self._validation: Validation | None = None  # the last one without a picture

    def __call__(self, row: dict[str, float | None], validation: Validation | None) -> None:
        self.logs.epoch(row)
        self._undrawn, self._validation = True, validation or self._validation
        if time.monotonic() - self._drawn >= PAUSE:
            self.finish()
        losses = ", ".join(f"{name} {row[name]:.3f}" for name in ("loss", "keypoints") if name in row)
        text = f"epoch {row['epoch']:.0f}: {losses}, {row['images_per_second']:.1f} images/s"
        if validation is not None:
            if validation.note:
                self.console.say(validation.note)
            text += f", AP {validation.ap.ap:.4f}, AP50 {validation.ap.ap50:.4f}"
        self.console.say(text)

    def finish(self) -> None:
        """Draw what is not drawn yet. Without matplotlib, or a photograph that is gone, training goes on."""
        if not self._undrawn:
            return
        self._drawn, self._undrawn = time.monotonic(), False
        validation, self._validation = self._validation, None
        try:
            draw_curves(self.folder.metrics_csv, self.folder.curves)
            if validation is not None and self.val is not None:
                place = self.folder.samples / "validation.jpg"
                predictions_grid(self.val.dataset, validation.results, self.val.skeleton, place)
        except (BackendUnavailable, SourceError) as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                self.console.say(f"a picture of the run folder is missing: {error}")
