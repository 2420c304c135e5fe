"""The input of a network."""

from __future__ import annotations

import pytest

from yolopose.model.config import BGR_BYTES, RGB_UNIT, InputSpec


@pytest.mark.parametrize("spec", [BGR_BYTES, RGB_UNIT])
def test_survives_a_dictionary(spec: InputSpec) -> None:
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
def test_what_cannot_be(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes)) if "multiple" not in changes else "multiple"):
        InputSpec(**changes)
