"""Exit codes and messages of errors, flags of all commands, results and progress on awkward streams."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import yolopose
from yolopose.runtime import console
from yolopose.runtime.console import Console, parser, run, usage_errors
from yolopose.runtime.errors import ArtifactError, GateRefused, OutputError, UsageError


def made_parser() -> argparse.ArgumentParser:
    made = parser("yolopose-test", "A command for tests.")
    made.add_argument("--count", type=int, default=3, help="how many")
    made.add_argument("--name", help="what it is called")
    return made


def raising(error: BaseException) -> Callable[[argparse.Namespace, Console], int]:
    def main(_: argparse.Namespace, __: Console) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("--count must be positive"), 2),
        (ArtifactError("model.onnx is truncated"), 1),
        (OutputError("cannot write x: No space left on device"), 1),
        (OSError(28, "No space left on device"), 1),
        (GateRefused("AP falls by 1.2, allowed are 0.5"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_code_and_message_of_each_error(error: BaseException, code: int, capsys: pytest.CaptureFixture) -> None:
    assert run(raising(error), made_parser(), []) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"yolopose-test: error: {error if str(error) else 'interrupted'}\n"

    assert run(raising(error), made_parser(), ["--json"]) == code
    out, err = capsys.readouterr()
    document = json.loads(out)["error"]
    assert document["exit_code"] == code
    assert document["type"] == type(error).__name__
    assert document["message"] in err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_returned_code(returned: int | None, code: int) -> None:
    assert run(lambda arguments, _: returned if arguments.count == 3 else 9, made_parser(), []) == code


@pytest.mark.parametrize("argv", [["--unknown"], ["--count", "many"], ["extra"], ["--coun", "3"]])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture) -> None:
    assert run(raising(AssertionError("must not run")), made_parser(), argv) == 2
    assert "see yolopose-test --help" in capsys.readouterr().err
    assert run(raising(AssertionError("must not run")), made_parser(), [*argv, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 2


def test_help_shows_defaults_where_there_are_some(capsys: pytest.CaptureFixture) -> None:
    assert run(raising(AssertionError("must not run")), made_parser(), ["--help"]) == 0
    text = capsys.readouterr().out
    assert "how many (default: 3)" in text
    assert "default: None" not in text
    assert "default: False" not in text


@pytest.mark.parametrize("error", [ZeroDivisionError(), ValueError("a value that no user gave")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raising(error), made_parser(), [])


def test_value_error_while_reading_the_command_line_is_a_usage_error(capsys: pytest.CaptureFixture) -> None:
    def main(_: argparse.Namespace, __: Console) -> int:
        with usage_errors():
            raise ValueError("--count must be positive")

    assert run(main, made_parser(), []) == 2
    assert capsys.readouterr().err == "yolopose-test: error: --count must be positive\n"


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert run(raising(AssertionError("must not run")), made_parser(), ["--version"]) == 0
    assert capsys.readouterr() == (f"yolopose-test {yolopose.__version__}\n", "")


def test_result_goes_to_stdout_and_messages_to_stderr(capsys: pytest.CaptureFixture) -> None:
    for as_json in (False, True):
        speaker = Console(json=as_json)
        speaker.say("working")
        speaker.result({"people": 2, "name": "größe"}, "2 people")
        out, err = capsys.readouterr()
        assert err == "working\n"
        assert (json.loads(out) == {"people": 2, "name": "größe"}) if as_json else (out == "2 people\n")
    with pytest.raises(ValueError, match="JSON"):
        Console(json=True).result({"ap": float("nan")}, "")


PROGRAM = """
import sys
from yolopose.runtime.console import parser, run
from yolopose.runtime.errors import ArtifactError

def main(arguments, console):
    if arguments.fail:
        raise ArtifactError("größe")
    console.say("working")
    console.result({"name": "größe \\udcff", "padding": "x" * 200_000}, "größe \\udcff" + "x" * 200_000)

made = parser("program", "For tests.")
made.add_argument("--fail", action="store_true", help="fail")
sys.exit(run(main, made))
"""


def program(shell: str, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    """Run PROGRAM with `flags` in place of {} in a bash line; the exit code is the program's own."""
    line = shell.format('"$0" -c "$1" "${@:2}"') + "; exit ${PIPESTATUS[0]}"
    words = ["bash", "-c", line, sys.executable, PROGRAM, *flags]
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
    )


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize("flags", [(), ("--json",), ("--json", "--fail"), ("--help",), ("--unknown", "--json")])
@pytest.mark.parametrize("shell", ["{} > /dev/full", "{} | true", "{} > /dev/full 2> /dev/full"])
def test_ends_cleanly_when_a_stream_cannot_be_written(shell: str, flags: tuple[str, ...]) -> None:
    done = program(shell, *flags)
    if flags == ("--help",) and shell == "{} | true":
        assert done.returncode in (0, 1)  # the pipe may accept it before its reader exits
    else:
        assert done.returncode == (2 if "--unknown" in flags else 1)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert done.stderr.count("error:") <= 1


@needs_full
def test_closed_stdout() -> None:
    assert program("{} >&-").returncode == 0
    assert program("{} >&-", "--help").returncode == 0
    done = program("{} >&-", "--fail", "--json")
    assert (done.returncode, done.stderr) == (1, "program: error: größe\n")


def test_a_message_that_cannot_be_encoded_is_escaped(capsys: pytest.CaptureFixture) -> None:
    assert run(raising(ArtifactError("no \udcff.onnx")), made_parser(), ["--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["message"] == "no \udcff.onnx"
    assert err == "yolopose-test: error: no \\udcff.onnx\n"


@needs_full
def test_writes_the_document_when_stderr_cannot_be_written() -> None:
    done = program("{} 2> /dev/full", "--json", "--fail")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["message"] == "größe"


def test_what_stdout_cannot_encode_is_escaped() -> None:
    for encoding in ("ascii", "utf-8"):
        done = program("{}", "--json", PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["name"] == "größe \udcff"
        done = program("{}", PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("größe \\udcffx" if encoding == "utf-8" else "gr\\xf6\\xdfe \\udcffx")


def test_progress_in_plain_lines(capsys: pytest.CaptureFixture) -> None:
    assert list(Console().progress(range(200), 200, "images")) == list(range(200))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{n}/200" for n in range(20, 201, 20)]
    assert list(Console().progress([], 0, "images")) == []
    assert list(Console().progress(iter("ab"), 2, "images")) == ["a", "b"]
    assert "images: 2/2" in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    speaker = Console()
    for number in speaker.progress(range(4), 4, "images"):
        if number == 2:
            speaker.say("a message in between")
    text = terminal.getvalue()
    assert text.count("\r") >= 4
    assert "images [######..................] 1/4" in text
    assert "\ra message in between\n" in text  # on a line of its own
    assert text.endswith("[########################] 4/4, 0 s left\n")


def test_exports_the_functions_that_write_files() -> None:
    assert {"atomic_write", "output_folder", "EXIT_REFUSED"} <= set(console.__all__)
