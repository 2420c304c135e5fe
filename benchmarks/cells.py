"""Figures as the cells of a table; "-" for what was not measured or is not defined."""

from __future__ import annotations

import math

from yolopose.bootstrap import points

from .measure import Paired
from .report import APChange


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def paired(figure: Paired | None) -> str:
    """Median with its 95 % interval."""
    if figure is None:
        return "-"
    return f"{100 * figure.median:.2f} % [{100 * figure.low:.2f}, {100 * figure.high:.2f}]"


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"


def ap_points(value: float | None) -> str:
    return "-" if value is None else points(value)


def ap_change(change: APChange | None) -> str:
    """Points of AP with their 95 % interval."""
    if change is None:
        return "-"
    interval = "" if change.interval is None else f" [{', '.join(map(points, change.interval))}]"
    return points(change.difference) + interval
