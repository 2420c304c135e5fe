"""curves.png: losses, learning rate and average precision over the epochs."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from yolopose.runtime.errors import BackendUnavailable
from yolopose.runtime.output import atomic_write

from .logs import EPOCH, read_metrics

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
