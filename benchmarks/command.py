"""``yolopose-bench``: time, memory and accuracy of artifacts and checkpoints, side by side."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from yolopose.runtime import console
from yolopose.runtime.errors import OutputError
from yolopose.runtime.output import atomic_write, output_folder

from . import tables
from .report import BenchReport, to_json_values
from .run import run_benchmark
from .settings import BenchSettings, flag_name


def build_parser() -> console.ArgumentParser:
    """One argument for each field of BenchSettings."""
    made = console.parser(
        "yolopose-bench", "Measure time, memory and accuracy of artifacts and checkpoints, side by side."
    )
    annotations = get_type_hints(BenchSettings)
    for each in fields(BenchSettings):
        keywords: dict[str, Any] = dict(each.metadata["argparse"])
        if "choices" not in keywords:
            keywords["type"] = _type_of_value(annotations[each.name])
        if each.name == "files":
            made.add_argument(each.name, nargs="+", **keywords)
        else:
            made.add_argument(flag_name(each.name), default=each.default, **keywords)
    return made


def _type_of_value(annotation: Any) -> Any:
    """Path for ``Path | None`` and ``tuple[Path, ...]``, int for ``tuple[int, int] | None``."""
    while inside := get_args(annotation):
        annotation = inside[0]
    return annotation


def settings_from(arguments: argparse.Namespace) -> BenchSettings:
    """Raises ValueError naming the flag."""
    values = {each.name: getattr(arguments, each.name) for each in fields(BenchSettings)}
    values["files"] = tuple(arguments.files)
    if arguments.imgsz is not None:
        if len(arguments.imgsz) > 2:
            raise ValueError(f"--imgsz takes one number, or height and width; got {arguments.imgsz}")
        values["imgsz"] = (arguments.imgsz[0], arguments.imgsz[-1])
    return BenchSettings(**values)


def _write(report: BenchReport, folder: Path) -> None:
    document = json.dumps(to_json_values(report), ensure_ascii=False, allow_nan=False, indent=1)
    atomic_write(folder / "benchmark.json", document + "\n")
    atomic_write(folder / "benchmark.md", tables.markdown(report))


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)

    def command(arguments: argparse.Namespace, terminal: console.Console) -> None:
        with console.usage_errors():
            settings = settings_from(arguments)
        folder = None if settings.output is None else output_folder(settings.output)
        # A missing library or an unwritable folder is reported now, not after minutes of measuring.
        if folder is not None or not terminal.json:
            tables.require_tabulate()
        if folder is not None:
            atomic_write(folder / ".yolopose-bench", "").unlink()
        report = run_benchmark(settings, terminal, shlex.join(["yolopose-bench", *words]))
        if folder is not None:
            try:
                _write(report, folder)
            except OutputError:
                terminal.say(tables.text(report))  # a full disk must not lose the figures
                raise
            terminal.say(f"written: {folder / 'benchmark.json'}, {folder / 'benchmark.md'}")
        terminal.result(to_json_values(report), "" if terminal.json else tables.text(report))

    return console.run(command, build_parser(), words)


if __name__ == "__main__":
    sys.exit(main())
