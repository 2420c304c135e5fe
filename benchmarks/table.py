"""A table of text: aligned columns for the terminal, markdown for a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """First column to the left, the others to the right. Raises ValueError when a row does not fit the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    legend: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells under {len(self.header)} headings")

    def text(self) -> str:
        lines = (self.header, *self.rows)
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        head, *body = [_aligned(line, widths) for line in lines]
        legend = [f"({self.legend})"] if self.legend else []
        return "\n".join([self.title, head, "-" * (sum(widths) + 2 * (len(widths) - 1)), *body, *legend])

    def markdown(self) -> str:
        def line(cells: Iterable[str]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        marks = [":--", *["--:"] * (len(self.header) - 1)]
        legend = ["", self.legend] if self.legend else []
        return "\n".join([f"## {self.title}", "", line(self.header), line(marks), *map(line, self.rows), *legend])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = [f"{cell:{'<' if i == 0 else '>'}{widths[i]}}" for i, cell in enumerate(cells)]
    return "  ".join([first, *others]).rstrip()
