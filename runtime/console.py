"""What all commands share: the parser with its common flags, output, progress, exit codes, reporting of errors."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, TypeVar

from yolopose import __version__

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
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as in shells

T = TypeVar("T")


class ArgumentParser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit, so that `run` reports all errors alike."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


class _DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def parser(prog: str, description: str) -> ArgumentParser:
    """A parser with --json and --version; --help shows defaults, unknown and abbreviated flags are errors."""
    made = ArgumentParser(prog=prog, description=description, formatter_class=_DefaultsFormatter, allow_abbrev=False)
    made.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    made.add_argument("--json", action="store_true", help="one JSON document on stdout, everything else on stderr")
    return made


@contextmanager
def usage_errors() -> Iterator[None]:
    """A ValueError raised inside this block is raised again as UsageError: the block reads the command line."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(
    main: Callable[[argparse.Namespace, Console], int | None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse `argv`, call main(arguments, console), return the exit code.

    Only the exceptions below are reported without a traceback. Any other exception, ValueError included, is a bug.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console(json="--json" in words)
    try:
        try:
            return main(parser.parse_args(words), console) or EXIT_DONE
        except SystemExit as exit:  # --help, --version
            print(end="", flush=True)
            return exit.code if isinstance(exit.code, int) else EXIT_DONE
    except UsageError as error:
        return _fail(console, parser.prog, error, EXIT_USAGE)
    except GateRefused as error:
        return _fail(console, parser.prog, error, EXIT_REFUSED)
    except (YoloposeError, OSError) as error:
        return _fail(console, parser.prog, error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _fail(console, parser.prog, KeyboardInterrupt("interrupted"), EXIT_INTERRUPTED)


class Console:
    """Output of a command: the result on stdout, everything else on stderr."""

    def __init__(self, json: bool = False) -> None:
        self.json = json
        self._bar = ""  # the progress bar that is on the terminal now

    def say(self, text: str) -> None:
        """One line on stderr."""
        if self._bar:
            self._draw("")
        print(_escaped(text, sys.stderr), file=sys.stderr, flush=True)

    def result(self, document: dict[str, Any], text: str) -> None:
        """The result on stdout: `document` as JSON with --json, else `text`. Raises ValueError for NaN, OSError.

        Characters that stdout cannot encode are escaped.
        """
        line = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) if self.json else text
        shown = _escaped(line, sys.stdout)
        if self.json and shown != line:
            shown = json.dumps(document, indent=2)  # JSON has escapes of its own
        print(shown, flush=True)

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """Yields `items` and shows how many of `total` are done: a bar on a terminal, else a line for each tenth."""
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
        """Replace the progress bar."""
        blank = " " * max(0, len(self._bar) - len(text))
        print(f"\r{text}{blank}" + ("" if text else "\r"), end="", file=sys.stderr, flush=True)
        self._bar = text


def _bar_text(label: str, done: int, total: int, seconds: float, width: int = 24) -> str:
    filled = width * done // max(total, 1)
    left = seconds / done * max(total - done, 0)
    return f"{label} [{'#' * filled}{'.' * (width - filled)}] {done}/{total}, {left:.0f} s left"


def _escaped(text: str, stream: TextIO | None) -> str:
    """`text` with escapes for characters that the stream cannot encode, and for undecodable bytes of file names."""
    encoding = (stream and stream.encoding) or "utf-8"  # a closed stream is None, and so may its encoding be
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _fail(console: Console, prog: str, error: BaseException, code: int) -> int:
    """Report `error`, also when stdout or stderr cannot be written to (full disk, closed pipe)."""
    try:
        console.say(f"{prog}: error: {error}")
    except OSError:
        _discard(sys.stderr)
    try:
        print(end="", flush=True)  # sys.stdout.flush() would fail for a closed stdout, which is None
        if console.json:
            console.result({"error": {"type": type(error).__name__, "message": str(error), "exit_code": code}}, "")
    except OSError:
        _discard(sys.stdout)
    return code


def _discard(stream: TextIO) -> None:
    """Redirect the stream to os.devnull: Python flushes it at exit, and that would fail once more."""
    with suppress(OSError):  # a stream that is not a file
        descriptor = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
