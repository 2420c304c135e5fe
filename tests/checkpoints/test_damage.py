"""Files that are wrong in other ways than by being cut short: whatever goes wrong inside is a CheckpointError."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import yolopose
from yolopose.checkpoints import READERS, own
from yolopose.checkpoints.transfer import MAX_KEYPOINTS
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint
from yolopose.runtime.skeleton import LSP_14

from .pickles import START, dictionary, name, tensor, text, zipped
from .test_own import small


def saved(tmp_path: Path, **changes: Any) -> Path:
    """A checkpoint of ours with parts of it replaced."""
    path = tmp_path / "net.pt"
    yolopose.save(small(), path)
    torch.save({**torch.load(path, weights_only=True), **changes}, path)
    return path


def stored(tmp_path: Path) -> Any:
    return torch.load(saved(tmp_path), weights_only=True)


def test_endless_description(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="description of the network is damaged") as caught:
        yolopose.load(saved(tmp_path, config="[" * 100_000))
    assert isinstance(caught.value.__cause__, RecursionError)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_weights_that_are_whole_numbers(dtype: torch.dtype, tmp_path: Path) -> None:
    state = stored(tmp_path)["state_dict"]
    weight = "backbone.stem.conv.conv.weight"
    state[weight] = state[weight].to(dtype)
    with pytest.raises(CheckpointError, match=rf"{weight} is {dtype}"):
        yolopose.load(saved(tmp_path, state_dict=state))


def test_counters_of_any_type(tmp_path: Path) -> None:
    state = {key: t.half() for key, t in stored(tmp_path)["state_dict"].items()}
    net = yolopose.load(saved(tmp_path, state_dict=state))
    counters = [t for key, t in net.state_dict().items() if key.endswith("num_batches_tracked")]
    assert {t.dtype for t in counters} == {torch.int64}


@pytest.mark.parametrize("shape", [(0, 2**62, 2**62), (0, 2**59, 2**59), (0, 2**31, 2**31)])
def test_empty_tensor_of_impossible_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    config = json.dumps(small().config.to_dict())
    document = {
        "format": text("yolopose"),
        "schema": b"K\x01",
        "config": text(config),
        "origin": text('{"source_format": "new", "weights_licence": null}'),
        "state_dict": dictionary({"x": tensor(shape, (0, 0, 0))}),
    }
    with pytest.raises(CheckpointError, match=r"impossible shape|damaged description"):
        yolopose.load(zipped(START + dictionary(document) + b".", tmp_path / "net.pt"))


def test_damaged_entry_of_the_archive(tmp_path: Path) -> None:
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


def test_any_byte_of_the_archive_may_be_damaged(tmp_path: Path) -> None:
    """Each 97th byte of the small parts: the pickle and the directory."""
    path = zipped(START + dictionary({"model": tensor((1,), (1,))}) + b".", tmp_path / "net.pt")
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        for value in (0, 0x7F, 0xFF):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            with pytest.raises(CheckpointError):
                yolopose.load(path)


@pytest.mark.parametrize("count", [0, MAX_KEYPOINTS + 1])
def test_keypoints_and_classes_have_a_limit(count: int, tmp_path: Path) -> None:
    config = json.loads(stored(tmp_path)["config"])
    if count:
        points = [f"p{index}" for index in range(count)]
        skeleton = {"name": "x", "names": points, "flip_pairs": [], "limbs": [], "sigmas": [0.1] * count}
        with pytest.raises(CheckpointError, match=r"1001 keypoints; a network here has 1 to 1000"):
            yolopose.load(saved(tmp_path, config=json.dumps({**config, "skeleton": skeleton})))
    with pytest.raises(CheckpointError, match=r"class"):
        yolopose.load(saved(tmp_path, config=json.dumps({**config, "classes": ["x"] * count})))


def test_size_of_the_input_has_a_limit(tmp_path: Path) -> None:
    config = json.loads(stored(tmp_path)["config"])
    config["input"]["size"] = 32 << 20
    with pytest.raises(CheckpointError, match="pixels a side"):
        yolopose.load(saved(tmp_path, config=json.dumps(config)))


class Surprise(Exception):
    pass


def test_whatever_a_reader_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    raised: BaseException = Surprise("of the file")

    def read(*_: Any) -> None:
        raise raised

    assert READERS[0] is own
    monkeypatch.setattr(own, "read", read)
    with pytest.raises(CheckpointError, match=r"net\.pt looks like yolopose, but is damaged \(Surprise: of the file"):
        yolopose.load(path)
    for raised in (UnknownCheckpoint("ours"), MemoryError(), KeyboardInterrupt()):
        with pytest.raises(type(raised)) as caught:
            yolopose.load(path)
        assert caught.value is raised


def test_callers_mistake_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 14 keypoints"):
        yolopose.load(saved(tmp_path), skeleton=LSP_14)


def test_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a file"):
        yolopose.load(tmp_path / "pipe")


def test_device_is_always_the_same_text(tmp_path: Path) -> None:
    payload = START + dictionary({"a": name("torch", "device") + text("cuda") + b"K\x01\x86R"}) + b"."
    with pytest.raises(UnknownCheckpoint, match="a dictionary of a"):
        yolopose.load(zipped(payload, tmp_path / "net.pt"))


def test_keys_that_load_refuses_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="as a key"):
        yolopose.save(small(), tmp_path / "net.pt", state={(1, 2): 3})
    yolopose.save(small(), tmp_path / "net.pt", state={1: {None: 2.5, "a": (1, 2)}})
    assert own.read_extra(tmp_path / "net.pt") == {"state": {1: {None: 2.5, "a": (1, 2)}}}
    yolopose.load(tmp_path / "net.pt")
