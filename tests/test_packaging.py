"""The wheel holds what the tree holds, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.test_structure import FOLDERS, ROOT

SOURCES = {".py", ".typed", ".json", ".npz", ".onnx", ".pt"}
CHECKOUT_ONLY = {"results", "studies"}  # of benchmarks/


def _expected() -> set[str]:
    """Files of the shipped folders by the names that they must have in the wheel."""
    files = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            relative = path.relative_to(ROOT / folder)
            linked = folder == "yolopose" and relative.parts[0] in FOLDERS
            if path.is_file() and path.suffix in SOURCES and not linked and not CHECKOUT_ONLY & set(relative.parts):
                files.add(f"{package.replace('.', '/')}/{relative.as_posix()}")
    return files


@pytest.mark.slow
def test_wheel_holds_every_package_and_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(source)],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (sdist,) = (tmp_path / "dist").glob("*.tar.gz")
    assert sdist.stat().st_size > 0
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    assert names == _expected()


def test_git_tracks_no_link_but_those_of_the_folders() -> None:
    """A link to an environment, for example, would break every clone."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    links = {line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")}
    assert links == {"yolopose/benchmarks", "yolopose/export", "yolopose/runtime"}


def test_commands_of_the_package_exist() -> None:
    from importlib.metadata import entry_points

    ours = {entry.name: entry for entry in entry_points(group="console_scripts") if entry.name.startswith("yolopose-")}
    assert set(ours) == {"yolopose-train", "yolopose-export", "yolopose-run", "yolopose-bench"}
    assert all(callable(entry.load()) for entry in ours.values())
