from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from yolopose.runtime.errors import OutputError
from yolopose.runtime.output import atomic_write, output_folder


def test_writes_bytes_and_text(tmp_path: Path) -> None:
    assert atomic_write(tmp_path / "a.bin", b"\0\1").read_bytes() == b"\0\1"
    assert atomic_write(tmp_path / "a.txt", "größer\n").read_bytes() == "größer\n".encode()
    assert atomic_write(tmp_path / "a.txt", "new").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = atomic_write(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_longest_name(tmp_path: Path) -> None:
    assert atomic_write(tmp_path / ("n" * 255), b"x").read_bytes() == b"x"


def test_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # the write fails in its middle, as on a full disk
    try:
        with pytest.raises(OutputError, match=r"cannot write .*model\.onnx"):
            atomic_write(path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == [("model.onnx", b"old")]


def test_failed_flush_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        atomic_write(tmp_path / "a", b"x")
    assert list(tmp_path.iterdir()) == []


def test_target_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        atomic_write(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_folder_is_absent_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        atomic_write(tmp_path / "absent" / "a", b"x")
    (tmp_path / "file").write_bytes(b"")
    for call in (lambda: atomic_write(tmp_path / "file" / "a", b"x"), lambda: output_folder(tmp_path / "file" / "b")):
        with pytest.raises(OutputError, match="Not a directory"):
            call()


def test_output_folder(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "a" / "b").is_dir()
    assert output_folder(str(tmp_path / "a" / "b")).is_dir()
