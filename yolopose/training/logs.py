"""Figures of every epoch: metrics.csv and, where it is installed, TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from yolopose.runtime.errors import DataError
from yolopose.runtime.output import atomic_write

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
