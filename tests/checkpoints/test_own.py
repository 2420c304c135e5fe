"""The checkpoint of yolopose: round trips, what cannot be saved, damage, and the demo network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import yolopose
from yolopose.checkpoints import read_extra
from yolopose.model.pose_net import fuse_conv_bn
from yolopose.runtime.errors import CheckpointError, OutputError
from yolopose.runtime.skeleton import LSP_14, generic_skeleton

from .small_nets import saved, small_net


@pytest.mark.parametrize("name", ["yolox-pose-nano", "yolov5s6-pose", "yolov5s6-pose-ti-lite", "yolov7-w6-pose"])
@torch.no_grad()
def test_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    net = small_net(name, classes=("person", "dog"), skeleton=generic_skeleton(5))
    net.weights_licence = "GPL-3.0"
    yolopose.save(net, tmp_path / "net.pt")
    read = yolopose.load(tmp_path / "net.pt")
    assert read.config == net.config
    assert read.weights_licence == "GPL-3.0"
    assert read.source_format == "new"
    images = torch.rand(1, 3, 128, 64)
    assert all(torch.equal(a, b) for a, b in zip(read(images), net(images), strict=True))


def test_equal_networks_give_equal_bytes_and_different_ones_do_not(tmp_path: Path) -> None:
    yolopose.save(small_net(), tmp_path / "a.pt")
    yolopose.save(small_net(), tmp_path / "b.pt")
    yolopose.save(yolopose.load(tmp_path / "a.pt"), tmp_path / "c.pt")
    contents = {(tmp_path / name).read_bytes() for name in ("a.pt", "b.pt", "c.pt")}
    assert len(contents) == 1
    yolopose.save(small_net(classes=("dog",)), tmp_path / "d.pt")
    assert (tmp_path / "d.pt").read_bytes() not in contents


def test_torch_load_reads_it_with_weights_only(tmp_path: Path) -> None:
    yolopose.save(small_net(), tmp_path / "net.pt", epoch=3, momentum={"a": torch.ones(2)})
    document = torch.load(tmp_path / "net.pt", weights_only=True)
    assert (document["format"], document["schema"]) == ("yolopose", 1)
    assert json.loads(document["config"])["family"] == "yolox-pose"
    assert type(document["state_dict"]) is dict
    extra = read_extra(tmp_path / "net.pt")
    assert extra["epoch"] == 3
    assert torch.equal(extra["momentum"]["a"], torch.ones(2))


def test_an_imported_network_keeps_its_origin(checkpoints: Path, tmp_path: Path) -> None:
    net = yolopose.load(checkpoints / "edgeai_yolov5_s6_pose_narrow.pt")
    yolopose.save(net, tmp_path / "own.pt")
    read = yolopose.load(tmp_path / "own.pt")
    assert (read.source_format, read.weights_licence) == ("edgeai-yolov5", "GPL-3.0")
    assert read.config == net.config
    assert read.weights_sha256 != net.weights_sha256


def test_skeleton_of_the_caller_replaces_the_stored_one(tmp_path: Path) -> None:
    yolopose.save(small_net(skeleton=generic_skeleton(14)), tmp_path / "net.pt")
    assert yolopose.load(tmp_path / "net.pt").skeleton == generic_skeleton(14)
    assert yolopose.load(tmp_path / "net.pt", skeleton=LSP_14).skeleton == LSP_14


def test_rejects_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unfused"):
        yolopose.save(fuse_conv_bn(small_net()), tmp_path / "net.pt")
    with pytest.raises(ValueError, match="plain values"):
        yolopose.save(small_net(), tmp_path / "net.pt", where=Path("x"))
    with pytest.raises(OutputError):
        yolopose.save(small_net(), tmp_path / "absent" / "net.pt")
    assert list(tmp_path.iterdir()) == []


def test_rejects_keys_that_load_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is used as a key"):
        yolopose.save(small_net(), tmp_path / "net.pt", state={(1, 2): 3})
    yolopose.save(small_net(), tmp_path / "net.pt", state={1: {None: 2.5, "a": (1, 2)}})
    assert read_extra(tmp_path / "net.pt") == {"state": {1: {None: 2.5, "a": (1, 2)}}}
    yolopose.load(tmp_path / "net.pt")


def test_rejects_damage_and_newer_schemas(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    yolopose.save(small_net(), path)
    document = torch.load(path, weights_only=True)
    torch.save({**document, "schema": 2}, path)
    with pytest.raises(CheckpointError, match="schema 2"):
        yolopose.load(path)
    for broken in ("{", "{}", "[]", json.dumps({**json.loads(document["config"]), "family": "other"})):
        torch.save({**document, "config": broken}, path)
        with pytest.raises(CheckpointError, match="damaged"):
            yolopose.load(path)
    torch.save({**document, "state_dict": 3}, path)
    with pytest.raises(CheckpointError, match="state dict is damaged"):
        yolopose.load(path)
    torch.save({"other": 1}, path)
    with pytest.raises(CheckpointError, match="not a yolopose checkpoint"):
        read_extra(path)


def test_rejects_an_endless_description(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="description of the network is damaged") as caught:
        yolopose.load(saved(tmp_path, config="[" * 100_000))
    assert isinstance(caught.value.__cause__, RecursionError)


def test_demo_network_ships_with_the_package() -> None:
    net = yolopose.load("demo")
    assert (net.source_format, net.config.name, net.skeleton, net.input.size) == (
        "demo",
        "yolox-pose-nano",
        LSP_14,
        256,
    )
    assert not net.training
