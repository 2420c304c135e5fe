"""Files that are no checkpoints."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from yolopose.checkpoints.archive import read_document
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"\xff\xd8\xff\xe0 rest of a picture", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"<!DOCTYPE html><p>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\x08\x08\x12\x07pytorch", "ONNX"),
        (b"hello", "begins with b'hello'"),
    ],
)
def test_foreign_file(content: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(UnknownCheckpoint, match=hint):
        read_document(tmp_path / "weights.pt")


def test_absent_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_document(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_document(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        read_document(tmp_path / "empty.pt")


def test_other_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "holiday.zip", "w") as file:
        file.writestr("beach.txt", "sand")
    with pytest.raises(UnknownCheckpoint, match="zip archive, but not one"):
        read_document(tmp_path / "holiday.zip")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 10_000)
    with pytest.raises(CheckpointError, match="compressed"):
        read_document(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/constants.pkl", b"\x80\x02N.")
    with pytest.raises(UnknownCheckpoint, match="TorchScript"):
        read_document(tmp_path / "script.pt")


def test_big_endian_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_document(tmp_path / "big.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_share_storages(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(6.0)
    stored = {"a": base[:2], "b": base[2:], "c": torch.tensor([True]), "d": torch.tensor(7)}
    torch.save(stored, tmp_path / "shared.pt", _use_new_zipfile_serialization=zipped)
    document = read_document(tmp_path / "shared.pt")
    for key, tensor in stored.items():
        assert torch.equal(document.tensor(document.content[key], key), tensor)
