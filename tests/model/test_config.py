"""The configuration of a network and of its input."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from yolopose.model.config import BGR_BYTES, RGB_UNIT, InputSpec, NetConfig
from yolopose.model.sizes import SIZES
from yolopose.runtime.skeleton import LSP_14

from .tables import TABLES, small_config


@pytest.mark.parametrize("spec", [BGR_BYTES, RGB_UNIT])
def test_input_survives_a_round_trip(spec: InputSpec) -> None:
    assert InputSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "changes",
    [
        {"channel_order": "hsv"},
        {"pad_side": "left"},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"pad_value": 256},
        {"multiple": 0},
        {"size": 100},
    ],
)
def test_rejects_invalid_input(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        InputSpec(**changes)


@pytest.mark.parametrize("config", [*SIZES.values(), *map(small_config, TABLES)], ids=lambda config: config.name)
def test_config_survives_json(config: NetConfig) -> None:
    config = replace(config, skeleton=LSP_14, classes=("a", "b"))
    assert NetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "other"}, "family must be one of"),
        ({"head": "anchor"}, "head of a yolox-pose network must be one of .*, got 'anchor'"),
        ({"depth": 0.0}, "depth and width must lie in 0..8.0, got 0.0 and 0.5"),
        ({"width": float("nan")}, "depth and width must lie in 0..8.0, got 0.33 and nan"),
        ({"activation": "tanh"}, "activations must be one of .*, got 'tanh' and 'silu'"),
        ({"classes": ()}, "at least one class"),
    ],
)
def test_rejects_invalid_config(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SIZES["yolox-pose-s"], **change)


def test_a_layer_table_belongs_to_the_distance_head() -> None:
    config = small_config("yolov8-pose")
    with pytest.raises(ValueError, match="a layer table belongs to the head 'distance' and to no other"):
        replace(config, table=None)
    with pytest.raises(ValueError, match="a layer table belongs to the head 'distance' and to no other"):
        replace(SIZES["yolox-pose-s"], table=config.table)
    with pytest.raises(ValueError, match=r"head of a yolov8-pose network must be one of .*, got 'anchor'"):
        replace(config, head="anchor")
