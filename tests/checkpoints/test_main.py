"""``python -m yolopose.checkpoints``: writes a network as a yolopose checkpoint, at full or half size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import yolopose
from yolopose.checkpoints.__main__ import main
from yolopose.model.sizes import SIZES

from ..model.tables import small_config


def test_half_is_half_the_size_and_loads_as_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    net = yolopose.build(replace(SIZES["yolox-pose-nano"], width=0.125))
    norm = next(module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_var.fill_(1e6)  # beyond float16
    yolopose.save(net, tmp_path / "last.pt", training={"step": 3, "moments": torch.zeros(1000)})
    assert main([str(tmp_path / "last.pt"), "--output", str(tmp_path / "full.pt")]) == 0
    assert main([str(tmp_path / "last.pt"), "--output", str(tmp_path / "half.pt"), "--half", "--license", "MIT"]) == 0
    assert "MB" in capsys.readouterr().out
    full, half = yolopose.load(tmp_path / "full.pt"), yolopose.load(tmp_path / "half.pt")
    assert (tmp_path / "half.pt").stat().st_size < 0.62 * (tmp_path / "full.pt").stat().st_size
    assert (full.weights_licence, half.weights_licence) == (None, "MIT")
    for name, tensor in net.state_dict().items():
        assert torch.equal(full.state_dict()[name], tensor)
        stored = half.state_dict()[name]
        assert stored.dtype == tensor.dtype
        expected = tensor.half().float() if tensor.ndim > 1 else tensor
        assert torch.equal(stored, expected)


def test_rejects_a_file_that_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pt").write_bytes(b"no")
    assert main([str(tmp_path / "a.pt"), "--output", str(tmp_path / "b.pt")]) == 1
    assert "a.pt" in capsys.readouterr().err
    assert not (tmp_path / "b.pt").exists()


def test_widen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = yolopose.build(replace(SIZES["yolox-pose-nano"], width=0.125)).eval()
    net.weights_licence = "MIT"
    yolopose.save(net, tmp_path / "narrow.pt")
    words = [str(tmp_path / "narrow.pt"), "--output", str(tmp_path / "wide.pt"), "--widen"]
    assert main([*words, "1"]) == 2
    assert "at least 2, got 1" in capsys.readouterr().err
    assert not (tmp_path / "wide.pt").exists()
    assert main([*words, "2"]) == 0
    wide = yolopose.load(tmp_path / "wide.pt")
    assert (wide.config.name, wide.weights_licence) == ("yolox-pose-nano", "MIT")
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        for before, after in zip(net(images), wide(images), strict=True):
            torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-3)


def test_a_network_that_cannot_be_widened_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yolopose.save(yolopose.build(small_config("yolov8-pose")), tmp_path / "net.pt")
    assert main([str(tmp_path / "net.pt"), "--output", str(tmp_path / "wide.pt"), "--widen", "2"]) == 2
    assert "cannot be widened: its layers come from a layer table" in capsys.readouterr().err
    assert main(["demo", "--output", str(tmp_path / "wide.pt"), "--widen", "two"]) == 2
    assert not (tmp_path / "wide.pt").exists()


def test_the_old_spelling_of_license_is_accepted(tmp_path: Path) -> None:
    assert main(["demo", "--output", str(tmp_path / "net.pt"), "--license", "MIT"]) == 0
    assert yolopose.load(tmp_path / "net.pt").weights_licence == "MIT"
