"""Hostile and ordinary pickles: nothing of a file runs, and none needs endless time or memory."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yolopose
from yolopose.checkpoints.pickle_machine import unpickle
from yolopose.checkpoints.pickle_values import ALLOWED, Call, Name, StandIn, stand_in_name
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint, UnsafeCheckpoint

from .limited_process import LimitedProcess
from .pickles import START, containers, dictionary, name, number, streamed, text, zipped

MARKER = "YOLOPOSE_PICKLE_RAN"


class Calls:
    """An object that is pickled as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


LOG = name("mmengine.logging", "HistoryBuffer") + text("min")
GETATTR = name("builtins", "getattr")
RUN = f"__import__('os').environ.__setitem__('{MARKER}', '1')"
SET = text(MARKER) + text("1")
ATTACKS = {  # pickle, name in the message
    "os.system": (pickle.dumps(Calls(os.system, f"touch {MARKER}")), r"(posix|nt|os)\.system"),
    "exec": (pickle.dumps(Calls(exec, RUN)), r"builtins\.exec"),
    "eval, protocol 0": (pickle.dumps(Calls(eval, RUN), 0), r"(__builtin__|builtins)\.eval"),
    "putenv by stack": (b"\x80\x04" + b"\x8c\x02os\x8c\x06putenv\x93" + SET + b"\x86R.", r"os\.putenv"),
    "nested in a state dict": (
        pickle.dumps({"model": OrderedDict(a=[1, {"b": Calls(exec, RUN)}])}),
        r"builtins\.exec",
    ),
    "INST": (b"(" + text(RUN) + b"i__builtin__\nexec\n.", r"__builtin__\.exec"),
    "OBJ": (b"(" + name("builtins", "exec") + text(RUN) + b"o.", r"builtins\.exec"),
    "NEWOBJ": (b"\x80\x02" + name("subprocess", "Popen") + text("true") + b"\x85\x81.", r"subprocess\.Popen"),
    "NEWOBJ_EX": (b"\x80\x04" + name("subprocess", "Popen") + text("true") + b"\x85}\x92.", r"subprocess\.Popen"),
    "getattr of a module": (b"\x80\x02" + GETATTR + text("os") + text("system") + b"\x86R.", "getattr"),
    "getattr of an allowed callable": (
        b"\x80\x02" + GETATTR + name("torch", "Size") + text("__call__") + b"\x86R.",
        "getattr",
    ),
    "function of torch.nn": (
        b"\x80\x02" + name("torch.nn.modules.module", "register_module_forward_hook") + text("x") + b"\x85R.",
        r"torch\.nn\.modules\.module\.register_module_forward_hook",
    ),
    "function of models": (b"\x80\x02" + name("models.common", "run") + text("x") + b"\x85R.", r"models\.common\.run"),
    "class of models, called": (b"(" + text("x") + b"imodels.yolo\nModel\n.", r"models\.yolo\.Model"),
    "look-alike package": (b"\x80\x02" + name("torch.nnx", "Linear") + b")R.", r"torch\.nnx\.Linear"),
    "torch.hub.load": (b"\x80\x02" + name("torch.hub", "load") + text("a") + b"\x85R.", r"torch\.hub\.load"),
    "torch.load in a storage": (
        b"\x80\x02" + name("torch.storage", "_load_from_bytes") + text("x") + b"\x85R.",
        r"torch\.storage\._load_from_bytes",
    ),
    "a name, not called": (b"\x80\x02" + name("os", "system") + b".", r"os\.system"),
    "dotted name": (b"\x80\x04" + text("torch") + text("Size.__class__") + b"\x93.", r"torch\.Size\.__class__"),
    "storage type, called": (b"\x80\x02" + name("torch", "FloatStorage") + b")R.", r"torch\.FloatStorage"),
    "method, called": (
        b"\x80\x02" + GETATTR + LOG + b"\x86R)R.",
        r"mmengine\.logging\.HistoryBuffer\.min",
    ),
    "changing a stand-in class": (
        b"\x80\x02" + name("models.yolo", "Model") + b"N}" + text("__setstate__") + text("x") + b"s\x86b.",
        r"setattr\(models\.yolo\.Model",
    ),
    "slots of a stand-in": (
        b"\x80\x02" + name("models.yolo", "Model") + b")\x81N}" + text("__class__") + text("x") + b"s\x86b.",
        r"setattr\(models\.yolo\.Model",
    ),
    "changing an allowed name": (
        b"\x80\x02" + name("torch", "FloatStorage") + b"N}" + text("dtype") + text("x") + b"s\x86b.",
        r"setattr\(torch\.FloatStorage",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses_hostile_pickles_by_name(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    payload, named = ATTACKS[attack]
    for path in containers(payload, tmp_path):
        with pytest.raises(UnsafeCheckpoint, match=named) as caught:
            yolopose.load(path)
        assert str(path) in str(caught.value)
    assert MARKER not in os.environ
    assert not (tmp_path / MARKER).exists()


DAMAGED = {
    "persistent id of another kind": b"\x80\x02" + text("file:///etc/passwd") + b"Q.",
    "persistent id of another type": b"\x80\x02(" + text("storage") + text("T") + text("0") + text("cpu") + b"K\x01tQ.",
    "unregistered extension": b"\x80\x02\x82\x07.",
    "changing OrderedDict": b"\x80\x02ccollections\nOrderedDict\nN}" + text("get") + text("x") + b"s\x86b.",
    "changing an allowed callable": b"\x80\x02" + name("torch", "Size") + b"}" + text("__call__") + text("x") + b"sb.",
    "no pickle at all": b"\x80\x02",
    "stack underflow": b"\x80\x02R.",
    "tensor without storage": b"\x80\x02" + name("torch._utils", "_rebuild_tensor_v2") + b"(K\x00K\x00))\x89NtR.",
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_rejects_damaged_pickles(damage: str, tmp_path: Path) -> None:
    for path in containers(DAMAGED[damage], tmp_path):
        with pytest.raises(CheckpointError):
            yolopose.load(path)
    assert "get" not in vars(OrderedDict)


def test_allowed_names_are_inert() -> None:
    """ALLOWED contains no real function or class: only inert values of this package, and dtypes of PyTorch."""
    for value in ALLOWED.values():
        assert isinstance(value, Call | Name | torch.dtype)
        assert isinstance(value, torch.dtype) or not hasattr(value, "__dict__")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_value_or_a_checkpoint_error(payload: bytes) -> None:
    with suppress(CheckpointError):
        unpickle(io.BytesIO(payload), "somewhere")


def test_networks_become_stand_ins() -> None:
    torch_like = b"\x80\x02" + name("models.yolo", "Detect") + b")\x81}" + text("nkpt") + b"K\x11sb."
    value = unpickle(io.BytesIO(torch_like), "here")
    assert isinstance(value, StandIn)
    assert stand_in_name(value) == "models.yolo.Detect"
    assert vars(value) == {"nkpt": 17}


def test_reads_classes_with_source_code_of_the_older_stream() -> None:
    """Before the zip archive, torch.save wrote a class as a persistent ID together with its source code."""
    model = b"(" + text("module") + name("models.yolo", "Model") + text("yolo.py") + text("import os") + b"tQ"
    value = unpickle(io.BytesIO(b"\x80\x02" + model + b")\x81."), "here")
    assert stand_in_name(value) == "models.yolo.Model"
    for other in (name("collections", "OrderedDict"), name("torch", "FloatStorage")):
        payload = b"\x80\x02(" + text("module") + other + text("a") + text("b") + b"tQ."
        with pytest.raises(CheckpointError, match="not a tensor's storage"):
            unpickle(io.BytesIO(payload), "here")


def test_reads_torch_modules_and_numpy_values_as_data() -> None:
    content = {
        "net": torch.nn.ReLU(),
        "size": torch.Size((2, 3)),
        "array": np.arange(6, dtype="float32").reshape(2, 3).T,
        "scalar": np.float64(0.5),
        "objects": np.array([{}], dtype=object),
        "dtype": torch.float16,
        "tags": {1, 2},
    }
    read = unpickle(io.BytesIO(pickle.dumps(content, 2)), "here")
    assert stand_in_name(read["net"]) == "torch.nn.modules.activation.ReLU"
    assert read["size"] == (2, 3)
    assert np.array_equal(read["array"].value(), content["array"])
    assert read["scalar"] == 0.5
    assert read["objects"].value() is None
    assert read["dtype"] is torch.float16
    assert read["tags"] == {1, 2}


def test_reads_methods_of_training_logs_as_names() -> None:
    payload = b"\x80\x02" + GETATTR + LOG + b"\x86R."
    value = unpickle(io.BytesIO(payload), "here")
    assert isinstance(value, Name)
    assert value.name == "mmengine.logging.HistoryBuffer.min"


def test_device_is_always_the_same_string(tmp_path: Path) -> None:
    payload = START + dictionary({"a": name("torch", "device") + text("cuda") + b"K\x01\x86R"}) + b"."
    with pytest.raises(UnknownCheckpoint, match="a dictionary of a"):
        yolopose.load(zipped(payload, tmp_path / "net.pt"))


def shared_tuples(levels: int) -> bytes:
    """((..., ...), (..., ...)): one tuple per level in memory, 2^levels in a complete walk."""
    return b")q\x00" + levels * b"0h\x00h\x00\x86q\x00"


def shared_lists(levels: int) -> bytes:
    return b"]q\x00" + levels * b"0](h\x00h\x00eq\x00"


def called(module: str, function: str, argument: bytes, times: int) -> bytes:
    """``function(argument)`` called ``times`` times, all results kept."""
    start = argument + b"q\x000" + name(module, function) + b"q\x010]"
    return START + start + times * b"h\x01h\x00\x85Ra" + b"."


def string_bomb() -> bytes:
    device = name("torch", "device")
    return START + text("a") + b"q\x00" + 60 * (device + b"h\x00h\x00\x86Rq\x000h\x00") + b"."


def colliding() -> bytes:
    """Keys with equal hashes: each is compared with all previous ones."""
    return START + b"}" + b"".join(number(k * (2**61 - 1)) + b"Ns" for k in range(1, 50_000)) + b"."


BOMBS: dict[str, Callable[[], bytes]] = {
    "string that doubles": string_bomb,
    "device of shared lists": lambda: START + name("torch", "device") + shared_lists(60) + b"\x85R.",
    "type of shared lists": lambda: START + name("numpy", "dtype") + shared_lists(60) + b"\x85R.",
    "hash of shared tuples": lambda: START + b"}" + shared_tuples(60) + b"K\x01s.",
    "hash of shared tuples, many": lambda: START + b"}(" + shared_tuples(60) + b"K\x01u.",
    "hash of shared tuples, DICT": lambda: START + b"(" + shared_tuples(60) + b"K\x01d.",
    "hash of shared tuples, set": lambda: START + name("builtins", "set") + b"]" + shared_tuples(60) + b"a\x85R.",
    "hash of shared tuples, ADDITEMS": lambda: b"\x80\x04\x8f(" + shared_tuples(60) + b"\x90.",
    "hash of shared tuples, FROZENSET": lambda: b"\x80\x04(" + shared_tuples(60) + b"\x91.",
    "hash of nested tuples": lambda: START + b"})" + 500_000 * b"\x85" + b"K\x01s.",
    "hashes that collide": colliding,
    "nested lists": lambda: START + 500_000 * b"]" + 499_999 * b"a" + b".",
    "endless opcodes": lambda: START + 5_000_000 * b"]" + b".",
    "memo index": lambda: START + b"}r\xff\xff\xff\x7f.",
    "memo index in decimal": lambda: START + b"}p999999999999\n.",
    "length of bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x.",
    "length of a bytearray": lambda: b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "length of a string": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "copies of a set": lambda: called("builtins", "set", b"](" + b"".join(map(number, range(20_000))) + b"e", 20_000),
    "copies of a size": lambda: called("torch", "Size", b"](" + 100_000 * b"N" + b"e", 20_000),
    "copies of bytes": lambda: (
        START + name("_codecs", "encode") + b"q\x000" + text(1_000_000 * "a") + text("latin1") + b"\x86q\x010]"
        + 5_000 * b"h\x00h\x01Ra" + b"."
    ),
    "arguments": lambda: START + b"(" + 200_000 * b"N" + b"tq\x000" + name("numpy", "ndarray") + b"q\x010"
    + name("torch._utils", "_rebuild_parameter") + b"q\x020]" + 50_000 * b"h\x02h\x00Ra" + b".",
    "schema": lambda: START + dictionary({"format": text("yolopose"), "schema": shared_lists(60)}) + b".",
    "key of a storage": lambda: START + b"(" + text("storage") + name("torch", "FloatStorage") + shared_lists(60)
    + text("cpu") + b"K\x01tQ.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_rejects_endless_time_and_memory(bomb: str, limited_process: LimitedProcess, tmp_path: Path) -> None:
    assert limited_process.load(zipped(BOMBS[bomb](), tmp_path / "net.pt")).startswith("refused: ")


@pytest.mark.parametrize("bomb", ["string that doubles", "hash of shared tuples", "length of bytes", "memo index"])
def test_rejects_endless_time_and_memory_in_the_older_stream(
    bomb: str, limited_process: LimitedProcess, tmp_path: Path
) -> None:
    assert limited_process.load(streamed(BOMBS[bomb](), tmp_path / "net.pt")).startswith("refused: ")
