"""Figures of every epoch: metrics.csv and, where it is installed, TensorBoard.

curves.png: losses, learning rate and average precision over the epochs.

What is told of an epoch: a row of figures, curves, pictures and a line of text.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from yolopose.runtime.console import Console
from yolopose.runtime.errors import BackendUnavailable, DataError, SourceError
from yolopose.runtime.output import atomic_write

from ..data.sources import Labels
from .preview import predictions_grid
from .run_folder import RunFolder
from .validate import Validation

EPOCH = "epoch"  # the column that every row has


class Logs:
    """Rows of figures by epoch; use as a context manager, or call ``close``.

    start_epoch: of this sitting; rows from it on, left by a sitting that was broken off, are dropped, so that the file
    has every epoch once. tensorboard: the folder of its files, None: not wanted; without the package ``say`` gets one
    sentence and the CSV is written all the same.

    DataError when the CSV that is there is not ours; OutputError when it cannot be written.
    """

    def __init__(
        self,
        metrics_csv: Path,
        tensorboard: Path | None,
        say: Callable[[str], None],
        start_epoch: int = 0,
    ) -> None:
        self.path = metrics_csv
        self._columns: list[str] = []
        self._rows: list[list[str]] = []  # as text: what was written once is never rounded again
        if metrics_csv.exists():
            self._columns, rows = _read(metrics_csv)
            epoch = self._columns.index(EPOCH)
            self._rows = [row for row in rows if int(row[epoch]) < start_epoch]
            if not self._rows:
                self._columns = []
            self._write()
        self._board = _board(tensorboard, start_epoch, say) if tensorboard else None

    def epoch(self, row: Mapping[str, float | None]) -> None:
        """Add one epoch. ``row`` has "epoch" and the columns of the rows before; None and NaN leave a gap.

        ValueError for other columns; nothing is written then.
        """
        if EPOCH not in row:
            raise ValueError(f"a row of figures needs {EPOCH!r}, got {list(row)}")
        if not self._columns:
            self._columns = list(row)
        if set(row) != set(self._columns):
            odd = sorted(set(row) ^ set(self._columns))
            raise ValueError(f"{self.path} has the columns {self._columns}; this row differs in {odd}")
        number = int(row[EPOCH] or 0)
        self._rows.append([str(number) if name == EPOCH else _text(row[name]) for name in self._columns])
        self._write()
        if self._board is not None:
            for name, value in row.items():
                if name != EPOCH and value is not None and math.isfinite(value):
                    self._board.add_scalar(name, value, number)
            self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        """The whole file at once: a reader, or a resumed run, never meets half a row."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self._columns, *self._rows] if self._columns else [])
        atomic_write(self.path, text.getvalue())


def read_metrics(path: Path) -> dict[str, list[float]]:
    """Columns of a metrics.csv by name; gaps are NaN. Raises DataError."""
    columns, rows = _read(path)
    try:
        return {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(columns)}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows, all of one length, "epoch" among the columns and a number in every row."""
    try:
        columns, *rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines())) or [[EPOCH]]
        if EPOCH not in columns:
            raise ValueError(f"no column {EPOCH!r}")
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"{len(row)} values under {len(columns)} columns")
            int(row[columns.index(EPOCH)])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} is not a file of figures that yolopose-train wrote: {error}") from None
    return columns, rows


def _text(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.9g}"  # float32 survives 9 digits


def _board(folder: Path, start_epoch: int, say: Callable[[str], None]) -> Any:
    """TensorBoard's writer, which hides what an earlier sitting wrote from ``start_epoch`` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("no TensorBoard files: pip install tensorboard; figures are in metrics.csv")
        return None
    return SummaryWriter(str(folder), purge_step=start_epoch or None)


# Title of a panel, what its columns begin with; panels without columns are left out, and so are other columns
PANELS = (
    ("loss", ("loss", "box", "distribution", "objectness", "classes", "keypoints", "visibility", "heatmaps")),
    ("learning rate", ("lr", "learning_rate")),
    ("average precision", ("ap", "ar")),
)


def draw_curves(metrics_csv: Path, picture: Path) -> Path:
    """Draw ``picture`` (PNG) from ``metrics_csv``.

    BackendUnavailable without matplotlib; DataError for a damaged CSV; OutputError.
    """
    columns = read_metrics(metrics_csv)
    try:
        # the canvas itself, not pyplot: no window, and no state shared with the caller's own figures
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(f'curves need matplotlib ({error}): pip install "yolopose[bench]"') from None
    shown = [(title, names) for title, starts in PANELS if (names := [n for n in columns if _is_one(n, starts)])]
    figure = Figure(figsize=(5 * max(1, len(shown)), 4), layout="constrained")
    for number, (title, names) in enumerate(shown, start=1):
        _panel(figure.add_subplot(1, len(shown), number), title, names, columns)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return atomic_write(picture, png.getvalue())


def _is_one(name: str, starts: tuple[str, ...]) -> bool:
    return name.lower().startswith(starts)


def _panel(axes: Any, title: str, names: list[str], columns: dict[str, list[float]]) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    for name in names:
        # epochs without a value (validation every n-th) leave no hole in the line
        points = [(e, v) for e, v in zip(columns[EPOCH], columns[name], strict=True) if math.isfinite(v)]
        axes.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            label=name,
            marker="." if len(points) < 30 else None,
        )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


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
