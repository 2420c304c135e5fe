"""Files as documents: both containers of torch.save, damage, and tensors on demand."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import yolopose
from yolopose.checkpoints import edgeai_yolox, mmpose
from yolopose.checkpoints.archive import read_document
from yolopose.checkpoints.pickle_values import InertTensor
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

from .limited_process import LimitedProcess
from .pickles import START, dictionary, streamed, tensor, text, zipped
from .small_nets import small_net


def test_rejects_missing_empty_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_document(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="cannot read the weights"):
        read_document(tmp_path)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        read_document(tmp_path / "empty.pt")


def test_rejects_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a file"):
        yolopose.load(tmp_path / "pipe")


def test_rejects_archives_that_torch_does_not_write(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "holiday.zip", "w") as file:
        file.writestr("beach.txt", "sand")
    with pytest.raises(UnknownCheckpoint, match="zip archive, but not one"):
        read_document(tmp_path / "holiday.zip")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 10_000)
    with pytest.raises(CheckpointError, match=r"torch\.save does not write such a pickle"):
        read_document(tmp_path / "bomb.pt")


def test_rejects_big_endian(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02N.")
        file.writestr("archive/byteorder", "big")
    with pytest.raises(CheckpointError, match="big-endian"):
        read_document(tmp_path / "big.pt")


def test_rejects_a_damaged_archive_entry(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", START + b"}.")
        file.writestr("a/byteorder", "little", compress_type=zipfile.ZIP_DEFLATED)
    content = bytearray(buffer.getvalue())
    start = content.find(b"a/byteorder") + len("a/byteorder")
    content[start : start + 3] = b"\xff\xff\xff"
    (tmp_path / "net.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or truncated archive") as caught:
        yolopose.load(tmp_path / "net.pt")
    assert type(caught.value.__cause__).__name__ == "error"  # zlib.error


def test_rejects_damage_of_any_byte(tmp_path: Path) -> None:
    """Every seventh byte of pickle and directory, three values each."""
    path = zipped(START + dictionary({"model": tensor((1,), (1,))}) + b".", tmp_path / "net.pt")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            with pytest.raises(CheckpointError):
                yolopose.load(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_may_share_a_storage(zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(6.0)
    stored = {"a": base[:2], "b": base[2:], "c": torch.tensor([True]), "d": torch.tensor(7)}
    torch.save(stored, tmp_path / "shared.pt", _use_new_zipfile_serialization=zipped)
    document = read_document(tmp_path / "shared.pt")
    for key, expected in stored.items():
        assert torch.equal(document.tensor(document.content[key], key), expected)


def test_tensors_are_read_on_demand(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    torch.save({"view": tensor[1:, ::2], "empty": torch.zeros(0, 3), "half": tensor.half()}, tmp_path / "t.pt")
    document = read_document(tmp_path / "t.pt")
    assert isinstance(document.content["view"], InertTensor)
    assert torch.equal(document.tensor(document.content["view"], "view"), tensor[1:, ::2])
    assert document.tensor(document.content["empty"], "empty").shape == (0, 3)
    assert document.tensor(document.content["half"], "half").dtype == torch.float16
    outside = document.content["view"]._replace(offset=100)
    with pytest.raises(CheckpointError, match="reaches past"):
        document.tensor(outside, "view")


@pytest.mark.parametrize("shape", [(0, 2**62, 2**62), (0, 2**59, 2**59), (0, 2**31, 2**31)])
def test_rejects_an_empty_tensor_of_impossible_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    config = json.dumps(small_net().config.to_dict())
    document = {
        "format": text("yolopose"),
        "schema": b"K\x01",
        "config": text(config),
        "origin": text('{"source_format": "new", "weights_licence": null}'),
        "state_dict": dictionary({"x": tensor(shape, (0, 0, 0))}),
    }
    with pytest.raises(CheckpointError, match=r"impossible shape|damaged description"):
        yolopose.load(zipped(START + dictionary(document) + b".", tmp_path / "net.pt"))


def edgeai(shape: tuple[int, ...], classes: tuple[int, ...]) -> bytes:
    shapes = {
        edgeai_yolox.MARK: shape,
        "backbone.backbone.stem.conv.conv.weight": (64, 12, 3, 3),
        "head.cls_preds.0.weight": classes,
        "backbone.backbone.dark2.1.m.0.x": (1, 1, 1, 1),
        **{f"backbone.backbone.dark3.1.m.{index}.x": (1, 1, 1, 1) for index in range(3)},
    }
    return START + dictionary({"model": claimed(shapes)}) + b"."


def of_mmpose(shape: tuple[int, ...], classes: tuple[int, ...]) -> bytes:
    shapes = {
        mmpose.MARK: shape,
        "backbone.stem.conv.conv.weight": (64, 12, 3, 3),
        "head.head_module.out_cls.0.weight": classes,
        "backbone.stage1.1.blocks.0.x": (1, 1, 1, 1),
        **{f"backbone.stage2.1.blocks.{index}.x": (1, 1, 1, 1) for index in range(3)},
    }
    return START + dictionary({"state_dict": claimed(shapes)}) + b"."


def claimed(shapes: dict[str, tuple[int, ...]]) -> bytes:
    return dictionary({key: tensor(shape, (0, 0, 0, 0)) for key, shape in shapes.items()})


@pytest.mark.parametrize("make", [edgeai, of_mmpose])
@pytest.mark.parametrize("shapes", [((3 * 10**9, 1, 1, 1), (1, 1, 1, 1)), ((51, 1, 1, 1), (3 * 10**9, 1, 1, 1))])
def test_declared_shapes_are_checked_against_the_file(
    make: Callable[..., bytes], shapes: tuple[tuple[int, ...], ...], limited_process: LimitedProcess, tmp_path: Path
) -> None:
    assert "reaches past its 1 stored values" in limited_process.load(zipped(make(*shapes), tmp_path / "net.pt"))


def test_tensors_that_share_everything(limited_process: LimitedProcess, tmp_path: Path) -> None:
    """Ten thousand views of one megabyte would be ten gigabytes."""
    view = tensor((1 << 18,), (1,), stored=1 << 18)
    names = "".join(chr(97 + i) for i in range(26))
    state = b"}" + text("x") + view + b"q\x00s" + b"".join(
        text(f"backbone.stem.{a}{b}{c}") + b"h\x00s" for a in names for b in names for c in names[:15]
    )  # fmt: skip
    payload = START + b"}" + text("state_dict") + state + text(mmpose.MARK) + b"h\x00ss."
    assert "more than 4 times the file" in limited_process.load(zipped(payload, tmp_path / "net.pt", bytes(4 << 18)))


def test_rejects_a_storage_past_the_end_of_the_older_stream(limited_process: LimitedProcess, tmp_path: Path) -> None:
    for count in (2**63 - 1, 2**40, -(2**63), -1):
        rest = pickle.dumps(["a"], 2) + struct.pack("<q", count)
        answer = limited_process.load(streamed(pickle.dumps({}, 2), tmp_path / "stream.pt", rest))
        assert answer.startswith("refused: ")
        assert "ends before its tensors do" in answer
