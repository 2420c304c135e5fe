"""Checkpoints of Ultralytics: small ones written by it, and edited ones as training or other versions write them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import yolopose
from yolopose.benchmarks.studies.ultralytics_parity import forward_deviation
from yolopose.model.layer_table import DistanceSettings
from yolopose.runtime.errors import CheckpointError, UnknownCheckpoint, UnsafeCheckpoint
from yolopose.runtime.skeleton import COCO_17

from ..ultralytics_files import frames, raw_of, unpacked
from .pickles import Invented

NAMES = ("yolov8n-pose", "yolo11n-pose", "yolo26n-pose")
V8, V11, V26 = (f"{name}.pt" for name in NAMES)
PACKAGES = (
    "",
    ".utils",
    ".nn",
    ".nn.tasks",
    ".nn.modules",
    ".nn.modules.conv",
    ".nn.modules.block",
    ".nn.modules.head",
)
Change = Callable[[dict[str, Any], Any], None]


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Change], Path]:
    """A function that edits a file by ``change(document, layers)``, with placeholders for Ultralytics' classes."""

    def edit(name: str, change: Change) -> Path:
        with monkeypatch.context() as patch:
            for package in PACKAGES:
                patch.setitem(sys.modules, f"ultralytics{package}", Invented(f"ultralytics{package}"))
            document = torch.load(unpacked(name, tmp_path), map_location="cpu", weights_only=False)
            change(document, document["model"].model)
            path = tmp_path / f"edited-{name}"
            torch.save(document, path)
        return path

    return edit


@pytest.mark.parametrize("name", NAMES)
def test_forward_pass_equals_ultralytics(name: str, tmp_path: Path) -> None:
    pixels, scores = forward_deviation(unpacked(f"{name}.pt", tmp_path), frames()[0], raw_of(name))
    assert pixels <= 1e-3
    assert scores <= 1e-5


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (NAMES[0], DistanceSettings(64, 8, 51, bins=16)),
        (NAMES[1], DistanceSettings(64, 8, 51, bins=16, depthwise_classes=True)),
        (NAMES[2], DistanceSettings(16, 8, 85, bins=1, depthwise_classes=True, half_cell=True, one_to_one=True)),
    ],
)
def test_facts_come_from_the_file(name: str, head: DistanceSettings, tmp_path: Path) -> None:
    net = yolopose.load(unpacked(f"{name}.pt", tmp_path))
    assert net.config.name == name
    assert net.config.family == f"{name.removesuffix('n-pose')}-pose"
    assert net.config.table is not None
    assert net.config.table.head == head
    assert net.config.table.strides == (8, 16, 32)
    assert (net.input.channel_order, net.input.scale, net.input.pad_side) == ("rgb", 1 / 255, "center")
    assert (net.input.multiple, net.input.size) == (32, 640)
    assert net.skeleton == COCO_17
    assert net.one_to_one == head.one_to_one
    assert net.weights_licence == "AGPL-3.0 License (https://ultralytics.com/license)"
    assert net.source_format == "ultralytics"
    assert not net.training


@pytest.mark.parametrize("name", NAMES)
def test_yolopose_checkpoint_of_it_is_the_same_network(name: str, tmp_path: Path) -> None:
    net = yolopose.load(unpacked(f"{name}.pt", tmp_path))
    yolopose.save(net, tmp_path / "own.pt")
    again = yolopose.load(tmp_path / "own.pt")
    assert again.config == net.config
    assert again.weights_licence == net.weights_licence
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 96)
        for a, b in zip(net(x), again(x), strict=True):
            assert torch.equal(a, b)


def test_reads_the_averaged_network_and_training_settings(edited: Callable[[str, Change], Path]) -> None:
    def change(document: dict[str, Any], layers: Any) -> None:
        document["ema"], document["model"] = document["model"], None
        document["train_args"] = {"imgsz": 300, "data": PurePosixPath("data/athletes.yaml")}
        document["ema"].names = {0: "athlete"}
        made = type("IterableSimpleNamespace", (SimpleNamespace,), {"__module__": "ultralytics.utils"})
        sys.modules["ultralytics.utils"].IterableSimpleNamespace = made  # type: ignore[attr-defined]
        document["ema"].args = made(imgsz=320, task="pose")
        document.pop("license")

    net = yolopose.load(edited(V8, change))
    assert net.input.size == 288  # the multiple of 32 below
    assert net.classes == ("athlete",)
    assert net.weights_licence == "AGPL-3.0 (Ultralytics' own; the file does not say)"


def test_other_keypoints_and_classes(edited: Callable[[str, Change], Path]) -> None:
    def change(document: dict[str, Any], layers: Any) -> None:
        head = layers[-1]
        head.kpt_shape, head.nc, document["model"].names = [5, 3], 2, {0: "cat", 1: "dog"}
        for level in range(3):
            head.cv3[level][2] = nn.Conv2d(head.cv3[level][2].in_channels, 2, 1)
            head.cv4[level][2] = nn.Conv2d(head.cv4[level][2].in_channels, 15, 1)

    net = yolopose.load(edited(V11, change))
    assert net.classes == ("cat", "dog")
    assert net.skeleton.name == "generic-5"


