"""The one home of what every command shares: exit codes, flags, progress, --json, errors on stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, TypeVar

from .errors import GateRefused, UsageError, YoloposeError
from .output import atomic_write, output_folder

__all__ = [
    "EXIT_DONE",
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_REFUSED",
    "EXIT_USAGE",
    "ArgumentParser",
    "Console",
    "UsageError",
    "atomic_write",
    "output_folder",
    "parser",
    "run",
    "usage_errors",
]

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3  # built, but refused by the accuracy gate
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count

T = TypeVar("T")


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose mistakes are raised, so that `run` reports them like every other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but says nothing where there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def parser(prog: str, description: str) -> ArgumentParser:
    """A parser with --json; --help shows defaults, unknown and abbreviated flags are errors."""
    made = ArgumentParser(prog=prog, description=description, formatter_class=_Defaults, allow_abbrev=False)
    made.add_argument("--json", action="store_true", help="one JSON document on stdout, everything else on stderr")
    return made


@contextmanager
def usage_errors() -> Iterator[None]:
    """Inside this block a ValueError means that the command line is wrong; it is raised again as UsageError."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


class Console:
    """Where a command speaks: results on stdout, everything else on stderr."""

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self._bar = ""  # the progress line that stands on the terminal now

    def say(self, text: str) -> None:
        """One line for people, on stderr."""
        if self._bar:
            self._draw("")
        print(_escaped(text, sys.stderr), file=sys.stderr, flush=True)

    def result(self, document: dict[str, Any], text: str) -> None:
        """The outcome on stdout: `document` as JSON with --json, else `text`. Raises ValueError for NaN, OSError.

        What stdout cannot encode is escaped.
        """
        line = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) if self.json else text
        shown = _escaped(line, sys.stdout)
        if self.json and shown != line:
            shown = json.dumps(document, indent=2)  # JSON has escapes of its own
        print(shown, flush=True)

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yields `items`; shows how many of `total` are done: a bar on a terminal, elsewhere a line each tenth."""
        terminal = sys.stderr.isatty()
        start, tenths = time.monotonic(), 0
        for done, item in enumerate(items, 1):
            yield item
            seconds = time.monotonic() - start
            if terminal:
                self._draw(_bar_text(label, done, total, seconds))
            elif done * 10 // max(total, 1) > tenths or done == total:
                tenths = done * 10 // max(total, 1)
                self.say(f"{label}: {done}/{total} ({seconds:.1f} s)")
        if self._bar:
            self._bar = ""  # the full bar stays
            print(file=sys.stderr, flush=True)

    def _draw(self, text: str) -> None:
        """Replace the standing progress line."""
        blank = " " * max(0, len(self._bar) - len(text))
        print(f"\r{text}{blank}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)
        self._bar = text


def _escaped(text: str, stream: TextIO | None) -> str:
    """`text` with escapes for what the stream cannot encode: foreign letters, bytes of a file name."""
    encoding = (stream and stream.encoding) or "utf-8"  # a closed stream is None, an encoding may be None
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _bar_text(label: str, done: int, total: int, seconds: float, width: int = 24) -> str:
    filled = width * done // max(total, 1)
    left = seconds / done * max(total - done, 0)
    return f"{label} [{'#' * filled}{'.' * (width - filled)}] {done}/{total}, {left:.0f} s left"


def run(
    main: Callable[[argparse.Namespace, Console], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse `argv`, call main(arguments, console), return the exit code.

    A ValueError says by our rules that the caller passed something wrong, here the user on the command line: EXIT_USAGE
    wherever it comes from. Every exception that is not listed below is a bug and keeps its traceback.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console(json="--json" in words)
    try:
        try:
            return main(parser.parse_args(words), console) or EXIT_DONE
        except SystemExit as exit:  # --help, --version
            print(end="", flush=True)
            return exit.code if isinstance(exit.code, int) else EXIT_DONE
    except ValueError as error:
        return _fail(console, parser.prog, error, EXIT_USAGE)
    except GateRefused as error:
        return _fail(console, parser.prog, error, EXIT_REFUSED)
    except (YoloposeError, OSError) as error:
        return _fail(console, parser.prog, error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _fail(console, parser.prog, KeyboardInterrupt("interrupted"), EXIT_INTERRUPTED)


def _fail(console: Console, prog: str, error: BaseException, code: int) -> int:
    """Report `error`, also where stdout or stderr takes nothing any more (full disk, closed pipe)."""
    try:
        console.say(f"{prog}: error: {error}")
    except OSError:
        _discard(sys.stderr)
    try:
        print(end="", flush=True)  # unlike sys.stdout.flush() with a closed stdout, which is None
        if console.json:
            console.result({"error": {"type": type(error).__name__, "message": str(error), "exit_code": code}}, "")
    except OSError:
        _discard(sys.stdout)
    return code


def _discard(stream: TextIO) -> None:
    """Send what the stream still holds to nowhere: Python's own flush at exit would fail on it once more."""
    with suppress(OSError):  # a stream that is no file
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
