"""The parts of `make bench-install` that need no installation, and that it runs before anything is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_structure import ROOT
from yolopose.benchmarks.studies import install
from yolopose.benchmarks.studies.install import Installation, Interpreter, Package, StepFailed


def _installation(**changes: object) -> Installation:
    fields: dict[str, object] = {
        "python": "3.11.7",
        "packages": {"numpy": Package("2.4.6", 30_000_000), "flatbuffers": Package("25.1", 90_000)},
        "total_bytes": 31_500_000,
        "import_s": 0.12,
        "import_estimator_s": 0.2,
        "help_s": 0.15,
        "forbidden": (),
        "artifact": None,
    }
    return Installation(**{**fields, **changes})  # type: ignore[arg-type]


def _script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def _distribution(site_packages: Path, name: str, **files: int) -> None:
    """An installed package: files of the given sizes, and their record."""
    info = site_packages / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site_packages / name).mkdir()
    for file, size in files.items():
        (site_packages / name / file).write_bytes(bytes(size))
    (info / "METADATA").write_bytes(f"Name: {name}\nVersion: 1.0\n".encode())
    recorded = [f"{name}/{file},," for file in files] + [f"{info.name}/METADATA,,", "../../bin/command,,"]
    (info / "RECORD").write_text("\n".join(recorded), encoding="utf-8")


def test_runs_without_installed_packages() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "studies" / "install.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--artifact" in done.stdout


def test_sources_of_the_wheel_exist() -> None:
    assert all((ROOT / name).exists() for name in install.SOURCES)


def test_first_working_interpreter_is_taken(tmp_path: Path) -> None:
    """A shim that fails comes before the real interpreter; a third one of the same version is ignored."""
    other = next(minor for minor in install.MINORS if minor != sys.version_info.minor)
    _script(tmp_path / "shims" / f"python3.{other}", "echo 'command not found' >&2; exit 127")
    works = _script(tmp_path / "bin" / f"python3.{other}", f"echo 3.{other}.9")
    _script(tmp_path / "late" / f"python3.{other}", f"echo 3.{other}.1")
    said: list[str] = []
    found = install.find_interpreters([str(tmp_path / name) for name in ("shims", "bin", "late")], said.append)
    assert Interpreter(str(works), f"3.{other}.9") in found
    assert [each.path for each in found if each.minor != f"3.{other}"] == [sys.executable]
    assert "failed with exit code 127: command not found" in said[0]
    assert len(said) == 1 + len(install.MINORS) - len(found)


def test_probe_names_a_missing_interpreter(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="absent"):
        install.probe(str(tmp_path / "absent"))


def test_sizes_exclude_installers_and_files_outside(tmp_path: Path) -> None:
    site_packages = tmp_path / "lib" / "site-packages"
    _distribution(site_packages, "large", a=5000, b=700)
    _distribution(site_packages, "small", a=30)
    _distribution(site_packages, "pip", a=9000)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "command").write_bytes(bytes(100_000))
    packages, total = install.installed_sizes(site_packages)
    assert list(packages) == ["large", "small"]
    metadata = len("Name: large\nVersion: 1.0\n")
    assert packages["large"] == Package("1.0", 5700 + metadata)
    records = sum((site_packages / f"{name}-1.0.dist-info" / "RECORD").stat().st_size for name in ("large", "small"))
    pip_record = (site_packages / "pip-1.0.dist-info" / "RECORD").stat().st_size
    assert total == 5700 + 30 + 2 * metadata + records + pip_record


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"forbidden": ("torch",)}, "torch is installed"),
        ({"import_s": 0.31}, "`import yolopose.runtime` takes 0.310 s, more than 0.3 s"),
        ({"import_estimator_s": 0.5}, "PoseEstimator` takes 0.500 s"),
    ],
)
def test_faults_are_named(changes: dict[str, object], fault: str) -> None:
    assert _installation().faults() == []
    (found,) = _installation(**changes).faults()
    assert fault in found


def test_table_has_one_column_per_python_and_one_line_for_small_packages() -> None:
    older = _installation(python="3.10.13", packages={"sympy": Package("1.14", 29_000_000)}, forbidden=("onnx",))
    lines = install.table([older, _installation(artifact="0 people, onnxruntime 1.31.1")]).splitlines()
    cells = {line[:45].strip(): line[45:].split() for line in lines}
    assert cells["Python"] == ["3.10.13", "3.11.7"]
    assert cells["site-packages, MB"] == ["31.5", "31.5"]
    assert cells["numpy"] == ["-", "2.4.6", "30.0"]
    assert cells["sympy"] == ["1.14", "29.0", "-"]
    assert cells["everything else"] == ["2.5", "1.5"]
    assert "flatbuffers" not in cells
    assert any(line.endswith("0 people, onnxruntime 1.31.1") for line in lines)
    assert [line.split()[-2:] for line in lines if line.startswith("torch, onnx")] == [["onnx", "none"]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "0"], "at least 1"),
        (["--artifact", "absent.onnx"], "no such file"),
        (["--python", "absent/python3"], "absent/python3"),
    ],
)
def test_usage_errors(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        install.main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_failed_installation_is_a_fault_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(interpreter: Interpreter, *_: object) -> Installation:
        if interpreter.minor == "3.14":
            raise StepFailed("no wheel of onnxruntime")
        return _installation()

    monkeypatch.setattr(install, "measure", measure)
    monkeypatch.setattr(
        install, "probe", lambda path: Interpreter(path, {"a": "3.14.0", "b": "3.11.7"}[Path(path).name])
    )
    assert install.main(["--python", "a", "--python", "b"]) == 1
    said = capsys.readouterr()
    assert "3.14.0: no wheel of onnxruntime" in said.err
    assert "numpy" in said.out
    assert install.main(["--python", "b", "--json"]) == 0
    assert '"faults": {}' in capsys.readouterr().out
