"""What `pip install yolopose[cpu]` costs in a clean environment, for each Python found: size, import time, packages.

Run as `python benchmarks/studies/install.py` or `python -m yolopose.benchmarks.studies.install`. It uses the standard
library only and imports nothing from the package, because it must run before anything is installed; therefore its table
is made by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "yolopose", "export", "runtime", "benchmarks")
MINORS = range(10, 15)  # Python 3.10 ... 3.14
FORBIDDEN = ("torch", "onnx", "openvino")
INSTALLERS = ("pip", "setuptools")  # part of every environment, so not counted
MAX_IMPORT_S = 0.3
LARGE_BYTES = 1e6  # smaller packages share one line
MODULE = "import yolopose.runtime"
ESTIMATOR = "from yolopose.runtime import PoseEstimator"

_PROBE = "import ensurepip, sys, venv; print(*sys.version_info[:3], sep='.')"
_SITE = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
_FOUND = f"import importlib.util as u; print(*[name for name in {FORBIDDEN} if u.find_spec(name)])"
_IMPORT = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
_PEOPLE = """
import sys, numpy
from yolopose.runtime import PoseEstimator
with PoseEstimator(sys.argv[1]) as estimate:
    people = estimate(numpy.full((480, 640, 3), 114, numpy.uint8))
    print(len(people), "people,", estimate.backend.name, estimate.backend.version)
"""


class StepFailed(Exception):
    """A command failed; the message names it and quotes the last line of its output."""


@dataclass(frozen=True)
class Interpreter:
    path: str
    version: str  # "3.11.7"

    @property
    def minor(self) -> str:
        return self.version.rpartition(".")[0]


@dataclass(frozen=True)
class Package:
    """Bytes of its files in site-packages, including the byte code that pip compiles."""

    version: str
    bytes: int


@dataclass(frozen=True)
class Installation:
    """Seconds are medians over fresh processes."""

    python: str
    packages: dict[str, Package]
    total_bytes: int  # site-packages without pip and setuptools
    import_s: float
    import_estimator_s: float
    help_s: float  # yolopose-run --help, from start to end of the process
    forbidden: tuple[str, ...]  # those of FORBIDDEN that can be imported
    artifact: str | None  # output of running it; None when none was given

    def faults(self) -> list[str]:
        """Violations of the limits of a lean runtime; empty when there are none."""
        found = [f"{name} is installed" for name in self.forbidden]
        for statement, seconds in ((MODULE, self.import_s), (ESTIMATOR, self.import_estimator_s)):
            if seconds > MAX_IMPORT_S:
                found.append(f"`{statement}` takes {seconds:.3f} s, more than {MAX_IMPORT_S} s")
        return found


def find_interpreters(folders: Iterable[str], say: Callable[[str], None]) -> list[Interpreter]:
    """One interpreter for each version in MINORS: the running one, else the first in `folders` that works."""
    found: dict[str, Interpreter] = {}
    names = [f"python3.{minor}" for minor in MINORS]
    candidates = [Path(sys.executable), *(Path(folder, name) for name in names for folder in folders)]
    for path in candidates:
        if not path.is_file() or (path != candidates[0] and path.name.removeprefix("python") in found):
            continue
        try:
            interpreter = probe(str(path))
        except StepFailed as error:  # a pyenv shim of an inactive version, or a Python without ensurepip
            say(f"skipped: {error}")
        else:
            found.setdefault(interpreter.minor, interpreter)
    wanted = [name.removeprefix("python") for name in names]
    for minor in wanted:
        if minor not in found:
            say(f"no Python {minor} found; give one that is not on PATH with --python PATH")
    return [found[minor] for minor in wanted if minor in found]


def probe(path: str) -> Interpreter:
    """Raises StepFailed when `path` does not run or cannot create an environment."""
    return Interpreter(path, _output([path, "-c", _PROBE]))


def build_wheel(python: Path, folder: Path) -> Path:
    """The wheel of this checkout, built from a copy, so that no build/ folder is read or left behind."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    _output([str(python), "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder / "wheel"), str(source)])
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


def measure(interpreter: Interpreter, folder: Path, artifact: Path | None, runs: int) -> Installation:
    """Installs into a new environment under `folder` and measures it. Raises StepFailed."""
    _output([interpreter.path, "-m", "venv", str(folder / "env")])
    python = folder / "env" / "bin" / "python"
    wheel = build_wheel(python, folder)
    _output([str(python), "-m", "pip", "install", f"yolopose[cpu] @ {wheel.as_uri()}"])
    packages, total = installed_sizes(Path(_output([str(python), "-I", "-c", _SITE])))
    command = str(python.with_name("yolopose-run"))
    return Installation(
        python=interpreter.version,
        packages=packages,
        total_bytes=total,
        import_s=_import_seconds(python, MODULE, runs),
        import_estimator_s=_import_seconds(python, ESTIMATOR, runs),
        help_s=_median_seconds(lambda: _wall_seconds([command, "--help"]), runs),
        forbidden=tuple(_output([str(python), "-I", "-c", _FOUND]).split()),
        artifact=None if artifact is None else _output([str(python), "-I", "-c", _PEOPLE, str(artifact.resolve())]),
    )


