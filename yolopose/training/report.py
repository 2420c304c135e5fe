"""What a training reports after each epoch: metrics.csv, TensorBoard, curves.png, a validation image, a line."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
DRAW_INTERVAL = 20.0  # seconds between drawings: one takes a second, as long as a short epoch on a GPU
# Panels of curves.png: title and prefixes of the columns in it. Panels without columns are left out.
PANELS = (
    ("loss", ("loss", "box", "distribution", "objectness", "classes", "keypoints", "visibility", "heatmaps")),
    ("learning rate", ("lr", "learning_rate")),
    ("average precision", ("ap", "ar")),
)


class Reporter:
    """Call it after each epoch, within ``with reporter.open(first_epoch)``.

    Raises OutputError when a file cannot be written. Without matplotlib, or when a photograph has been removed, only a
    message says that a picture is missing.
    """

    def __init__(self, folder: RunFolder, val: Labels | None, console: Console, *, tensorboard: bool) -> None:
        self.folder, self.val, self.console, self.tensorboard = folder, val, console, tensorboard
        self._metrics: Metrics | None = None
        self._reported: set[str] = set()
        self._drawn, self._pending = -math.inf, False
        self._validation: Validation | None = None  # the last one that is not drawn

    @contextmanager
    def open(self, first_epoch: int) -> Iterator[None]:
        """first_epoch: of this training session. At the end, unless there was an error, all pictures are up to date."""
        board = self.folder.tensorboard if self.tensorboard else None
        with Metrics(self.folder.metrics_csv, board, self.console.say, first_epoch) as self._metrics:
            yield
            self._draw()

    def __call__(self, row: dict[str, float | None], validation: Validation | None) -> None:
        assert self._metrics is not None
        self._metrics.add(row)
        self._pending, self._validation = True, validation or self._validation
        if time.monotonic() - self._drawn >= DRAW_INTERVAL:
            self._draw()
        losses = ", ".join(f"{name} {row[name]:.3f}" for name in ("loss", "keypoints") if name in row)
        text = f"epoch {row['epoch']:.0f}: {losses}, {row['images_per_second']:.1f} images/s"
        if validation is not None:
            if validation.note:
                self.console.say(validation.note)
            text += f", AP {validation.ap.ap:.4f}, AP50 {validation.ap.ap50:.4f}"
        self.console.say(text)

    def _draw(self) -> None:
        if not self._pending:
            return
        self._drawn, self._pending = time.monotonic(), False
        validation, self._validation = self._validation, None
        try:
            draw_curves(self.folder.metrics_csv, self.folder.curves)
            if validation is not None and self.val is not None:
                path = self.folder.samples / "validation.jpg"
                predictions_grid(self.val.dataset, validation.results, self.val.skeleton, path)
        except (BackendUnavailable, SourceError) as error:
            if str(error) not in self._reported:
                self._reported.add(str(error))
                self.console.say(f"a picture of the run folder is missing: {error}")


class Metrics:
    """Rows of metrics by epoch, in metrics.csv and TensorBoard; a context manager, or call ``close``.

    start_epoch   first epoch of this training session. Rows from it on, written by an earlier session that was killed
                  before its checkpoint, are dropped, so that the file has every epoch once
    tensorboard   folder of TensorBoard's files; None: none. If the package is missing, ``say`` gets one sentence

    Raises DataError when the CSV was not written by yolopose-train, OutputError when it cannot be written.
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
        self._rows: list[list[str]] = []  # as strings: a value that was written is never rounded again
        if metrics_csv.exists():
            self._columns, rows = _read(metrics_csv)
            epoch = self._columns.index(EPOCH)
            self._rows = [row for row in rows if int(row[epoch]) < start_epoch]
            if not self._rows:
                self._columns = []
            self._write()
        self._board = _tensorboard(tensorboard, start_epoch, say) if tensorboard else None

    def add(self, row: Mapping[str, float | None]) -> None:
        """Add one epoch. ``row`` has "epoch" and the columns of earlier rows; None and NaN become empty cells.

        Raises ValueError for other columns; nothing is written then.
        """
        if EPOCH not in row:
            raise ValueError(f"a row of metrics needs {EPOCH!r}, got {list(row)}")
        if not self._columns:
            self._columns = list(row)
        if set(row) != set(self._columns):
            odd = sorted(set(row) ^ set(self._columns))
            raise ValueError(f"{self.path} has the columns {self._columns}; this row differs in {odd}")
        number = int(row[EPOCH] or 0)
        self._rows.append([str(number) if name == EPOCH else _cell(row[name]) for name in self._columns])
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

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self) -> None:
        """Write the whole file at once, so that no reader sees half a row."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self._columns, *self._rows] if self._columns else [])
        atomic_write(self.path, text.getvalue())


def read_metrics(path: Path) -> dict[str, list[float]]:
    """Columns of a metrics.csv by name; empty cells are NaN. Raises DataError."""
    columns, rows = _read(path)
    try:
        return {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(columns)}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from None


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of equal length, with an integer in the column "epoch" of every row."""
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
        raise DataError(f"{path} is not a metrics file of yolopose-train: {error}") from None
    return columns, rows


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.9g}"  # 9 digits are exact for float32


def _tensorboard(folder: Path, start_epoch: int, say: Callable[[str], None]) -> Any:
    """TensorBoard's writer, which hides what earlier sessions wrote from ``start_epoch`` on; None if not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        say("no TensorBoard files: pip install tensorboard; metrics are in metrics.csv")
        return None
    return SummaryWriter(str(folder), purge_step=start_epoch or None)


def draw_curves(metrics_csv: Path, picture: Path) -> Path:
    """Draw losses, learning rate and average precision over the epochs into ``picture`` (PNG).

    Raises BackendUnavailable without matplotlib, DataError for a damaged CSV, OutputError.
    """
    columns = read_metrics(metrics_csv)
    try:
        # The canvas itself, not pyplot: no window, and no state shared with the caller's own figures.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(f'curves need matplotlib ({error}): pip install "yolopose[bench]"') from None
    shown = [
        (title, names)
        for title, prefixes in PANELS
        if (names := [n for n in columns if n.lower().startswith(prefixes)])
    ]
    figure = Figure(figsize=(5 * max(1, len(shown)), 4), layout="constrained")
    for number, (title, names) in enumerate(shown, start=1):
        _draw_panel(figure.add_subplot(1, len(shown), number), title, names, columns)
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return atomic_write(picture, png.getvalue())


def _draw_panel(axes: Any, title: str, names: list[str], columns: dict[str, list[float]]) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    for name in names:
        # Epochs without a value (validation every n-th) do not interrupt the line.
        points = [(e, v) for e, v in zip(columns[EPOCH], columns[name], strict=True) if math.isfinite(v)]
        axes.plot(
            [epoch for epoch, _ in points],
            [value for _, value in points],
            label=name,
            marker="." if len(points) < 30 else None,
        )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
