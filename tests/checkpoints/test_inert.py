"""Hostile pickles: whatever the shape of the attack, nothing runs and the message names what would have been called."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import yolopose
from yolopose.checkpoints.pickle_machine import unpickle
from yolopose.checkpoints.pickle_values import ALLOWED, Call, InertTensor, Name, StandIn, stand_in_name
from yolopose.runtime.errors import CheckpointError, UnsafeCheckpoint

from .pickles import containers, name, text

MARKER = "YOLOPOSE_PICKLE_RAN"


class Calls:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


LOG = name("mmengine.logging", "HistoryBuffer") + text("min")
GETATTR = name("builtins", "getattr")
RUN = f"__import__('os').environ.__setitem__('{MARKER}', '1')"
SET = text(MARKER) + text("1")
ATTACKS = {  # pickle, what the message must name
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
def test_hostile_pickle_is_refused_by_name(attack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_senseless_pickle_is_damaged(damage: str, tmp_path: Path) -> None:
    for path in containers(DAMAGED[damage], tmp_path):
        with pytest.raises(CheckpointError):
            yolopose.load(path)
    assert "get" not in vars(OrderedDict)


def test_allow_list_holds_nothing_that_acts() -> None:
    """No real function or class is on the list: it is all ours and inert, but for the names of PyTorch's types."""
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


def test_classes_with_source_text_of_the_older_stream() -> None:
    """Before the zip archive, torch.save wrote a class as an outside reference together with its source text."""
    model = b"(" + text("module") + name("models.yolo", "Model") + text("yolo.py") + text("import os") + b"tQ"
    value = unpickle(io.BytesIO(b"\x80\x02" + model + b")\x81."), "here")
    assert stand_in_name(value) == "models.yolo.Model"
    for other in (name("collections", "OrderedDict"), name("torch", "FloatStorage")):
        payload = b"\x80\x02(" + text("module") + other + text("a") + text("b") + b"tQ."
        with pytest.raises(CheckpointError, match="not a tensor's storage"):
            unpickle(io.BytesIO(payload), "here")


def test_real_torch_modules_and_numpy_values_are_data() -> None:
    numpy = pytest.importorskip("numpy")
    content = {
        "net": torch.nn.ReLU(),
        "size": torch.Size((2, 3)),
        "array": numpy.arange(6, dtype="float32").reshape(2, 3).T,
        "scalar": numpy.float64(0.5),
        "objects": numpy.array([{}], dtype=object),
        "dtype": torch.float16,
        "tags": {1, 2},
    }
    read = unpickle(io.BytesIO(pickle.dumps(content, 2)), "here")
    assert stand_in_name(read["net"]) == "torch.nn.modules.activation.ReLU"
    assert read["size"] == (2, 3)
    assert numpy.array_equal(read["array"].value(), content["array"])
    assert read["scalar"] == 0.5
    assert read["objects"].value() is None
    assert read["dtype"] is torch.float16
    assert read["tags"] == {1, 2}


def test_methods_of_training_logs_are_names() -> None:
    payload = b"\x80\x02" + GETATTR + LOG + b"\x86R."
    value = unpickle(io.BytesIO(payload), "here")
    assert isinstance(value, Name)
    assert value.name == "mmengine.logging.HistoryBuffer.min"


def test_tensors_become_descriptions(tmp_path: Path) -> None:
    from yolopose.checkpoints.archive import read_document

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