@pytest.mark.parametrize("name", [V8, V26])
def test_keypoints_without_visibility_have_score_1(name: str, edited: Callable[[str, Change], Path]) -> None:
    def change(document: dict[str, Any], layers: Any) -> None:
        head = layers[-1]
        head.kpt_shape = [17, 2]
        for prefix in ("cv4_kpts", "one2one_cv4_kpts") if name == V26 else ("cv4",):
            for level in range(3):
                place = head._modules[prefix] if name == V26 else head._modules[prefix][level]
                conv = place[level if name == V26 else 2]
                for key in ("weight", "bias"):
                    conv._parameters[key] = nn.Parameter(
                        conv._parameters[key].unflatten(0, (17, 3))[:, :2].flatten(0, 1)
                    )

    with_visibility, without = yolopose.load(edited(name, lambda *_: None)), yolopose.load(edited(name, change))
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = (net(image) for net in (with_visibility, without))
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.keypoints, expected.keypoints)
    assert (found.keypoint_scores == 1).all()


@pytest.mark.parametrize("gone", [True, False])
def test_head_without_one_to_one_branch_needs_nms(gone: bool, edited: Callable[[str, Change], Path]) -> None:
    def change(document: dict[str, Any], layers: Any) -> None:
        for name in [name for name in layers[-1]._modules if name.startswith("one2one_")]:
            layers[-1]._modules[name] = None
            if gone:
                del layers[-1]._modules[name]

    net = yolopose.load(edited(V26, change))
    assert not net.one_to_one
    assert net.config.family == "yolo26-pose"


def _deleted(part: str) -> Change:
    def change(document: dict[str, Any], layers: Any) -> None:
        owner, _, name = part.rpartition(".")
        del layers.get_submodule(owner)._modules[name]

    return change


def _set(part: str, **values: Any) -> Change:
    def change(document: dict[str, Any], layers: Any) -> None:
        vars(layers.get_submodule(part)).update(values)

    return change


def _added(part: str, module: nn.Module) -> Change:
    def change(document: dict[str, Any], layers: Any) -> None:
        layers.get_submodule(part)._modules["9"] = module

    return change


def _renamed(part: str, name: str) -> Change:
    def change(document: dict[str, Any], layers: Any) -> None:
        module = layers.get_submodule(part)
        made = type(name, (nn.Module,), {"__module__": "ultralytics.nn.modules.block"})
        setattr(sys.modules["ultralytics.nn.modules.block"], name, made)
        module.__class__ = made

    return change


def _activation(module: nn.Module) -> Change:
    def change(document: dict[str, Any], layers: Any) -> None:
        layers[0].act = module

    return change


def _fused(document: dict[str, Any], layers: Any) -> None:
    """The state after Ultralytics' ``fuse``: no batch norm, and ``forward`` is another method of the object."""
    for module in layers.modules():
        if module._modules.pop("bn", None) is not None:
            type(module).forward_fuse = nn.Module.forward
            module.forward = module.forward_fuse