def installed_sizes(site_packages: Path) -> tuple[dict[str, Package], int]:
    """Packages by name, largest first, and bytes of the folder, both without INSTALLERS."""
    packages, excluded = {}, 0
    for distribution in distributions(path=[str(site_packages)]):
        files = {Path(str(distribution.locate_file(file))).resolve() for file in distribution.files or ()}
        inside = [file for file in files if file.is_file() and file.is_relative_to(site_packages.resolve())]
        size = sum(file.stat().st_size for file in inside)
        name = distribution.metadata["Name"]
        if name.lower() in INSTALLERS:
            excluded += size
        else:
            packages[name] = Package(distribution.version, size)
    total = sum(file.stat().st_size for file in site_packages.rglob("*") if file.is_file() and not file.is_symlink())
    ordered = sorted(packages.items(), key=lambda item: (-item[1].bytes, item[0]))
    return dict(ordered), total - excluded


def table(installations: Sequence[Installation]) -> str:
    """One column per Python, one line per measurement; sizes in MB (10^6 bytes), times in ms."""
    large = [
        name
        for name in dict.fromkeys(name for each in installations for name in each.packages)
        if any(each.packages[name].bytes >= LARGE_BYTES for each in installations if name in each.packages)
    ]
    lines = [
        ["Python", *(each.python for each in installations)],
        ["site-packages, MB", *(f"{each.total_bytes / 1e6:.1f}" for each in installations)],
        *(["  " + name, *(_package_cell(each.packages.get(name)) for each in installations)] for name in large),
        ["  everything else", *(f"{_small_bytes(each, large) / 1e6:.1f}" for each in installations)],
        [f"{MODULE}, ms", *(f"{each.import_s * 1e3:.0f}" for each in installations)],
        [f"{ESTIMATOR}, ms", *(f"{each.import_estimator_s * 1e3:.0f}" for each in installations)],
        ["yolopose-run --help, ms", *(f"{each.help_s * 1e3:.0f}" for each in installations)],
        [f"{', '.join(FORBIDDEN)} installed", *(", ".join(each.forbidden) or "none" for each in installations)],
    ]
    if any(each.artifact for each in installations):
        lines.append(["artifact on a gray image", *(each.artifact or "" for each in installations)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def _package_cell(package: Package | None) -> str:
    return "-" if package is None else f"{package.version}  {package.bytes / 1e6:.1f}"


def _small_bytes(installation: Installation, large: Sequence[str]) -> int:
    return installation.total_bytes - sum(p.bytes for name, p in installation.packages.items() if name in large)


def _import_seconds(python: Path, statement: str, runs: int) -> float:
    return _median_seconds(lambda: float(_output([str(python), "-I", "-c", _IMPORT.format(statement)])), runs)


def _median_seconds(once: Callable[[], float], runs: int) -> float:
    once()  # the first run reads from disk and is not counted
    return statistics.median(once() for _ in range(runs))


def _wall_seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    _output(command)
    return time.perf_counter() - start


def _output(command: Sequence[str]) -> str:
    """Stdout of a command, run outside this checkout and without PYTHON* variables. Raises StepFailed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tempfile.gettempdir(), env=environment)
    except OSError as error:
        raise StepFailed(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise StepFailed(f"`{' '.join(command[:4])} ...` failed with exit code {done.returncode}: {last}")
    return done.stdout.strip()


def build_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--python", action="append", metavar="PATH", help="interpreter, repeatable (default: python3.10-3.14 on PATH)")
    add("--artifact", type=Path, metavar="FILE", help="an exported .onnx to run on a gray image in each environment")
    add("--runs", type=int, default=7, metavar="N", help="each time is the median of N fresh processes (default: 7)")
    add("--json", action="store_true", help="one JSON document on stdout instead of the table")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: all limits kept; 1: an installation failed or exceeds a limit; 2: wrong usage."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error(f"--runs must be at least 1, got {arguments.runs}")
    if arguments.artifact and not arguments.artifact.is_file():
        parser.error(f"--artifact {arguments.artifact}: no such file")
    try:
        if arguments.python:
            interpreters = [probe(os.path.abspath(path)) for path in arguments.python]
        else:
            interpreters = find_interpreters(os.get_exec_path(), _say)
    except StepFailed as error:
        parser.error(f"--python: {error}")
    installations, faults = [], {} if interpreters else {"Python": ["none from 3.10 to 3.14 found"]}
    for interpreter in interpreters:
        _say(f"Python {interpreter.version}: {interpreter.path}")
        with tempfile.TemporaryDirectory(prefix="yolopose-install-") as folder:
            try:
                installation = measure(interpreter, Path(folder).resolve(), arguments.artifact, arguments.runs)
            except StepFailed as error:
                faults[interpreter.version] = [str(error)]
                continue
        installations.append(installation)
        if broken := installation.faults():
            faults[interpreter.version] = broken
    if arguments.json:
        document = {"installations": [asdict(each) for each in installations], "faults": faults}
        print(json.dumps(document, ensure_ascii=False, indent=2))
    elif installations:
        print(table(installations))
    for version, messages in faults.items():
        for message in messages:
            _say(f"{version}: {message}")
    return 1 if faults else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
