"""Settings of a training: checks, keyword arguments, and documents of earlier runs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.training.small import SETTINGS
from yolopose.data.augment import AugmentSettings
from yolopose.training.settings import LossSettings, TrainSettings

# "settings" of a run.json that the first version of yolopose-train wrote.
FIRST_VERSION = """{
  "epochs": 3, "batch": 4, "seed": 7, "optimizer": "sgd", "lr": null, "final_lr": 0.02, "warmup": 3.0,
  "weight_decay": 0.05, "clip": 10.0, "precision": "fp32", "ema": 0.9998, "freeze_bn": false, "close_epochs": 10,
  "validate_every": 1,
  "augment": {"size": 64, "window": null, "mosaic": 1.0, "mosaic_scale": 0.5, "mixup": 0.0, "scale": [0.5, 1.5],
    "degrees": 10.0, "translate": 0.1, "mirror": 0.5, "hsv": [0.015, 0.7, 0.4], "pad": 114},
  "loss": {"keypoint_loss": "l1", "keypoint_weight": null, "robust": 0.3, "heatmaps": 1.0}
}"""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch", 0), ("validate_every", 0), ("seed", -1), ("warmup", float("nan")), ("warmup", -1.0),
        ("weight_decay", float("inf")), ("clip", float("nan")), ("close_epochs", -1), ("optimizer", "adam"),
        ("precision", "int8"), ("lr", 0.0), ("lr", float("nan")), ("ema", 1.0), ("final_lr", float("nan")),
    ],
)  # fmt: skip
def test_rejects_values_out_of_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        TrainSettings(**{name: value})  # type: ignore[arg-type]


def test_dictionary_round_trip() -> None:
    settings = replace(SETTINGS, lr=0.1, freeze_bn=True)
    assert TrainSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_reads_settings_of_the_first_version() -> None:
    """Resuming compares the settings of run.json with those in last.pt, so every key and value must be the same."""
    document = json.loads(FIRST_VERSION)
    settings = TrainSettings.from_dict(document)
    augment = AugmentSettings(size=64, scale=(0.5, 1.5), hsv=(0.015, 0.7, 0.4))
    loss = LossSettings(keypoint_loss="l1")
    assert settings == TrainSettings(
        epochs=3, batch=4, seed=7, optimizer="sgd", precision="fp32", augment=augment, loss=loss
    )
    assert settings.to_dict() == document


def test_takes_keyword_arguments_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        TrainSettings(300, 64)  # type: ignore[misc]