def _bins(document: dict[str, Any], layers: Any) -> None:
    layers[-1].dfl.conv.weight.data += 1


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        (V8, _renamed("2", "A2C2f"), CheckpointError, "layer 2 is A2C2f; supported are the layers of YOLOv8, YOLO11"),
        (V8, _renamed("22", "Detect"), UnknownCheckpoint, "for PoseModel ending in Detect, not for poses"),
        (V8, _set("22", kpt_shape=[17, 4]), CheckpointError, r"its keypoints are \[17, 4\]: \[K, 3\] or \[K, 2\]"),
        (V8, _set("22", kpt_shape=[17, 2]), CheckpointError, "has 51 rows, not 34"),
        (V8, _set("22", kpt_shape="many"), CheckpointError, "lacks its keypoints or classes"),
        (V8, _set("22", f=[15, 18, 99]), CheckpointError, "layers do not fit each other: the head takes the output"),
        (V8, _set("22", f=[18, 15, 21]), CheckpointError, "levels must be ordered finest first"),
        (V8, _set("22", f=15), CheckpointError, "the head takes 15, which is no list of layers"),
        (V8, _set("22", reg_max=8), CheckpointError, "64 box channels are not four distances of reg_max bins"),
        (
            V8,
            _set("22", stride=torch.tensor([4.0, 8.0, 16.0])),
            CheckpointError,
            "the strides of the head differ from those of its layers",
        ),
        (V8, _bins, CheckpointError, "bins of a distance are not 0 to 15"),
        (V8, _fused, CheckpointError, "batch norm is already folded into the convolutions"),
        (V8, _activation(nn.ReLU()), CheckpointError, "activation model.0.act is ReLU; SiLU is supported"),
        (V8, _set("11", f=[-1, 60]), CheckpointError, "inputs must be earlier layers"),
        (V8, _set("11", f=[-1, 2]), CheckpointError, "joins maps of strides"),
        (V8, _set("11", d=2), CheckpointError, "concatenates along axis 2; axis 1 is supported"),
        (V8, _set("10", mode="bilinear"), CheckpointError, "layer 10 upsamples; only factor 2, nearest, is supported"),
        (V8, _set("9", n=2), CheckpointError, "pools 2 times over 5"),
        (
            V8,
            _set("1.conv", dilation=(2, 2)),
            CheckpointError,
            "dilation, stride or padding of convolution model.1.conv is not",
        ),
        (
            V8,
            _set("4.cv1.conv", stride=(2, 2)),
            CheckpointError,
            "dilation, stride or padding of convolution model.4.cv1.conv is not",
        ),
        (V8, _set("1.bn", eps=1e-5), CheckpointError, "has epsilon 1e-05; 0.001 is supported"),
        (
            V8,
            _deleted("2.cv2"),
            CheckpointError,
            "tensor 'model.2.cv2.conv.weight' of C2f pose networks is missing",
        ),
        (V8, _deleted("22.cv4.0.1"), CheckpointError, "do not fit the network that they describe"),
        (V11, _set("10.m.0.attn", num_heads=2), CheckpointError, "has 2 heads, "),
        (V11, _set("10.m.0.attn", scale=1.0), CheckpointError, "and scale 1.0"),
        (V11, _set("10.m.0.attn", num_heads=1 << 50), CheckpointError, "heads, "),
        (
            V11,
            _renamed("4.m.0", "Bottleneck_SimAM"),
            CheckpointError,
            "model.4.m.0 is Bottleneck_SimAM, which is not supported in ModuleList",
        ),
        (
            V8,
            _renamed("4.cv1", "ConvSimAM"),
            CheckpointError,
            "model.4.cv1 is ConvSimAM, which is not supported in C2f",
        ),
        (
            V8,
            _renamed("4.cv1.bn", "SyncBatchNorm"),
            CheckpointError,
            "model.4.cv1.bn is SyncBatchNorm, which is not supported",
        ),
        (
            V8,
            _added("22.cv2.0", nn.Dropout()),
            CheckpointError,
            "model.22.cv2.0.9 is Dropout, which is not supported in",
        ),
        (V8, _set("9.m", dilation=2), CheckpointError, "pools 3 times over 5"),
        (V8, _set("9.m", ceil_mode=True), CheckpointError, "pools 3 times over 5"),
        (V8, _set("4.m.0", add=None), CheckpointError, "does not say if it adds its input"),
        (V11, _set("10.m.0", add=False), CheckpointError, "some blocks of layer 10 add their input and others do not"),
        (V26, _deleted("23.one2one_cv4_kpts"), CheckpointError, "do not fit the network that they describe"),
    ],
)
def test_rejects_unsupported_networks(
    name: str, change: Change, error: type[Exception], message: str, edited: Callable[[str, Change], Path]
) -> None:
    with pytest.raises(error, match=message) as caught:
        yolopose.load(edited(name, change))
    assert re.search(r"edited-yolo\w+-pose\.pt", str(caught.value))


def test_nothing_of_the_file_runs(edited: Callable[[str, Change], Path]) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    with pytest.raises(UnsafeCheckpoint, match="print"):
        yolopose.load(edited(V8, lambda document, layers: document.update(extra=Trap())))


def _nested(depth: int) -> Any:
    value: Any = ()
    for _ in range(depth):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    "change",
    [_set("4.m.0", add=_nested(60)), _set("1.conv", kernel_size=(_nested(60), _nested(60))),
     _set("9.m", kernel_size=_nested(60)), _set("11", d=_nested(60)), _set("22", kpt_shape=[_nested(60), 3])],
)  # fmt: skip
def test_rejects_values_that_take_forever_to_compare(change: Change, edited: Callable[[str, Change], Path]) -> None:
    with pytest.raises(CheckpointError):
        yolopose.load(edited(V8, change))


def test_head_without_the_coarsest_level(edited: Callable[[str, Change], Path]) -> None:
    """Image sizes are multiples of 32 nevertheless: layers that the head does not use need whole cells too."""

    def change(document: dict[str, Any], layers: Any) -> None:
        head = layers[-1]
        head.f, head.stride = [15, 18], torch.tensor([8.0, 16.0])
        for part in (head.cv2, head.cv3, head.cv4):
            del part._modules["2"]

    net = yolopose.load(edited(V8, change))
    assert net.input.multiple == 32
    with torch.no_grad():
        assert net(torch.rand(1, 3, 96, 96)).boxes.shape == (1, 144 + 36, 4)


def test_names_the_task_of_a_detection_network(edited: Callable[[str, Change], Path]) -> None:
    def change(document: dict[str, Any], layers: Any) -> None:
        made = type("DetectionModel", (nn.Module,), {"__module__": "ultralytics.nn.tasks"})
        sys.modules["ultralytics.nn.tasks"].DetectionModel = made  # type: ignore[attr-defined]
        document["model"].__class__ = made
        _renamed("22", "Detect")(document, layers)

    with pytest.raises(UnknownCheckpoint, match="is a network of Ultralytics for detection, not for poses"):
        yolopose.load(edited(V8, change))
