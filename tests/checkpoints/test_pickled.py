"""Pickled networks: edited files of edgeai-yolov5 and yolov7, and modules that contain each other."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import yolopose
from yolopose.checkpoints.archive import Document
from yolopose.checkpoints.pickle_machine import unpickle
from yolopose.checkpoints.pickled import modules_of
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint

from .pickles import START, Invented, dictionary, name, text

PLAIN = "edgeai_yolov5_s6_pose_narrow.pt"
LITE = "edgeai_yolov5_s6_pose_ti_lite_narrow.pt"
W6 = "yolov7_w6_pose_narrow.pt"


@pytest.fixture(autouse=True)
def invented_repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for package in ("models", "models.common", "models.yolo"):
        monkeypatch.setitem(sys.modules, package, Invented(package))
    return


def stored(path: Path) -> dict[str, Any]:
    return torch.load(path, map_location="cpu", weights_only=False)


def layers(document: dict[str, Any]) -> Any:
    return document["model"].model


@pytest.mark.parametrize("name", [PLAIN, LITE, W6])
def test_other_numbers_of_keypoints_classes_and_anchors(name: str, checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / name)
    head = layers(document)[-1]
    head.nkpt, head.nc, document["model"].names = 5, 2, ["person", "dog"]
    head.anchor_grid = torch.arange(1.0, 17).view(4, 1, 2, 1, 1, 2)
    head.anchors = torch.ones(4, 2, 2)
    for level in range(4):
        channels = head.m[level].in_channels
        head.m[level] = nn.Conv2d(channels, 2 * (5 + 2), 1)
        output = nn.Conv2d(channels, 2 * 3 * 5, 1)
        if isinstance(head.m_kpt[level], nn.Sequential):
            head.m_kpt[level][11] = output
        else:
            head.m_kpt[level] = output
        if name == W6:
            head.im[level].implicit = nn.Parameter(torch.full((1, 14, 1, 1), 2.0))
    torch.save(document, tmp_path / name)
    net = yolopose.load(tmp_path / name)
    assert net.classes == ("person", "dog")
    assert net.skeleton.name == "generic-5"
    assert net.config.anchors[0] == ((1.0, 2.0), (3.0, 4.0))
    with torch.no_grad():
        predictions = net(torch.rand(1, 3, 64, 64))
    assert predictions.keypoints.shape == (1, 2 * 85, 5, 2)
    assert predictions.scores.shape == (1, 2 * 85, 2)


def test_averaged_network_is_used(checkpoints: Path, tmp_path: Path) -> None:
    document, average = stored(checkpoints / PLAIN), stored(checkpoints / PLAIN)["model"]
    average.model[1].conv.weight.data.fill_(0.25)
    document["ema"] = average
    document["optimizer"] = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []}
    torch.save(document, tmp_path / "last.pt")
    weight = yolopose.load(tmp_path / "last.pt").state_dict()["backbone.down2.conv.weight"]
    assert set(weight.flatten().tolist()) == {0.25}


def test_focus_without_contract_has_the_other_order(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / PLAIN)
    assert yolopose.load(checkpoints / PLAIN).config.focus_order == "rows"
    del layers(document)[0].contract
    torch.save(document, tmp_path / "old.pt")
    assert yolopose.load(tmp_path / "old.pt").config.focus_order == "columns"


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_older_stream_gives_the_same_network(checkpoints: Path, tmp_path: Path) -> None:
    torch.save(stored(checkpoints / W6), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old, new = yolopose.load(tmp_path / "old.pt"), yolopose.load(checkpoints / W6)
    assert old.config == new.config
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))


def change_epsilon(document: dict[str, Any]) -> None:
    layers(document)[1].bn.eps = 1e-5


def change_layer(document: dict[str, Any]) -> None:
    layers(document)[1], layers(document)[2] = layers(document)[2], layers(document)[1]


def change_source(document: dict[str, Any]) -> None:
    layers(document)[14].f = [-1, 6]


def drop_layer(document: dict[str, Any]) -> None:
    del layers(document)[5]


def change_activation(document: dict[str, Any]) -> None:
    layers(document)[3].act = nn.Hardswish()


def mix_activations(document: dict[str, Any]) -> None:
    layers(document)[3].act = nn.ReLU()


def change_shortcut(document: dict[str, Any]) -> None:
    layers(document)[15].m[0].add = True


def change_pools(document: dict[str, Any]) -> None:
    layers(document)[10].m[2] = nn.MaxPool2d(13, 1, 6)


def drop_width(document: dict[str, Any]) -> None:
    del document["model"].yaml["width_multiple"]


def drop_anchors(document: dict[str, Any]) -> None:
    del layers(document)[33].anchor_grid


def change_width(document: dict[str, Any]) -> None:
    document["model"].yaml["width_multiple"] = 0.5


def spoil_modules(document: dict[str, Any]) -> None:
    document["model"]._buffers = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_epsilon, r"model\.1\.bn has epsilon 1e-05"),
        (change_layer, "layer 1 is C3 with input -1"),
        (change_source, r"layer 14 is Concat with input \[-1, 6\]"),
        (drop_layer, "the network has 33 layers"),
        (change_activation, "Hardswish"),
        (mix_activations, "'ReLU', 'SiLU'"),
        (change_shortcut, "a block of layer 15 adds its input"),
        (change_pools, r"pooling windows \[3, 5, 13\] are not supported"),
        (drop_width, "the model description has no valid width_multiple"),
        (drop_anchors, "lacks its anchors"),
        (change_width, "in the file"),
        (spoil_modules, "damaged"),
    ],
)
def test_rejects_other_networks(change: Any, message: str, checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / PLAIN)
    change(document)
    torch.save(document, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match=message):
        yolopose.load(tmp_path / "changed.pt")


@pytest.mark.parametrize(("kind", "channels"), [("ia", 3), ("im", 1), ("im", 1000)])
def test_rejects_implicit_vectors_that_do_not_fit(kind: str, channels: int, checkpoints: Path, tmp_path: Path) -> None:
    """A vector that broadcasts would give other values, or a product of any size."""
    document = stored(checkpoints / W6)
    getattr(layers(document)[118], kind)[2].implicit = nn.Parameter(torch.zeros(1, channels, 1, 1))
    torch.save(document, tmp_path / "changed.pt")
    with pytest.raises(CheckpointError, match="implicit vectors of level 2"):
        yolopose.load(tmp_path / "changed.pt")


def test_rejects_a_detector_without_keypoints(checkpoints: Path, tmp_path: Path) -> None:
    document = stored(checkpoints / PLAIN)
    del layers(document)[33].m_kpt
    torch.save(document, tmp_path / "detector.pt")
    with pytest.raises(UnknownCheckpoint, match="with a Model network"):
        yolopose.load(tmp_path / "detector.pt")


def module(children: bytes) -> bytes:
    return name("models.yolo", "Model") + b")\x81}" + text("_modules") + children + b"sb"


def test_rejects_modules_without_end() -> None:
    """Twenty levels, each containing the next one twice; and a module that contains itself."""
    document = Document(Path("nowhere"), None, {}, "")
    network = module(b"}") + b"q\x00"
    for _ in range(20):
        network += b"0" + module(dictionary({"a": b"h\x00", "b": b"h\x00"})) + b"q\x00"
    ring = name("models.yolo", "Model") + b")\x81q\x00}" + text("_modules") + dictionary({"a": b"h\x00"}) + b"sb"
    for payload in (network, ring):
        with pytest.raises(CheckpointError, match="network is damaged at"):
            modules_of(unpickle(io.BytesIO(START + payload + b"."), "here"), document)
