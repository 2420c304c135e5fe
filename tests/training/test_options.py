"""Options of yolopose-train: flags are derived from the settings, and parsed arguments give the settings back."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from yolopose.data.augment import AugmentSettings
from yolopose.runtime.errors import UsageError
from yolopose.training.options import (
    check_resume,
    read_run_options,
    read_session_options,
    read_settings,
    train_parser,
)
from yolopose.training.settings import (
    AUGMENT_FLAGS,
    LossSettings,
    RunOptions,
    SessionOptions,
    TrainSettings,
)


def test_every_field_has_a_flag() -> None:
    """Except ``pad``, which the network decides, and the nested settings."""
    without = {
        (cls.__name__, field.name)
        for cls in (RunOptions, SessionOptions, TrainSettings, LossSettings)
        for field in fields(cls)
        if "flag" not in field.metadata
    }
    assert without == {("TrainSettings", "augment"), ("TrainSettings", "loss")}
    assert {field.name for field in fields(AugmentSettings)} - AUGMENT_FLAGS.keys() == {"pad"}


def test_defaults_are_those_of_the_settings() -> None:
    arguments = train_parser().parse_args([])
    settings = read_settings(arguments, size=640, pad=114, default_precision="bf16")
    assert settings == TrainSettings()
    assert read_session_options(arguments) == SessionOptions()


def test_values_of_every_type() -> None:
    words = (
        "--epochs 5 --lr 0.1 --optimizer sgd --freeze-bn --precision fp32 --keypoint-loss l1 --keypoint-weight 2 "
        "--scale 0.5 2 --hsv 0 0.1 0.2 --window 96 --mosaic-scale 0.7 --close-epochs 3 --imgsz 128 "
        "--output runs/a --workers 2 --no-tensorboard --max-minutes 1.5"
    )
    arguments = train_parser().parse_args(words.split())
    assert arguments.imgsz == 128
    assert read_settings(arguments, size=128, pad=0, default_precision="bf16") == TrainSettings(
        epochs=5,
        lr=0.1,
        optimizer="sgd",
        freeze_bn=True,
        precision="fp32",
        close_epochs=3,
        loss=LossSettings(keypoint_loss="l1", keypoint_weight=2.0),
        augment=AugmentSettings(size=128, pad=0, scale=(0.5, 2.0), hsv=(0.0, 0.1, 0.2), window=96, mosaic_scale=0.7),
    )
    assert read_session_options(arguments) == SessionOptions(
        output=Path("runs/a"), workers=2, no_tensorboard=True, max_minutes=1.5
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mosaic", "2"], "mosaic is a probability"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--robust", "-1"], "robust must be a weight of 0 or more"),
    ],
)
def test_values_out_of_range_are_usage_errors(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_settings(train_parser().parse_args(words), size=640, pad=114, default_precision="fp32")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = train_parser().parse_args(["--data", "a.json:b", "c.yaml", "synthetic:3", "--val", "d.json"])
    options = read_run_options(given)
    here = str(tmp_path)
    assert options.data == [f"{here}/a.json:{here}/b", f"{here}/c.yaml", "synthetic:3"]
    assert (options.val, options.images) == (f"{here}/d.json", None)


def test_resume_accepts_only_options_of_a_session() -> None:
    session = "--resume a --device cpu --threads 1 --workers 0 --max-minutes 2 --no-tensorboard --json"
    run = "--data a.json --output b --epochs 3"
    both = "--resume a --output b --epochs 3 --val c --device cpu"
    check_resume(session.split())
    check_resume(run.split())
    with pytest.raises(UsageError, match="leave ") as raised:
        check_resume(both.split())
    assert set(re.findall(r"--[a-z]+", str(raised.value))) == {"--resume", "--output", "--epochs", "--val"}
